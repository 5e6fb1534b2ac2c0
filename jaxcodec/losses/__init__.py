"""Losses: arrays in, one value per example out."""
