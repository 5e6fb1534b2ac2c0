"""Measures of quality and of code usage."""
