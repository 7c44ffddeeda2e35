"""Flax modules that give distributions; never losses, never samples of data."""
