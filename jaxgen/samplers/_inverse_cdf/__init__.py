"""Numerical inversion of the CDF of any one-dimensional density."""
