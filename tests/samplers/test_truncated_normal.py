import chex
import jax
import numpy as np
import pytest
import sampling_checks
import scipy.special

from jaxgen.samplers._truncated_normal import truncated_normal, truncated_normal_quantile

INF = np.inf
MIDDLE = [(-INF, INF), (-1, 2), (0, INF), (-INF, 8), (-3, 100), (-40, 0), (0.5, 0.75), (-2, -1)]
TAILS = [(8, 9), (-INF, -6), (30, 31), (1e3, INF), (1e19, INF), (4.99, 5.5), (-13, -12)]
NARROW = [(30, 30.001), (-0.001, 0.002), (0.1, 0.12), (0.1, 0.125), (-1e-6, 1e-6), (3, 3)]
BOUNDS = np.array([*MIDDLE, *TAILS, *NARROW], np.float32)
LOWER, UPPER = BOUNDS.T[:, :, None]
U = np.r_[2.0**-24, 1e-4, np.linspace(0.01, 0.99, 50), 1 - 1e-4, 1 - 2.0**-24].astype(np.float32)
quantile = jax.jit(truncated_normal_quantile)


def turned(lower, upper, *values):
    """Turn each interval to the lower tail, as (−b, −a), where SciPy keeps its digits."""
    with np.errstate(invalid="ignore"):
        is_upper = lower + upper > 0
    lower, upper = np.where(is_upper, -upper, lower), np.where(is_upper, -lower, upper)
    return is_upper, lower, upper, *(np.where(is_upper, -value, value) for value in values)


def exact_quantile(lower, upper, u):
    lower, upper, u = (np.asarray(value, np.float64) for value in (lower, upper, u))
    is_upper, lower, upper = turned(lower, upper)
    u = np.where(is_upper, 1 - u, u)
    low, high = scipy.special.log_ndtr(lower), scipy.special.log_ndtr(upper)
    x = scipy.special.ndtri_exp(np.logaddexp(low + np.log1p(-u), high + np.log(u)))
    return np.where(is_upper, -x, x)


def exact_cdf(lower, upper):
    def cdf(x):
        is_upper, low, high, x = turned(float(lower), float(upper), x)
        low, high, x = (scipy.special.log_ndtr(value) for value in (low, high, x))
        share = np.exp(x - high) * np.expm1(low - x) / np.expm1(low - high)
        return 1 - share if is_upper else share

    return cdf


def test_quantile_agrees_with_scipy_in_every_tail():
    x = np.asarray(quantile(LOWER, UPPER, U[None]), np.float64)
    exact = exact_quantile(LOWER, UPPER, U[None])
    rounding = 0.6 * np.spacing(np.abs(exact).astype(np.float32))
    assert np.all(np.abs(x - exact) <= rounding + np.minimum(5e-7, 1e-5 * (UPPER - LOWER)))
    assert np.all((x >= LOWER) & (x <= UPPER) & (np.diff(x, axis=1, prepend=LOWER) >= 0))


def test_the_ends_of_u_are_the_bounds_to_the_last_bit():
    ends = np.array([[0, 1]], np.float32)
    chex.assert_trees_all_equal(quantile(LOWER, UPPER, ends), np.hstack([LOWER, UPPER]))


def test_bad_bounds_and_uniforms_show():
    lower = np.array([1, np.nan, 0, 0, 0, 0, INF, -INF], np.float32)
    upper = np.array([0, 1, np.nan, 1, 1, 1, INF, INF], np.float32)
    u = np.array([0.5, 0.5, 0.5, 1.1, np.nan, 1, 0.5, 0], np.float32)
    expected = [*[np.nan] * 5, 1, np.nan, -INF]
    np.testing.assert_array_equal(quantile(lower, upper, u), expected)


def test_quantile_in_float64_agrees_with_scipy(x64):
    u = U[None].astype(float)
    x, exact = quantile(LOWER, UPPER, u), exact_quantile(LOWER, UPPER, u)
    chex.assert_trees_all_close(x, exact, rtol=1e-11, atol=1e-13)


def test_gradients_in_bounds_and_uniforms_agree_with_differences(x64):
    lower, upper = (np.tile(side[:-1].astype(float), (1, 7)) for side in (LOWER, UPPER))
    u = np.tile([1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999], (lower.shape[0], 1))
    good = (np.maximum(np.abs(lower), np.abs(upper)) < 50)[:, 0] & (upper - lower > 0.01)[:, 0]
    gradients = jax.jit(jax.grad(lambda *a: truncated_normal_quantile(*a).sum(), (0, 1, 2)))
    ours = np.stack(gradients(lower, upper, u))
    assert np.all(np.isfinite(ours))
    assert np.all(ours[0][np.isinf(lower)] == 0)
    arguments = np.stack([lower, upper, u])[:, good]
    for axis, gradient in enumerate(ours[:, good]):
        step = 1e-5 * np.eye(3)[axis][:, None, None] * np.minimum(1, arguments[1] - arguments[0])
        ends = [exact_quantile(*(arguments + sign * step)) for sign in (-1, 1)]
        slope = (ends[1] - ends[0]) / (2 * step[axis])
        chex.assert_trees_all_close(gradient, slope, rtol=1e-4, atol=1e-8)


@pytest.fixture(scope="module")
def draws():
    """Samples `[20,000, cases]`, each column of its own bounds, by one program."""
    draw = jax.jit(truncated_normal, static_argnums=3)
    return np.asarray(draw(jax.random.key(7), *BOUNDS.T, (20_000, len(BOUNDS))), np.float64)


def test_samples_follow_the_truncated_normal_distribution(draws):
    for column, (lower, upper) in enumerate(BOUNDS):
        if upper - lower > 1e-3 and not lower > 100:  # else floats are too few to draw from
            sampling_checks.assert_distribution(draws[:, column], exact_cdf(lower, upper))
    assert np.all(draws[:, -1] == 3)


def test_probabilities_rounded_before_they_are_inverted_are_seen(draws):
    """In [8, 9] the float32 probabilities round to 1."""
    x = np.clip(scipy.special.ndtri(np.float32(scipy.special.ndtr(draws[:, 8]))), 8, 9)
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(x, exact_cdf(8, 9))


def test_a_bound_off_by_a_tenth_is_seen(draws):
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(draws[:, 1], exact_cdf(-0.9, 2))
