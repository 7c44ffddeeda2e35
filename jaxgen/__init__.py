"""Generative modelling by likelihood, in JAX, as pure functions.

Import what you use: `from jaxgen.samplers import ancestral`. Nothing heavy is imported here; Flax
comes with `jaxgen.models`, distrax with the latent-variable models.
"""

__version__ = "0.1.0"
