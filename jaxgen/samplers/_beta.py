"""Beta samples from the ratio of two gamma samples, taken in logarithms."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._gamma import log_gamma
from jaxgen.samplers._shapes import result_shape


def beta(
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
      concentration1: α > 0, which must broadcast to `shape`; anything else gives NaN.
      concentration0: β > 0, likewise.
      shape: shape of the result; by default that of α and β broadcast together.

    Returns:
      Samples in [0, 1] of shape `shape`; `beta_log_odds` keeps apart those that round to an end.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.
    """
    return jax.nn.sigmoid(beta_log_odds(key, concentration1, concentration0, shape))


def beta_log_odds(
    key: Key,
    concentration1: Array | float,
    concentration0: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    """Draw log x − log (1 − x) of a beta sample x, which is exact at both ends of (0, 1).

    Differentiable in both concentrations; the same key gives the log-odds of the draw of `beta`.

    Args:
      key: a typed key.
      concentration1: α > 0, which must broadcast to `shape`; anything else gives NaN.
      concentration0: β > 0, likewise.
      shape: shape of the result; by default that of α and β broadcast together.

    Returns:
      Log-odds (nats) of shape `shape`.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.
    """
    check_key(key)
    parameters = {"concentration1": concentration1, "concentration0": concentration0}
    shape = result_shape(shape, {name: jnp.shape(value) for name, value in parameters.items()})
    key1, key0 = jax.random.split(key)
    return log_gamma(key1, concentration1, shape) - log_gamma(key0, concentration0, shape)
