"""Linen building blocks, `b f t c -> b f t c`, with plain fields."""
