"""Models under the latent-variable contract, one file each."""
