"""Gradients of expectations."""
