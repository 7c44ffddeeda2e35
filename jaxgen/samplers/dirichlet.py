"""Dirichlet samples from normalised gamma samples, taken in logarithms."""

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_key
from jaxgen.core.types import Array, Key
from jaxgen.samplers import gamma


def sample(key: Key, concentration: Array, shape: tuple[int, ...] = ()) -> Array:
    r"""Draw from a Dirichlet distribution, exactly.

    .. math:: x_i = g_i / \sum_j g_j, \quad g_i \sim \Gamma(\alpha_i)

    Differentiable in `concentration`, by the implicit gradient of each gamma sample.

    Args:
      key: a typed key.
      concentration: α > 0, `[..., K]`; anything else gives NaN.
      shape: leading shape of independent draws.

    Returns:
      Points of the simplex, `[*shape, ..., K]`; `log_sample` keeps small coordinates from 0.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `concentration` is a scalar.

    >>> import jax
    >>> sample(jax.random.key(0), jnp.ones(4), (2,)).shape
    (2, 4)
    """
    return jnp.exp(log_sample(key, concentration, shape))


def log_sample(key: Key, concentration: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draw the logarithm of a Dirichlet sample; takes and raises what `sample` does."""
    check_key(key)
    if jnp.ndim(concentration) == 0:
        raise ValueError("concentration must have a last axis of categories, got a scalar")
    log_gamma = gamma.log_sample(key, concentration, (*shape, *jnp.shape(concentration)))
    return jax.nn.log_softmax(log_gamma, axis=-1)
