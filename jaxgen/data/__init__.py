"""Data sets as arrays, batches as a function of (seed, step)."""
