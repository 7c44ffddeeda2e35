"""Beta samples from the ratio of two gamma samples, taken in logarithms."""

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_key
from jaxgen.core.types import Array, Key
from jaxgen.samplers import gamma


def sample(
    key: Key,
    concentration1: Array | float,
    concentration0: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    r"""Draw from a beta distribution, exactly.

    .. math:: x = \frac{g_1}{g_1 + g_0}, \quad g_1 \sim \Gamma(\alpha), \; g_0 \sim \Gamma(\beta)

    so that p(x) ∝ x^{α−1} (1 − x)^{β−1}. Differentiable in both concentrations, by the implicit
    gradient of each gamma sample.

    Args:
      key: a typed key.
      concentration1: α > 0, broadcast against `shape`; anything else gives NaN.
      concentration0: β > 0, likewise.
      shape: shape of the result; by default that of α and β broadcast together.

    Returns:
      Samples in [0, 1] of shape `shape`; `log_odds` keeps apart those that round to an end.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.
    """
    return jax.nn.sigmoid(log_odds(key, concentration1, concentration0, shape))


def log_odds(
    key: Key,
    concentration1: Array | float,
    concentration0: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    """Draw log x − log (1 − x) of a beta sample x, which is exact at both ends of (0, 1).

    Takes and raises what `sample` does, and the same key gives the same draw.
    """
    check_key(key)
    if shape is None:
        shape = jnp.broadcast_shapes(jnp.shape(concentration1), jnp.shape(concentration0))
    key1, key0 = jax.random.split(key)
    return gamma.log_sample(key1, concentration1, shape) - gamma.log_sample(
        key0, concentration0, shape
    )
