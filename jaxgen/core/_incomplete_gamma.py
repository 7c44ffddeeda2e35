"""The mass of a gamma distribution beyond a point, in logarithms, to the last digits of each tail.

Everything is taken in the coordinate log x, whose log-density a log x − x is concave for every a.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxgen.core._log_gamma import digamma_gap, log_gamma_rise, stirling_error
from jaxgen.core._mills import exp_excess, far_end, integrate, log_deficit
from jaxgen.core._types import Array

_NUM_TERMS = {"float32": 10, "float64": 20}


class Series(NamedTuple):
    """The mass below x ≤ 1: x^a (1 − deficit) / Γ(a + 1).

    Attributes:
      deficit: `[...]`, relative to a for small a.
      deficit_slope: its derivative in a, `[...]`.
    """

    deficit: Array
    deficit_slope: Array


class Ratio(NamedTuple):
    """The mass beyond x over the density of log x there.

    Attributes:
      value: I, `[...]`.
      mean: of t = |log x′ − log x| beyond x, `[...]`.
    """

    value: Array
    mean: Array


def lower_series(a: Array, x: Array) -> Series:
    """Sum Σ_k −(−x)^k / k! · a / (a + k), for x in [0, 1]."""
    term, deficit, slope = -jnp.ones_like(x), jnp.zeros_like(x), jnp.zeros_like(x)
    for k in range(1, _NUM_TERMS[x.dtype.name] + 1):
        term = term * (-x / k)
        share = 1 / (a + k)
        deficit, slope = deficit + term * share, slope + term * k * share**2
    return Series(a * deficit, slope)


def mass_ratio(x: Array, slope: Array, sign: Array) -> Ratio:
    """Integrate beyond x ≥ 1 or so, by E(t) = slope t + x (exp(±t) − 1 ∓ t).

    Args:
      x: `[...]`.
      slope: x − a above, a − x below: at least about −⅓, `[...]`.
      sign: 1 for the mass above x and −1 for that below, `[...]`.
    """

    def exponent(t: Array) -> tuple[Array, Array]:
        return slope * t + x * exp_excess(sign * t), slope + x * sign * jnp.expm1(sign * t)

    end = far_end(slope, x, jnp.where(sign > 0, 0, 1).astype(x.dtype), exponent)

    def part(place: Array) -> tuple[Array, Array]:
        part = jnp.exp(-exponent(end * place)[0])
        return part, place * part

    value, mean = integrate(part, end)
    return Ratio(end * value, end * mean / value)


def log_density(a: Array, peak: Array, x: Array, difference: Array) -> Array:
    """Return log (x^a e^{−x} / Γ(a)), `[...]`, given its peak and x − a (Loader 2000)."""
    near = -a * log_deficit(jnp.maximum(difference / a, -0.5))
    far = a * jnp.log(x / a) - difference
    return peak + jnp.where(difference < -0.5 * a, far, near)


def log_peak(a: Array) -> Array:
    """Return log (a^a e^{−a} / Γ(a)), `[...]`."""
    return 0.5 * jnp.log(a / (2 * math.pi)) - stirling_error(a)


def log_factorial(a: Array, peak: Array) -> Array:
    """Return log Γ(a + 1), `[...]`, relative to a where a is small, given `log_peak(a)`."""
    stirling = a * jnp.log(a) - a + jnp.log(a) - peak
    return jnp.where(a <= 1, log_gamma_rise(jnp.minimum(a, 1), jnp.zeros_like(a)), stirling)


def digamma_of_next(a: Array) -> Array:
    """Return ψ(a + 1), `[...]`."""
    return jnp.log1p(a) - digamma_gap(1 + a)
