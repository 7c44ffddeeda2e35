"""The quantile of a gamma distribution, by Halley's steps on the log of the nearer tail's mass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals, nan_unless
from jaxgen.core._double import Double, add, divide
from jaxgen.core._incomplete_gamma import (
    digamma_of_next,
    log_density,
    log_factorial,
    log_peak,
    lower_series,
    mass_ratio,
)
from jaxgen.core._log_gamma import digamma_gap
from jaxgen.core._mills import rough_ratio
from jaxgen.core._two_sided import Masses, inward_step, log_mass, masses
from jaxgen.core._types import Array

_NUM_ROUGH_STEPS = 3
_NUM_STEPS = {"float32": 2, "float64": 3}


def gamma_quantile(
    concentration: Array | float, u: Array | float, *, is_upper: Array | bool = False
) -> Array:
    r"""Return the inverse CDF of a gamma distribution with unit rate.

    .. math:: u = F(x) = \frac{1}{\Gamma(\alpha)} \int_0^x y^{\alpha - 1} e^{-y} \, dy

    Solved on the logarithm of the mass in the nearer tail, so that neither tail is 1 less the
    other: by a series where x ≤ 1, and elsewhere by the density (in the form of Loader 2000) times
    an integral of positive terms, by Gauss-Legendre. Differentiable in both numbers:
    dx/du = 1 / p(x) and dx/dα = −∂F/∂α / p(x), with ∂F/∂α = F (E[log y | y < x] − ψ(α)) by the
    same integral.

    Args:
      concentration: α > 0, finite.
      u: the mass below x, in [0, 1], broadcast against `concentration`.
      is_upper: where true, u is the mass above x, which far out 1 − u could not say.

    Returns:
      x in [0, ∞], float32 at least; NaN where α or u is out of range. In float32, for α from 10⁻³
      to 10⁶, it is off by a few roundings of x, and by what half a rounding of u does to x, which
      for small α is 1/α as much; `|F(x) − u|` is below 2·10⁻⁷ and what rounding x makes of it.

    Raises:
      TypeError: an argument is no array of real numbers.

    >>> print(f"{gamma_quantile(1.0, 0.5):.6f}")  # log 2
    0.693147
    >>> print(f"{gamma_quantile(30.0, 1e-30, is_upper=True):.3f}")
    141.706
    """
    a, u = as_reals("concentration", concentration), as_reals("u", u)
    dtype = jnp.result_type(a, u)
    a, u, is_upper = jnp.broadcast_arrays(a.astype(dtype), u.astype(dtype), jnp.asarray(is_upper))
    return _quantile(a, u, is_upper)


class _Problem(NamedTuple):
    # What does not change with x, `[...]` each: α, log (α^α e^{−α} / Γ(α)), whether the series is
    # taken, the side whose mass is solved for (−1 below, 1 above), that mass and its log, and the x
    # at which x^α / Γ(α + 1) alone would be it.
    a: Array
    peak: Array
    is_series: Array
    sign: Array
    mass: Array
    log_mass: Array
    power: Array


class _Tail(NamedTuple):
    # At x: log of the mass beyond over the wanted one, that mass over the density of log x, the
    # slope of −log density inward to outward, and the derivative of log mass in α.
    residual: Array
    ratio: Array
    slope: Array
    to_a: Array


@jax.custom_jvp
def _quantile(a: Array, u: Array, is_upper: Array) -> Array:
    return _solve(a, u, is_upper)[0]


@_quantile.defjvp
def _gradient(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    x, to_a, to_u = _solve(*primals)
    return x, to_a * tangents[0] + to_u * tangents[1]


@jax.jit
def _solve(a: Array, u: Array, is_upper: Array) -> tuple[Array, Array, Array]:
    """Return x, dx/dα and dx/du."""
    both = masses(u, is_upper)
    problem, start = _pose(a, both)

    def step(_: int, x: Array) -> Array:
        tail = _tail(problem, x)
        return x * jnp.exp(-problem.sign * inward_step(tail.residual, tail.ratio, tail.slope))

    x = jax.lax.fori_loop(0, _NUM_STEPS[a.dtype.name], step, start)
    is_inside = (both.lower > 0) & (both.upper > 0) & (problem.power > 0)
    tail = _tail(problem, jnp.where(is_inside, x, 1))
    to_a = x * problem.sign * tail.ratio * tail.to_a
    to_u = jnp.where(is_upper, -x, x) * tail.ratio / problem.mass
    x = jnp.where(is_inside, x, jnp.where(both.upper <= 0, jnp.inf, 0))
    x = nan_unless((a > 0) & (a < jnp.inf) & (u >= 0) & (u <= 1), x)
    return x, jnp.where(is_inside, to_a, 0), jnp.where(is_inside, to_u, 0)


def _pose(a: Array, both: Masses) -> tuple[_Problem, Array]:
    """Choose the side and the method, and where to start."""
    one = jnp.ones_like(a)
    log_lower, log_upper = log_mass(*both), log_mass(both.upper, both.lower)
    peak = log_peak(a)
    factorial = log_factorial(a, peak)
    is_series = log_lower.high <= jnp.log1p(-lower_series(a, one).deficit) - factorial
    is_lower = is_series | (both.lower < both.upper)
    sign = jnp.where(is_lower, -one, one)
    mass = jnp.where(is_lower, both.lower, both.upper)
    target = jnp.where(is_lower, log_lower.high, log_upper.high)
    log_power = divide(add(log_lower, Double(factorial, 0 * a)), Double(a, 0 * a))
    power = jnp.where(is_series, jnp.exp(log_power.high) * (1 + log_power.low), 1)
    problem = _Problem(a, peak, is_series, sign, mass, target, power)
    return problem, _start(problem, factorial)


def _start(problem: _Problem, factorial: Array) -> Array:
    """Return x to some hundredths: by steps from where a normal has it, or by its power."""
    a, peak, is_series, sign, mass, target, power = problem
    small = power
    for _ in range(2):
        small = power * jnp.exp(small / (1 + a))
    z = sign * -jax.scipy.special.ndtri(mass)
    beyond = jnp.log(a) - target - factorial  # x^{α−1} e^{−x} / Γ(α) is more than the mass
    x = jnp.maximum(jnp.where(a >= 1, a + z * jnp.sqrt(a), beyond), 1)
    for _ in range(_NUM_ROUGH_STEPS):
        slope = sign * (x - a)
        ratio = rough_ratio(slope, x, sign)
        residual = log_density(a, peak, x, x - a) + jnp.log(ratio) - target
        x = jnp.maximum(x * jnp.exp(-sign * inward_step(residual, ratio, slope)), 1)
    return jnp.where(is_series, small, x)


def _tail(problem: _Problem, x: Array) -> _Tail:
    a, peak, is_series, sign, _, target, power = problem
    small, large = jnp.where(is_series, x, 1), jnp.where(is_series, a + 1, x)
    series = lower_series(a, jnp.minimum(small, 1))
    by_series = _Tail(
        a * jnp.log(small / power) + jnp.log1p(-series.deficit),
        (1 - series.deficit) * jnp.exp(small) / a,
        a - small,
        jnp.log(small) - digamma_of_next(a) - series.deficit_slope / (1 - series.deficit),
    )
    slope = sign * (large - a)
    ratio = mass_ratio(large, slope, sign)
    from_mode = (large - a) / a
    by_ratio = _Tail(
        log_density(a, peak, large, large - a) + jnp.log(ratio.value) - target,
        ratio.value,
        slope,
        jnp.log1p(from_mode) + digamma_gap(a) + sign * ratio.mean,
    )
    return jax.tree.map(lambda s, r: jnp.where(is_series, s, r), by_series, by_ratio)
