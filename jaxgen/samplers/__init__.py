"""Uniforms and keys in, samples out."""
