"""Probabilities as the mass below and the mass above, neither of them 1 less a rounded one."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.core._double import Double, add
from jaxgen.core._types import Array


class Masses(NamedTuple):
    """The mass `lower` below a point and `upper` above it, `[...]`; each relative to itself."""

    lower: Array
    upper: Array


def masses(u: Array, is_upper: Array) -> Masses:
    """Return both masses of a point of which one is u; 1 − u is exact where u ≥ ½."""
    rest = 1 - u
    return Masses(jnp.where(is_upper, rest, u), jnp.where(is_upper, u, rest))


def log_mass(mass: Array, rest: Array) -> Double:
    """Return the log of a mass in (0, 1], given 1 less it, to a rounding of 1 or of `rest`."""
    fraction, exponent = jnp.frexp(mass)
    whole, left = _split_log_2(mass.dtype)
    zero = jnp.zeros_like(mass)
    small = add(Double(exponent * whole, exponent * left), Double(jnp.log(fraction), zero))
    large = Double(jnp.log1p(-rest), zero)
    return Double(*(jnp.where(mass > 0.5, a, b) for a, b in zip(large, small, strict=True)))


def inward_step(residual: Array, ratio: Array, slope: Array) -> Array:
    """Return how far Halley's method goes from the edge of a tail into the rest of the mass.

    Args:
      residual: log of the tail's mass over the wanted one, `[...]`: a concave function of the
        coordinate.
      ratio: the tail's mass over the density at its edge, `[...]`.
      slope: by how much the log-density falls outward there, `[...]`.

    Returns:
      The step in the coordinate, negative outward, `[...]`.
    """
    return -residual * ratio / jnp.maximum(1 + 0.5 * residual * (1 - slope * ratio), 0.5)


def _split_log_2(dtype: np.dtype) -> tuple[Array, Array]:
    """Return log 2 as a float whose products with exponents are exact, and the rest."""
    whole, rest = {
        "float32": (0.693359375, -2.1219444005469058e-4),
        "float64": (0.693147180559663, 2.8235290563031577e-13),
    }[np.dtype(dtype).name]
    return jnp.asarray(whole, dtype), jnp.asarray(rest, dtype)
