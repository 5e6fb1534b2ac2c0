"""Codecs that others wrote, run through their own programs and libraries."""
