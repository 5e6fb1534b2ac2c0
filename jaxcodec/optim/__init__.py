"""Optimizer ideas as Optax transformations."""
