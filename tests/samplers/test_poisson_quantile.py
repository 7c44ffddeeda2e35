import chex
import jax
import numpy as np
import scipy.special

from jaxgen.samplers import _poisson_quantile, poisson_quantile
from jaxgen.samplers._poisson_quantile import _decide, _Problem

RATE = np.float32([1e-6, 1e-3, 0.1, 0.5, 1, 1.5, 3, 10, 30, 100, 1e3, 1e4, 1e6])[:, None]
LOWER = np.r_[1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.4, 0.5].astype(np.float32)
U = np.r_[LOWER, 0.6, 0.75, 0.9, 0.99, 1 - 1e-3, 1 - 1e-5, 1 - 1e-7].astype(np.float32)


def masses(rate, count):
    """F(k) and 1 − F(k), each to the digits of float64."""
    a = np.maximum(count, -1) + 1.0
    lower = np.where(a > 0, scipy.special.gammaincc(np.maximum(a, 1), rate), 0)
    upper = np.where(a > 0, scipy.special.gammainc(np.maximum(a, 1), rate), 1)
    return lower, upper


def assert_smallest(rate, u, rest, count):
    """k has mass enough and k − 1 has not, up to 3e-6 of the tail that is compared."""
    rate, u, rest = (np.asarray(value, float) for value in np.broadcast_arrays(rate, u, rest))
    (lower, upper), (lower_before, upper_before) = (masses(rate, count - d) for d in (0, 1))
    by_lower = u < rest
    slack = 3e-6
    is_enough = np.where(by_lower, lower >= u * (1 - slack), upper <= rest * (1 + slack))
    is_less = np.where(by_lower, lower_before < u * (1 + slack), upper_before > rest * (1 - slack))
    assert np.all(is_enough & is_less)


def test_counts_are_the_smallest_with_mass_enough():
    count = np.asarray(jax.jit(poisson_quantile)(RATE, U))
    assert count.dtype == np.int32
    assert_smallest(RATE, U, 1 - U.astype(float), count)


def test_counts_far_in_the_upper_tail_are_too():
    count = np.asarray(jax.jit(lambda *a: poisson_quantile(*a, is_upper=True))(RATE, LOWER))
    assert_smallest(RATE, 1 - LOWER.astype(float), LOWER, count)


def test_rates_beyond_the_integers_of_float32_keep_single_counts():
    """Beside 2^30 the counts have the quantiles of a normal, with its first two corrections."""
    rate, u = np.float32(2.0**30), np.linspace(0.05, 0.95, 64, dtype=np.float32)
    count = np.asarray(poisson_quantile(rate, u)).astype(float)
    z = scipy.special.ndtri(u.astype(float))
    real = 2.0**30 + 2.0**15 * z + (z**2 - 1) / 6 - 0.5  # continuity: F(k) is the normal's at k + ½
    assert np.all(np.abs(count - np.ceil(real)) <= 1)


def test_ends_and_what_is_no_probability_or_rate():
    rate = np.array([3, 3, 0, 0, 0, 3, 3, -1, 2e9, np.nan, 3], np.float32)
    u = np.array([0, 1, 0, 0.5, 1, -0.1, 1.1, 0.5, 0.5, 0.5, np.nan], np.float32)
    expected = [0, 2**31 - 1, 0, 0, 0, *[-1] * 6]
    np.testing.assert_array_equal(poisson_quantile(rate, u), expected)
    expected = [2**31 - 1, 0, 0, 0, 0, *[-1] * 6]
    np.testing.assert_array_equal(poisson_quantile(rate, u, is_upper=True), expected)


def test_a_guess_that_is_off_to_either_side_is_put_right():
    rate = np.tile(np.float32([0.5, 3, 30, 1e4]), 2)
    u = np.repeat(np.float32([0.3, 0.8]), 4)
    count = np.asarray(poisson_quantile(rate, u))
    sign = np.where(u < 0.5, 1, -1).astype(np.float32)
    problem = _Problem(rate, sign, np.log(np.minimum(u, 1 - u)))
    for off in (-2, -1, 0, 1):
        guess = np.maximum(count + off, 0) - np.floor(rate)
        chex.assert_trees_all_equal(_decide(problem, guess) + np.floor(rate), count)


def test_the_first_guess_is_a_hundredth_of_a_count_off_where_counts_are_many(monkeypatch):
    monkeypatch.setattr(_poisson_quantile, "_NUM_ROUGH_STEPS", 0)
    monkeypatch.setattr(_poisson_quantile, "_NUM_STEPS", 0)
    z = np.float32([-2, -1, -0.3, 0.5, 1.5, 2])
    mass = scipy.special.ndtr(-np.abs(z))
    problem = _Problem(np.float32([1e4]), np.sign(-z), np.log(mass))
    count = 1e4 + np.asarray(_poisson_quantile._real_offset(problem, mass), float)
    u = scipy.special.ndtr(z.astype(float))
    assert np.all(masses(1e4, count - 0.02)[0] < u)
    assert np.all(masses(1e4, count + 0.02)[0] > u)
