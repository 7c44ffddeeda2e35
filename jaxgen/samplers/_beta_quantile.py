"""The quantile of a beta distribution, by Halley's steps on the log of the nearer tail's mass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals, nan_unless
from jaxgen.core._double import Double, add, divide
from jaxgen.core._incomplete_beta import (
    end_series,
    from_mean,
    log_complete,
    log_density,
    log_peak,
    mass_ratio,
    series_end,
)
from jaxgen.core._log_gamma import digamma_gap, digamma_rise
from jaxgen.core._mills import rough_ratio
from jaxgen.core._two_sided import Masses, inward_step, log_mass, masses
from jaxgen.core._types import Array

_NUM_ROUGH_STEPS = 5
_NUM_STEPS = {"float32": 2, "float64": 3}


def beta_quantile(
    concentration1: Array | float,
    concentration0: Array | float,
    u: Array | float,
    *,
    is_upper: Array | bool = False,
) -> Array:
    r"""Return the inverse CDF of a beta distribution.

    .. math:: u = F(x) = \frac{1}{B(\alpha, \beta)} \int_0^x y^{\alpha-1} (1 - y)^{\beta-1} \, dy

    Solved for the odds x / (1 − x), on the logarithm of the mass in the nearer tail: next to an end
    by the series of that end, and elsewhere by the density (in the form of Loader 2000) times an
    integral of positive terms, by Gauss-Legendre. Differentiable in all three numbers:
    dx/du = 1 / p(x) and dx/dα = −∂F/∂α / p(x), with ∂F/∂α = F (E[log y | y < x] − E[log y]) by the
    same integral.

    Args:
      concentration1: α > 0, finite.
      concentration0: β > 0, finite, broadcast against `concentration1`.
      u: the mass below x, in [0, 1], broadcast against both.
      is_upper: where true, u is the mass above x, which far out 1 − u could not say.

    Returns:
      x in [0, 1], float32 at least; NaN where α, β or u is out of range. In float32, for α and β
      from 10⁻³ to 10⁶, it is off by a rounding or two of x, at worst by 3·10⁻⁶ of it, and by what
      half a rounding of u does to x, which for small α is 1/α as much. Near 1, 1 − x is the
      quantile of the turned distribution,
      `beta_quantile(concentration0, concentration1, u, is_upper=True)`.

    Raises:
      TypeError: an argument is no array of real numbers.

    >>> print(f"{beta_quantile(2.0, 2.0, 0.5):.6f}")
    0.500000
    """
    named = {"concentration1": concentration1, "concentration0": concentration0, "u": u}
    numbers = [as_reals(name, value) for name, value in named.items()]
    numbers = [value.astype(jnp.result_type(*numbers)) for value in numbers]
    return _quantile(*jnp.broadcast_arrays(*numbers, jnp.asarray(is_upper)))


@jax.custom_jvp
def _quantile(a: Array, b: Array, u: Array, is_upper: Array) -> Array:
    return _quantile_and_slopes(a, b, u, is_upper)[0]


@_quantile.defjvp
def _gradient(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, *slopes = _quantile_and_slopes(*primals)
    return x, sum(s * t for s, t in zip(slopes, tangents[:3], strict=True))


@jax.jit
def _quantile_and_slopes(a: Array, b: Array, u: Array, is_upper: Array) -> tuple[Array, ...]:
    """Return x, dx/dα, dx/dβ and dx/du."""
    at = solve_odds(a, b, masses(u, is_upper))
    x = jnp.where(at.is_turned, 1, at.odds) / (1 + at.odds)
    scale = jnp.where(at.is_turned, -1, 1) * at.odds / (1 + at.odds) ** 2  # dx / d log r
    to_a = jnp.where(at.is_turned, at.to_far, at.to_near)
    to_b = jnp.where(at.is_turned, at.to_near, at.to_far)
    to_u = jnp.where(at.is_turned == is_upper, 1, -1) * at.to_mass
    is_valid = (a > 0) & (a < jnp.inf) & (b > 0) & (b < jnp.inf) & (u >= 0) & (u <= 1)
    return nan_unless(is_valid, x), scale * to_a, scale * to_b, scale * to_u


class Odds(NamedTuple):
    """A quantile as seen from the end that it is measured from.

    Attributes:
      odds: r = distance to that end over distance to the other, `[...]`.
      is_turned: whether the end is 1, booleans `[...]`.
      to_near: d log r / dα, of the parameter of that end, `[...]`.
      to_far: d log r / dβ, `[...]`.
      to_mass: d log r over d mass between that end and the point, `[...]`.
      log_power: what log r tends to next to the end, where r itself may underflow, `[...]`.
    """

    odds: Array
    is_turned: Array
    to_near: Array
    to_far: Array
    to_mass: Array
    log_power: Double


class _Problem(NamedTuple):
    # What does not change with r, `[...]` each, all from the end that is measured from: α, β, the
    # log-density at its mode, whether the series is taken, the mass and its log, and the x at which
    # x^α / (α B) alone would be it.
    a: Array
    b: Array
    peak: Array
    is_series: Array
    mass: Array
    log_mass: Array
    power: Array


class _Tail(NamedTuple):
    # At r: log of the mass over the wanted one, that mass over the density of log r, the fall of
    # the log-density outward, and the derivatives of log mass in α and β.
    residual: Array
    ratio: Array
    slope: Array
    to_a: Array
    to_b: Array


def solve_odds(a: Array, b: Array, both: Masses) -> Odds:
    """Find the point of beta(α, β) that has these masses on its sides, in odds from an end.

    Args:
      a: α, `[...]`.
      b: β, `[...]`.
      both: the masses, `[...]` each.

    Returns:
      `Odds`.
    """
    is_turned, problem, log_power, start = _pose(a, b, both)

    def step(_: int, odds: Array) -> Array:
        tail = _tail(problem, odds)
        return odds * jnp.exp(inward_step(tail.residual, tail.ratio, tail.slope))

    odds = jax.lax.fori_loop(0, _NUM_STEPS[a.dtype.name], step, start)
    is_inside = (both.lower > 0) & (both.upper > 0) & (problem.power > 0)
    tail = _tail(problem, jnp.where(is_inside, odds, series_end(problem.b)))
    slopes = (-tail.ratio * tail.to_a, -tail.ratio * tail.to_b, tail.ratio / problem.mass)
    to_near, to_far, to_mass = (jnp.where(is_inside, slope, 0) for slope in slopes)
    is_beyond = jnp.where(is_turned, both.lower, both.upper) <= 0
    odds = jnp.where(is_inside, odds, jnp.where(is_beyond, jnp.inf, 0))
    return Odds(odds, is_turned, to_near, to_far, to_mass, log_power)


def _pose(a: Array, b: Array, both: Masses) -> tuple[Array, _Problem, Double, Array]:
    """Choose the end and the method, and where to start."""
    peak = log_peak(a, b)
    # From the lower and from the upper end.
    near, far = jnp.stack([a, b]), jnp.stack([b, a])
    mass, rest = jnp.stack(both), jnp.stack(both[::-1])
    log_masses = log_mass(mass, rest)
    complete = log_complete(near, far, peak[None])
    deficit = end_series(near, far, series_end(far)).deficit
    reached = near * jnp.log(series_end(far)) + jnp.log1p(-deficit) - complete
    # Of two concentrations below 1, one end's series reaches, though both were rounded down.
    by_series = log_masses.high <= reached + 8 * jnp.finfo(a.dtype).eps * (1 - reached)
    is_turned = ~by_series[0] & (by_series[1] | (both.upper < both.lower))
    from_end = lambda pair: jnp.where(is_turned, pair[1], pair[0])  # noqa: E731
    near, far, mass, complete, is_series, high, low = map(
        from_end, (near, far, mass, complete, by_series, *log_masses)
    )
    zero = jnp.zeros_like(near)
    log_power = divide(add(Double(high, low), Double(complete, zero)), Double(near, zero))
    power = jnp.where(is_series, jnp.exp(log_power.high) * (1 + log_power.low), 1)
    problem = _Problem(near, far, peak, is_series, mass, high, power)
    return is_turned, problem, log_power, _start(problem)


def _start(problem: _Problem) -> Array:
    """Return r to some hundredths: by log-odds as if normal, or by its power."""
    a, b, peak, is_series, mass, target, power = problem
    x = power
    for _ in range(2):
        x = jnp.minimum(power * jnp.exp((b - 1) * x / (1 + a)), series_end(b))
    z = jax.scipy.special.ndtri(jnp.minimum(mass, 0.5))
    ends = (1 / jnp.maximum(b, 1), jnp.maximum(a, 1))  # beyond them are the series of both ends
    as_normal = a / b * jnp.exp(z * jnp.sqrt(1 / a + 1 / b))
    as_power = 1 / jnp.expm1(jnp.maximum(jnp.log(b) - target, 1) / a)
    odds = jnp.clip(jnp.where(b >= 1, as_normal, as_power), *ends)
    for _ in range(_NUM_ROUGH_STEPS):
        n, near, far = a + b, odds / (1 + odds), 1 / (1 + odds)
        slope = a * far - b * near
        ratio = rough_ratio(slope, n * near * far, near - far)
        residual = log_density(a, b, peak, odds) + jnp.log(ratio) - target
        odds = jnp.clip(odds * jnp.exp(inward_step(residual, ratio, slope)), *ends)
    return jnp.where(is_series, x / (1 - x), odds)


def _tail(problem: _Problem, odds: Array) -> _Tail:
    a, b, peak, is_series, _, target, power = problem
    x = jnp.where(is_series, odds / (1 + odds), series_end(b))
    series = end_series(a, b, jnp.minimum(x, series_end(b)))
    n, kept = a + b, 1 - series.deficit
    by_series = _Tail(
        a * jnp.log(x / power) + jnp.log1p(-series.deficit),
        kept / a * jnp.exp(b * jnp.log1p(jnp.where(is_series, odds, 1))),
        a - n * x,
        jnp.log(x) + digamma_rise(b, a) - 1 / n - series.to_a / kept,
        a / (n * b) + digamma_rise(a, b) - series.to_b / kept,
    )
    ratio = mass_ratio(a, b, odds)
    near, far = from_mean(a, b, odds)
    by_ratio = _Tail(
        log_density(a, b, peak, odds) + jnp.log(ratio.value) - target,
        ratio.value,
        a / (1 + odds) - b * (odds / (1 + odds)),
        jnp.log1p(near) + digamma_gap(a) - digamma_gap(n) - ratio.to_near,
        jnp.log1p(far) + digamma_gap(b) - digamma_gap(n) + ratio.to_far,
    )
    return jax.tree.map(lambda s, r: jnp.where(is_series, s, r), by_series, by_ratio)
