"""Samples in, named estimates with standard errors out."""
