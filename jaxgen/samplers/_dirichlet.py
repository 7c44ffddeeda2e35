"""Dirichlet samples from normalized gamma samples, taken in logarithms."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._gamma import log_gamma
from jaxgen.samplers._shapes import result_shape


def dirichlet(key: Key, concentration: Array, shape: tuple[int, ...] | None = None) -> Array:
    r"""Draw from a Dirichlet distribution, exactly.

    .. math:: x_i = g_i / \sum_j g_j, \quad g_i \sim \Gamma(\alpha_i)

    Differentiable in `concentration`, by the implicit gradient of each gamma sample.

    Args:
      key: a typed key.
      concentration: α > 0, `[..., K]`; anything else gives NaN.
      shape: batch shape of the result, to which that of `concentration` must broadcast; by default
        that of `concentration`.

    Returns:
      Points of the simplex, `[*shape, K]`; `log_dirichlet` keeps small coordinates from 0.

    Raises:
      TypeError, ValueError: `key` is not one typed key, `concentration` is a scalar, or `shape`
        does not fit.

    >>> import jax
    >>> dirichlet(jax.random.key(0), jnp.ones(4), (2,)).shape
    (2, 4)
    """
    return jnp.exp(log_dirichlet(key, concentration, shape))


def log_dirichlet(key: Key, concentration: Array, shape: tuple[int, ...] | None = None) -> Array:
    """Draw the logarithm of a Dirichlet sample, which small concentrations do not underflow.

    Differentiable in `concentration`; the same key gives the logarithm of the draw of `dirichlet`.

    Args:
      key: a typed key.
      concentration: α > 0, `[..., K]`; anything else gives NaN.
      shape: batch shape of the result, to which that of `concentration` must broadcast; by default
        that of `concentration`.

    Returns:
      Log-probabilities (nats), `[*shape, K]`.

    Raises:
      TypeError, ValueError: `key` is not one typed key, `concentration` is a scalar, or `shape`
        does not fit.
    """
    check_key(key)
    if jnp.ndim(concentration) == 0:
        raise ValueError("concentration must have a last axis of categories, got a scalar")
    *batch_shape, num_categories = jnp.shape(concentration)
    shape = result_shape(shape, {"concentration without its last axis": tuple(batch_shape)})
    return jax.nn.log_softmax(log_gamma(key, concentration, (*shape, num_categories)), axis=-1)
