"""Models under the autoregressive contract."""
