"""Negative binomial samples: Poisson counts whose rate is a gamma sample."""

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._gamma import log_gamma
from jaxgen.samplers._poisson import poisson
from jaxgen.samplers._shapes import result_shape


def negative_binomial(
    key: Key,
    total_count: Array | float,
    p: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    r"""Draw how many successes come before a given number of failures.

    .. math:: P(k) = \frac{\Gamma(r + k)}{k! \, \Gamma(r)} p^k (1 - p)^r

    as Poisson counts with the rate g p / (1 − p) of a gamma sample g of concentration r. The mean
    is m = r p / (1 − p) and the variance m + m² / r: for a mean and a dispersion r take
    p = m / (m + r). SciPy and NumPy count failures before r successes, `nbinom(r, 1 − p)`.

    Args:
      key: a typed key.
      total_count: r ≥ 0, the failures at which it ends, whole or not; must broadcast to `shape`.
      p: probability of success in [0, 1), likewise.
      shape: shape of the result; by default that of `total_count` and `p` broadcast together.

    Returns:
      Counts, int32 of shape `shape`; −1 where a parameter is out of range or NaN, and where the
      rate drawn is above 2^30. Counts have no gradient.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.

    >>> import jax
    >>> negative_binomial(jax.random.key(0), 3.0, 0.5, (2, 2)).shape
    (2, 2)
    """
    check_key(key)
    shape = result_shape(shape, {"total_count": jnp.shape(total_count), "p": jnp.shape(p)})
    dtype = jnp.result_type(float)
    arguments = (jnp.asarray(argument, dtype) for argument in (total_count, p))
    return _draw(key, *(jnp.broadcast_to(argument, shape) for argument in arguments))


@jax.jit
def _draw(key: Key, total_count: Array, p: Array) -> Array:
    gamma_key, poisson_key = jax.random.split(key)
    log_rate = log_gamma(gamma_key, total_count) + jnp.log(p) - jnp.log1p(-p)
    rate = jnp.where(p == 0, 0, jnp.exp(log_rate))
    rate = jnp.where(total_count == 0, 0, rate)
    is_valid = (total_count >= 0) & (total_count < jnp.inf) & (p >= 0) & (p < 1)
    return poisson(poisson_key, nan_unless(is_valid, rate))
