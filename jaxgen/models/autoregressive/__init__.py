"""Models under the autoregressive contract, one file each."""
