"""Student t samples: a normal over the root of a gamma sample."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._gamma import log_gamma
from jaxgen.samplers._shapes import result_shape


def student_t(key: Key, degrees: Array | float, shape: tuple[int, ...] | None = None) -> Array:
    r"""Draw from a Student t distribution, exactly.

    .. math:: x = z \sqrt{\frac{\nu / 2}{g}}, \quad z \sim N(0, 1), \; g \sim \Gamma(\nu / 2)

    Differentiable in `degrees`, by the implicit gradient of the gamma sample.

    Args:
      key: a typed key.
      degrees: degrees of freedom ν > 0, which must broadcast to `shape`; anything else gives NaN.
      shape: shape of the result; by default that of `degrees`.

    Returns:
      Samples of shape `shape`, float32 at least.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit `degrees`.
    """
    check_key(key)
    half = jnp.asarray(degrees) / 2
    shape = result_shape(shape, {"degrees": half.shape})
    normal_key, gamma_key = jax.random.split(key)
    log_g = log_gamma(gamma_key, half, shape)
    z = jax.random.normal(normal_key, shape, log_g.dtype)
    half = half.reshape((1,) * (log_g.ndim - half.ndim) + half.shape).astype(log_g.dtype)
    return z * jnp.exp((jnp.log(half) - log_g) / 2)
