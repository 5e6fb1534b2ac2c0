"""Whole codecs: config, module and named variants."""
