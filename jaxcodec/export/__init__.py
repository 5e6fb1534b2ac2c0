"""Weights into and out of other formats and runtimes."""
