"""Distributions of one coordinate, given what a network says of it, one file for a family."""
