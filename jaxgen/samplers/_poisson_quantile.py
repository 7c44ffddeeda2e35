"""The quantile of a Poisson distribution: a real-valued guess, and comparisons of whole counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals
from jaxgen.core._incomplete_gamma import Ratio, log_density, log_peak, mass_ratio
from jaxgen.core._log_gamma import digamma_gap
from jaxgen.core._mills import rough_ratio
from jaxgen.core._two_sided import Masses, log_mass, masses
from jaxgen.core._types import Array

_MAX_RATE = 2.0**30
_LARGEST = 2**31 - 1
_NUM_ROUGH_STEPS = 5
_NUM_STEPS = 2


def poisson_quantile(
    rate: Array | float, u: Array | float, *, is_upper: Array | bool = False
) -> Array:
    r"""Return the inverse CDF of a Poisson distribution, the smallest k with F(k) ≥ u.

    .. math:: F(k) = e^{-\lambda} \sum_{j \le k} \lambda^j / j! = 1 - P(k + 1, \lambda)

    A real k is found by Newton's steps on the log of the nearer tail's mass, an incomplete gamma
    function P; the masses at the whole counts beside it then decide. Without a gradient.

    Args:
      rate: λ in [0, 2^30].
      u: in [0, 1], broadcast against `rate`.
      is_upper: where true, 1 − F(k) ≤ u is asked for instead.

    Returns:
      Counts, int32; 2^31 − 1 where no count is large enough (u = 1), and −1 where λ or u is out of
      range. In float32 the mass of a tail is right to about 10⁻⁶ of itself: where u is as close as
      that to a value of F, the count can be one off.

    Raises:
      TypeError: an argument is no array of real numbers.

    >>> poisson_quantile(3.0, [0.01, 0.5, 0.99]).tolist()
    [0, 3, 8]
    """
    rate, u = as_reals("rate", rate), as_reals("u", u)
    dtype = jnp.result_type(rate, u)
    rate, u = (jax.lax.stop_gradient(value.astype(dtype)) for value in (rate, u))
    return _solve(*jnp.broadcast_arrays(rate, u, jnp.asarray(is_upper)))


class _Problem(NamedTuple):
    # λ > 0, the side whose mass is compared (1 for F(k), −1 for 1 − F(k)), and the log of it.
    rate: Array
    sign: Array
    target: Array


@jax.jit
def _solve(rate: Array, u: Array, is_upper: Array) -> Array:
    both = masses(u, is_upper)
    is_valid = (rate >= 0) & (rate <= _MAX_RATE) & (u >= 0) & (u <= 1)
    is_ready = is_valid & (rate > 0) & (both.lower > 0) & (both.upper > 0)
    both = Masses(*(jnp.where(is_ready, mass, 0.5) for mass in both))
    sign = jnp.where(both.lower < both.upper, 1, -1).astype(rate.dtype)
    target = jnp.where(sign > 0, log_mass(*both).high, log_mass(both.upper, both.lower).high)
    problem = _Problem(jnp.where(is_ready, rate, 1), sign, target)
    guess = jnp.round(_real_offset(problem, jnp.minimum(both.lower, both.upper)))
    offset = _decide(problem, guess)
    count = jnp.floor(problem.rate).astype(jnp.int32) + offset.astype(jnp.int32)
    has_end = jnp.where(is_upper, u <= 0, u >= 1) & (rate > 0)
    count = jnp.where(is_ready, count, jnp.where(has_end, _LARGEST, 0))
    return jnp.where(is_valid, count, -1)


def _real_offset(problem: _Problem, mass: Array) -> Array:
    """Return k − ⌊λ⌋, real, from the expansion of Cornish and Fisher."""
    rate, sign, _ = problem
    root = jnp.sqrt(rate)
    z = sign * jax.scipy.special.ndtri(mass)
    fraction = rate - jnp.floor(rate)
    lowest = -jnp.floor(rate)
    k = fraction + root * z + (z**2 - 4) / 6
    for step in range(_NUM_ROUGH_STEPS + _NUM_STEPS):
        k = jnp.maximum(k, lowest)
        residual, ratio = _mass_at(problem, k, step < _NUM_ROUGH_STEPS)
        a = (k - lowest) + 1
        slope = jnp.log(rate / a) + digamma_gap(a) + sign * ratio.mean
        k = k - residual * sign / jnp.maximum(sign * slope, 1e-30)
    return jnp.maximum(k, lowest)


def _mass_at(problem: _Problem, offset: Array, is_rough: bool) -> tuple[Array, Ratio]:
    """Return the log of the mass at ⌊λ⌋ + offset over the wanted one, and its ratio to λ p(k)."""
    rate, sign, target = problem
    a = offset + jnp.floor(rate) + 1
    difference = (rate - jnp.floor(rate)) - (offset + 1)  # λ − a, to the last unit of a large λ
    slope = sign * difference
    if is_rough:
        rough = rough_ratio(slope, rate, sign)
        ratio = Ratio(rough, rough)
    else:
        ratio = mass_ratio(rate, slope, sign)
    return log_density(a, log_peak(a), rate, difference) + jnp.log(ratio.value) - target, ratio


def _decide(problem: _Problem, offset: Array) -> Array:
    """Return the first of offset − 1, offset and offset + 1 that suffices, else the next."""
    rate, sign, _ = problem
    residual, ratio = _mass_at(problem, offset, is_rough=False)
    count = offset + jnp.floor(rate)
    # p(k) and p(k + 1) over the mass at k.
    here, above = 1 / (rate * ratio.value), 1 / (ratio.value * (count + 1))
    before = sign * (residual + jnp.log1p(jnp.maximum(-sign * here, -1)))
    after = sign * (residual + jnp.log1p(jnp.maximum(sign * above, -1)))
    moved = jnp.where(sign * residual >= 0, 0, jnp.where(after >= 0, 1, 2))
    return offset + jnp.where((before >= 0) & (count > 0), -1, moved)
