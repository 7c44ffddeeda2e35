"""Lossless codes whose length is the negative log-likelihood."""
