"""The modified Bessel functions that von Mises densities need, where none over- or underflows."""

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array

_LARGE = 30.0


def mean_versine(concentration: Array) -> Array:
    """Return 1 − I₁(κ) / I₀(κ) of κ ≥ 0, `[...]`, by its series where the two are close."""
    moderate = jnp.minimum(concentration, _LARGE)
    ratio = jax.scipy.special.i1e(moderate) / jax.scipy.special.i0e(moderate)
    inverse = 1 / jnp.maximum(concentration, _LARGE)
    coefficients = (1 / 2, 1 / 8, 1 / 8, 25 / 128, 13 / 32, 1073 / 1024)
    series = jnp.zeros_like(inverse)
    for coefficient in reversed(coefficients):
        series = (series + coefficient) * inverse
    return jnp.where(concentration > _LARGE, series, 1 - ratio)


@jax.custom_jvp
def log_i0e(concentration: Array) -> Array:
    """Return log I₀(κ) − κ of κ ≥ 0, `[...]`; its slope is minus `mean_versine`."""
    return jnp.log(jax.scipy.special.i0e(concentration))


@log_i0e.defjvp
def _slope(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (concentration,), (dot,) = primals, tangents
    return log_i0e(concentration), -mean_versine(concentration) * dot
