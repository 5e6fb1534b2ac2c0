"""Sources of training audio."""
