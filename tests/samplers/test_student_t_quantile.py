"""SciPy's float64 inverses of the incomplete beta function are the reference."""

import chex
import jax
import numpy as np
import scipy.special
import scipy.stats

from jaxgen.samplers import _student_t_quantile, student_t_quantile

DEGREES = np.float32([0.1, 0.5, 0.9, 1, 1.5, 2, 2.5, 3, 3.9, 4, 5, 10, 30, 100, 1e3, 1e4, 1e5, 1e6])
DEGREES = DEGREES[:, None]
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
LOWER = np.float32(
    [1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.4, 0.49, 0.4999, BELOW_HALF]
)
EPS = np.finfo(np.float32).eps
quantile = jax.jit(student_t_quantile)


def exact(degrees, u):
    """−|t| for u < ½, by the smaller of the masses of ν / (ν + t²)."""
    nu, u = np.asarray(degrees, float), np.asarray(u, float)
    inner = scipy.special.betaincinv(0.5, nu / 2, 1 - 2 * u)  # t² / (ν + t²)
    outer = scipy.special.betaincinv(nu / 2, 0.5, 2 * u)
    with np.errstate(divide="ignore"):
        t = np.sqrt(nu) * np.where(
            inner < 0.5, np.sqrt(inner / (1 - inner)), np.sqrt(1 / outer - 1)
        )
    return -t


def test_the_error_is_a_few_roundings_in_both_tails_and_at_the_middle():
    t, reference = np.asarray(quantile(DEGREES, LOWER), float), exact(DEGREES, LOWER)
    fits = reference > -3e38
    assert np.all(np.isneginf(t[~fits]))
    error = np.abs(t[fits] / reference[fits] - 1)
    allowed = np.broadcast_to(8 * EPS + EPS / np.minimum(DEGREES, 1), t.shape)
    assert np.all(error <= allowed[fits])
    upper = jax.jit(lambda *args: student_t_quantile(*args, is_upper=True))(DEGREES, LOWER)
    chex.assert_trees_all_equal(upper, -t)


def test_ends_the_middle_and_what_is_no_probability_or_number_of_degrees():
    degrees = np.array([3, 3, 3, 0.1, 3, 3, 0, -1, np.inf, np.nan, 3], np.float32)
    u = np.array([0, 1, 0.5, 0.5, -0.1, 1.1, 0.2, 0.2, 0.2, 0.2, np.nan], np.float32)
    expected = [-np.inf, np.inf, 0, 0, *[np.nan] * 7]
    np.testing.assert_array_equal(quantile(degrees, u), expected)


def expanded(nu, u):
    """dt/dν by the expansion of t in 1 / ν, for large ν (Abramowitz and Stegun 26.7.5)."""
    z = scipy.special.ndtri(u)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return -sum(k * term / nu ** (k + 1) for k, term in enumerate(terms, 1))


def test_gradients_agree_with_differences_and_with_the_expansion_for_large_degrees():
    degrees, u = np.broadcast_arrays(DEGREES, LOWER)
    slopes = jax.jit(jax.grad(lambda *args: student_t_quantile(*args).sum(), (0, 1)))(degrees, u)
    nu, u = degrees.astype(float), u.astype(float)
    h = 1e-3 * nu
    near, far = (exact(nu + k * h, u) - exact(nu - k * h, u) for k in (1, 2))
    with np.errstate(over="ignore"):
        by_differences = (8 * near - far) / (12 * h)
    expected = np.where(nu > 3000, expanded(nu, u), by_differences)
    t = exact(nu, u)
    is_known = (t > -1e12) & (t < -1e-6)
    chex.assert_trees_all_close(np.asarray(slopes[0])[is_known], expected[is_known], rtol=3e-5)
    inner = is_known & (u > 1e-25)
    density = scipy.stats.t.pdf(t, nu)
    chex.assert_trees_all_close(np.asarray(slopes[1])[inner], 1 / density[inner], rtol=1e-4)
    middle = jax.grad(student_t_quantile, 1)(3.0, 0.5)
    chex.assert_trees_all_close(middle, 1 / scipy.stats.t.pdf(0, 3), rtol=1e-6)


def test_float64_agrees_with_scipy(x64):
    nu, u = np.geomspace(0.3, 1e6, 9)[:, None], np.r_[1e-30, 1e-3, 0.1, 0.3, 0.45]
    chex.assert_trees_all_close(quantile(nu, u), exact(nu, u), rtol=1e-11)


def test_no_degrees_of_freedom_have_no_ends_either():
    degrees = np.float32([0, 0, -1, np.inf, np.nan, *[3] * 6])
    u = np.float32([0, 1, 0, 1, 0, *[0.5] * 6])
    chex.assert_trees_all_equal(np.isnan(quantile(degrees, u)), np.arange(11) < 5)


def test_the_density_of_the_slope_is_the_distributions():
    t = np.float32([0, 0.5, 3, 40])
    for nu in np.float32([0.5, 3, 100]):
        found = _student_t_quantile._log_density(np.full_like(t, nu), t)
        expected = scipy.stats.t.logpdf(t.astype(float), float(nu))
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_so_far_out_that_the_odds_underflow_t_is_a_power_of_u_and_its_slope_that_of_the_power():
    nu, u = np.float32([0.3, 0.5, 0.5]), np.float32([1e-10, 1e-15, 1e-13])

    def log_t(nu):
        half, factor = nu / 2, scipy.special.gammaln
        log_scale = factor(half + 0.5) - factor(half) - np.log(np.pi * nu) / 2
        return (log_scale + (half - 0.5) * np.log(nu) - np.log(u.astype(float))) / nu

    exact_nu, h = nu.astype(float), 1e-6
    slope = (log_t(exact_nu + h) - log_t(exact_nu - h)) / (2 * h)
    t, to_degrees, _ = _student_t_quantile._quantile_and_slopes(nu, u, np.zeros(3, bool))
    chex.assert_trees_all_close(np.log(-t), log_t(exact_nu), rtol=1e-6)
    chex.assert_trees_all_close(to_degrees / t, slope, rtol=1e-5)
