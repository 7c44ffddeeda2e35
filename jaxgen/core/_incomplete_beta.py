"""The mass of a beta distribution beyond a point, in logarithms, to the last digits of each tail.

Seen from one end of (0, 1): α is the parameter of that end, x the distance to it, y = 1 − x and
r = x / y the odds. Everything is taken in log r, whose log-density α log x + β log y is concave.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._double import Double, multiply
from jaxgen.core._log_gamma import log_gamma_rise, stirling_error
from jaxgen.core._mills import exp_excess, far_end, integrate, log_deficit
from jaxgen.core._types import Array

_NUM_TERMS = {"float32": 24, "float64": 54}


class Series(NamedTuple):
    """The mass within x of the end, x^α (1 − deficit) / (α B(α, β)).

    Attributes:
      deficit: `[...]`, relative to α for small α.
      to_a: its derivative in α, `[...]`.
      to_b: its derivative in β, `[...]`.
    """

    deficit: Array
    to_a: Array
    to_b: Array


class Ratio(NamedTuple):
    """The mass within x over the density of log r there.

    Attributes:
      value: I, `[...]`.
      to_near: the mean of log x − log x′ over the mass, `[...]`.
      to_far: the mean of log y′ − log y, `[...]`.
    """

    value: Array
    to_near: Array
    to_far: Array


def series_end(b: Array) -> Array:
    """Return how far x may go for `end_series`, `[...]`."""
    return 1 / (1 + jnp.maximum(b, 1))


def end_series(a: Array, b: Array, x: Array) -> Series:
    """Sum Σ_k −(1 − β)_k x^k / k! · α / (α + k), for x up to `series_end(b)`."""
    zero = jnp.zeros_like(x)
    term, term_to_b = zero - 1, zero
    deficit, to_a, to_b = zero, zero, zero
    for k in range(1, _NUM_TERMS[x.dtype.name] + 1):
        term_to_b = x * (term_to_b * (k - b) - term) / k
        term = x * term * (k - b) / k
        share = 1 / (a + k)
        deficit, to_b = deficit + term * share, to_b + term_to_b * share
        to_a = to_a + term * k * share**2
    return Series(a * deficit, to_a, a * to_b)


def mass_ratio(a: Array, b: Array, odds: Array) -> Ratio:
    """Integrate the mass within x, given α ≥ 1, β and r with α y − β x ≥ −⅓ or so, `[...]`."""
    x, y = odds / (1 + odds), 1 / (1 + odds)
    value, means = tail_means(a, b, odds, lambda t, k: (k + y * t, x * t - k))
    return Ratio(value, *means)


def tail_means(
    a: Array, b: Array, odds: Array, fn: Callable[[Array, Array], Any]
) -> tuple[Array, Any]:
    """Return `Ratio.value` and means over the mass within x, as `mass_ratio` takes its arguments.

    With E(t) = (α y − β x) t + (α + β) K(t) and K(t) = log (y e^{xt} + x e^{−yt}).

    Args:
      a: α, `[...]`.
      b: β, `[...]`.
      odds: r, `[...]`.
      fn: `t, K(t) -> a pytree`, of points with odds r e^{−t}, `[...]` each.
    """
    n, x, y = a + b, odds / (1 + odds), 1 / (1 + odds)
    slope = a * y - b * x
    # K by whichever of x and y is small.
    sign, small = jnp.where(x < y, -1, 1).astype(x.dtype), jnp.minimum(x, y)

    def cumulant(t: Array) -> tuple[Array, Array]:
        w = small * jnp.expm1(sign * t)
        near = small * exp_excess(sign * t) - log_deficit(jnp.minimum(w, 1))
        value = jnp.where(w < 1, near, jnp.log1p(w) - small * t)
        return value, sign * w * (1 - small) / (1 + w)

    def exponent(t: Array) -> tuple[Array, Array]:
        value, rate = cumulant(t)
        return slope * t + n * value, slope + n * rate

    end = far_end(slope, n * x * y, y, exponent)

    def parts(place: Array) -> tuple[Array, Any]:
        t = end * place
        value = cumulant(t)[0]
        part = jnp.exp(-slope * t - n * value)
        return part, jax.tree.map(lambda of_t: part * of_t, fn(t, value))

    total, sums = integrate(parts, end)
    return end * total, jax.tree.map(lambda one: one / total, sums)


def log_density(a: Array, b: Array, peak: Array, odds: Array) -> Array:
    """Return log (x^α y^β / B(α, β)) of log r, `[...]`, given `log_peak(a, b)`."""
    near, far = from_mean(a, b, odds)
    return peak - a * log_deficit(near) - b * log_deficit(far)


def from_mean(a: Array, b: Array, odds: Array) -> tuple[Array, Array]:
    """Return x over its mean less 1, and y over its mean less 1, `[...]` each."""
    zero = jnp.zeros_like(odds)
    product = multiply(Double(odds, zero), Double(b, zero))
    relative = ((product.high - a) + product.low) / a
    return relative / (1 + odds), -relative * (a / b) / (1 + odds)


def log_peak(a: Array, b: Array) -> Array:
    """Return the log-density of log r at its mode, x = α / (α + β), `[...]`."""
    n = a + b
    errors = stirling_error(n) - stirling_error(a) - stirling_error(b)
    return 0.5 * jnp.log(jnp.minimum(a, b) / (2 * math.pi) * (jnp.maximum(a, b) / n)) + errors


def log_complete(a: Array, b: Array, peak: Array) -> Array:
    """Return log (α B(α, β)), `[...]`, relative to α where that is small."""
    near = jnp.minimum(a, 1)
    rise = log_gamma_rise(near, jnp.zeros_like(a)) - log_gamma_rise(near, b)
    large = jnp.log(a) - peak - a * jnp.log1p(b / a) - b * jnp.log1p(a / b)
    return jnp.where(a <= 1, rise + jnp.log1p(a / b), large)
