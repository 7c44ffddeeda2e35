"""The quantile of a Student t distribution, through the beta distribution of ν / (ν + t²)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import as_reals, nan_unless
from jaxgen.core._incomplete_beta import tail_means
from jaxgen.core._log_gamma import digamma_remainder, digamma_rise, stirling_error
from jaxgen.core._mills import log_deficit
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._two_sided import Masses
from jaxgen.core._types import Array
from jaxgen.samplers._beta_quantile import Odds, solve_odds

_NUM_NODES = {"float32": 8, "float64": 16}
_LARGE_DEGREES = 4.0
_SMALLEST_ODDS = 1e-30


def student_t_quantile(
    degrees: Array | float, u: Array | float, *, is_upper: Array | bool = False
) -> Array:
    r"""Return the inverse CDF of a Student t distribution.

    .. math:: u = F(t) = \int_{-\infty}^t c_\nu (1 + s^2 / \nu)^{-(\nu + 1) / 2} \, ds

    Solved for the odds t² / ν of a beta variate, whose masses are 2 min(u, 1 − u) and `|1 − 2 u|`,
    both exact. Differentiable in both numbers: dt/du = 1 / p(t), and dt/dν = −∂F/∂ν / p(t) by
    an integral of d log p / dν, of which nothing cancels where ν is large.

    Args:
      degrees: degrees of freedom ν > 0, finite.
      u: the mass below t, in [0, 1], broadcast against `degrees`.
      is_upper: where true, u is the mass above t.

    Returns:
      t, float32 at least, infinite for u of 0 and 1; NaN where ν or u is out of range. In float32,
      for ν from 10⁻² to 10⁶, it is off by a few roundings of t, and by what half a rounding of u
      does to t, which for small ν is 1/ν as much.

    Raises:
      TypeError: an argument is no array of real numbers.

    >>> print(f"{student_t_quantile(3.0, 0.975):.4f}")
    3.1824
    """
    degrees, u = as_reals("degrees", degrees), as_reals("u", u)
    dtype = jnp.result_type(degrees, u)
    numbers = (degrees.astype(dtype), u.astype(dtype), jnp.asarray(is_upper))
    return _quantile(*jnp.broadcast_arrays(*numbers))


@jax.custom_jvp
def _quantile(degrees: Array, u: Array, is_upper: Array) -> Array:
    return _quantile_and_slopes(degrees, u, is_upper)[0]


@_quantile.defjvp
def _gradient(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    t, to_degrees, to_u = _quantile_and_slopes(*primals)
    return t, to_degrees * tangents[0] + to_u * tangents[1]


@jax.jit
def _quantile_and_slopes(degrees: Array, u: Array, is_upper: Array) -> tuple[Array, Array, Array]:
    """Return t, dt/dν and dt/du."""
    inner = jnp.abs(1 - 2 * u)
    tails = jnp.where(u < 0.5, 2 * u, 2 * (1 - u))
    at = solve_odds(degrees / 2, jnp.full_like(u, 0.5), Masses(tails, inner))
    # So far out that the odds would underflow, they are a power of u.
    is_far = ~at.is_turned & (at.odds < _SMALLEST_ODDS)
    by_power = jnp.exp(-at.log_power.high / 2) * (1 - at.log_power.low / 2)
    by_odds = jnp.where(at.is_turned, jnp.sqrt(at.odds), 1 / jnp.sqrt(at.odds))
    t = jnp.sqrt(degrees) * jnp.where(is_far, by_power, by_odds)
    t = jnp.where(tails > 0, t, jnp.inf)
    at = at._replace(to_near=jnp.where(is_far, _slope_of_power(degrees, at), at.to_near))
    side = jnp.where((u < 0.5) == is_upper, 1, -1)
    to_degrees = jnp.where(
        degrees < _LARGE_DEGREES, _by_odds(degrees, t, at), _by_score(degrees, t, at)
    )
    to_u = jnp.where(is_upper, -1, 1) * jnp.exp(-_log_density(degrees, t))
    is_finite = t < jnp.inf
    to_degrees, to_u = (jnp.where(is_finite, slope, 0) for slope in (side * to_degrees, to_u))
    is_valid = (degrees > 0) & (degrees < jnp.inf) & (u >= 0) & (u <= 1)
    return nan_unless(is_valid, side * t), to_degrees, to_u


def _log_density(degrees: Array, t: Array) -> Array:
    half = degrees / 2
    factor = stirling_error(half + 0.5) - stirling_error(half) - half * log_deficit(1 / degrees)
    scaled = t / jnp.sqrt(degrees)
    far = 2 * jnp.log(jnp.maximum(scaled, 1))  # whose square overflows
    log_rest = jnp.where(scaled > 1e6, far, jnp.log1p(jnp.minimum(scaled, 1e6) ** 2))
    return factor - math.log(2 * math.pi) / 2 - (half + 0.5) * log_rest


def _slope_of_power(degrees: Array, at: Odds) -> Array:
    """Return the slope of log r in α = ν / 2 next to its end."""
    half = degrees / 2
    rise = digamma_rise(jnp.full_like(half, 0.5), half) - 1 / (half + 0.5)
    return -(at.log_power.high + rise) / half


def _by_odds(degrees: Array, t: Array, at: Odds) -> Array:
    """Return dt/dν from the slopes of the odds."""
    to_log = jnp.where(at.is_turned, at.to_far, -at.to_near) / 2
    return t * (1 / degrees + to_log) / 2


def _by_score(degrees: Array, t: Array, at: Odds) -> Array:
    """Return dt/dν from the mean of d log p / dν beyond t, or below it where t is small."""
    is_tail = ~at.is_turned
    far = jnp.where(is_tail, t, 2)
    half = jnp.maximum(degrees / 2, 1)
    mean = _mean_score(degrees)
    ratio, beyond = tail_means(
        half,
        jnp.full_like(half, 0.5),
        degrees / far**2,
        lambda w, _: _score(degrees, far**2 / degrees * jnp.exp(w)),
    )
    near = jnp.where(is_tail, 0, t)
    return jnp.where(is_tail, ratio * far / 2 * (beyond - mean), -_inside(degrees, near, mean))


def _inside(degrees: Array, t: Array, mean: Array) -> Array:
    """Return the integral over [0, t] of d log p / dν p, over p(t)."""
    rule = gauss_legendre(0, 1, _NUM_NODES[t.dtype.name])
    places, weights = (np.asarray(part, t.dtype) for part in rule)
    edge = jnp.log1p(t**2 / degrees)

    def add(k: Array, total: Array) -> Array:
        ratio = (jnp.asarray(places)[k] * t) ** 2 / degrees
        density = jnp.exp((degrees + 1) / 2 * (edge - jnp.log1p(ratio)))
        return total + jnp.asarray(weights)[k] * (_score(degrees, ratio) - mean) * density

    return t * jax.lax.fori_loop(0, places.size, add, jnp.zeros_like(t))


def _score(degrees: Array, ratio: Array) -> Array:
    """Return d log ((1 + t² / ν)^{−(ν + 1) / 2}) / dν, given t² / ν."""
    share = ratio / (1 + ratio)
    small = jnp.minimum(ratio, 1)
    near = small**2 / (1 + small) - log_deficit(small)  # log (1 + y) − y / (1 + y)
    return (share / degrees - jnp.where(ratio < 1, near, jnp.log1p(ratio) - share)) / 2


def _mean_score(degrees: Array) -> Array:
    """Return −d log c_ν / dν, about −1 / (4 ν²)."""
    half = degrees / 2
    remainders = digamma_remainder(half) - digamma_remainder(half + 0.5)
    return -(0.25 / (half * (half + 0.5)) + remainders - log_deficit(1 / degrees)) / 2
