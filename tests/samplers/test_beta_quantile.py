"""SciPy's float64 inverses are the reference; each is right to about 1e-12 of itself."""

import chex
import jax
import numpy as np
import pytest
import scipy.special

from jaxgen.core._two_sided import masses
from jaxgen.samplers import beta_quantile
from jaxgen.samplers._beta_quantile import _pose

LOWER = np.r_[1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.4, 0.5]
U = np.r_[LOWER, 0.6, 0.75, 0.9, 0.99, 1 - 1e-3, 1 - 1e-5, 1 - 1e-7].astype(np.float32)
VALUES = np.float32([1e-3, 0.01, 0.1, 0.5, 0.9, 1, 1.1, 1.5, 2, 3, 10, 30, 1e3, 1e4, 1e5, 1e6])
A, B = (side.ravel()[:, None] for side in np.meshgrid(VALUES, VALUES))
EPS = np.finfo(np.float32).eps
quantile = jax.jit(beta_quantile)


def exact(a, b, u):
    a, b, u = (np.asarray(value, float) for value in (a, b, u))
    upper = scipy.special.betainccinv(a, b, 1 - u)
    return np.where(u > 0.5, upper, scipy.special.betaincinv(a, b, u))


def slope(a, b, x):
    """dx/du in float64."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    log_density = scipy.special.xlogy(a - 1, x) + scipy.special.xlog1py(b - 1, -x)
    with np.errstate(over="ignore"):
        return np.exp(scipy.special.betaln(a, b) - log_density)


def test_the_error_is_a_few_roundings_of_x_and_of_u_at_all_pairs_and_tails():
    x, reference = np.asarray(quantile(A, B, U), float), exact(A, B, U)
    small = np.finfo(np.float32).tiny
    is_normal = reference > 2 * small
    assert np.all(x[~is_normal] < 3 * small)
    error = np.abs(x / np.maximum(reference, small) - 1)
    nearest_u = EPS * np.minimum(U, 1 - U) * slope(A, B, np.clip(reference, small, 1 - 1e-16))
    allowed = 24 * EPS + 0.25 * EPS / np.minimum(A, 1) + nearest_u / np.maximum(reference, small)
    assert np.all((error <= allowed)[is_normal])
    assert np.quantile(error[is_normal], 0.9) < 4 * EPS


def test_turned_it_is_the_distance_from_one():
    """Of 1 − x floats say nothing below 1e-7; of the turned quantile they say all."""
    v = LOWER.astype(np.float32)
    x = jax.jit(lambda *args: beta_quantile(*args, is_upper=True))(A, B, v)
    turned = jax.jit(beta_quantile)(B, A, v)
    chex.assert_trees_all_close(x, 1 - np.asarray(turned, float), rtol=4e-5, atol=2e-7)


def test_ends_and_what_is_no_probability_or_concentration():
    a = np.array([2, 0.1, 2, 0.1, 2, 2, 0, 1, np.inf, np.nan, 2], np.float32)
    b = np.array([2, 3, 2, 3, 2, 2, 1, -1, 1, 1, 2], np.float32)
    u = np.array([0, 0, 1, 1, -0.1, 1.1, 0.5, 0.5, 0.5, 0.5, np.nan], np.float32)
    chex.assert_trees_all_equal(quantile(a, b, u), np.array([0, 0, 1, 1, *[np.nan] * 7]))


def test_gradients_agree_with_differences_of_the_reference():
    args = np.broadcast_arrays(A, B, U)
    slopes = jax.jit(jax.grad(lambda *args: beta_quantile(*args).sum(), (0, 1, 2)))(*args)
    assert all(np.all(np.isfinite(value)) for value in slopes)
    a, b, u = (value.astype(float) for value in args)
    x = exact(a, b, u)
    # Where differences of SciPy's are no better than 1e-4 they judge nothing.
    inner = (x > 1e-30) & (x < 1 - 1e-6)
    for got, (da, db) in zip(slopes[:2], ((a, 0), (0, b)), strict=True):
        h = 2e-4 * (da + db)
        near, far = (
            exact(a + k * 2e-4 * da, b + k * 2e-4 * db, u)
            - exact(a - k * 2e-4 * da, b - k * 2e-4 * db, u)
            for k in (1, 2)
        )
        is_known = inner & (np.abs(near) > 1e-8 * x)
        expected = (8 * near - far) / (12 * h)
        chex.assert_trees_all_close(np.asarray(got)[is_known], expected[is_known], rtol=5e-4)
    chex.assert_trees_all_close(np.asarray(slopes[2])[inner], slope(a, b, x)[inner], rtol=1e-4)


def test_float64_agrees_with_scipy(x64):
    values = np.geomspace(1e-3, 1e6, 7)
    a, b = (side.ravel()[:, None] for side in np.meshgrid(values, values))
    u = np.r_[1e-200, 1e-30, 1e-3, 0.1, 0.3, 0.5]
    reference = exact(a, b, u)
    x = np.where(reference < 1e-300, reference, quantile(a, b, u))
    chex.assert_trees_all_close(x, reference, rtol=1e-9)


def test_iterations_begin_some_hundredths_from_the_odds_and_nowhere_a_third():
    a, b, u = np.broadcast_arrays(A[::3], B[::3], U)
    is_turned, _, _, start = jax.jit(lambda a, b, u: _pose(a, b, masses(u, u < 0)))(a, b, u)
    x, a, b, u = exact(a, b, u), *(value.astype(float) for value in (a, b, u))
    turned = scipy.special.betaincinv(b, a, 1 - u)
    rest = np.where(u > 0.5, turned, scipy.special.betainccinv(b, a, u))
    is_normal = np.minimum(x, rest) > 1e-30
    odds = np.where(is_turned, rest, x)[is_normal] / np.where(is_turned, x, rest)[is_normal]
    error = np.abs(np.log(np.asarray(start, float)[is_normal] / odds))
    assert np.all(error < 0.3)
    assert np.quantile(error, 0.95) < 0.05


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_the_series_of_both_ends_meet_one_of_them_is_taken(dtype):
    """Rounded down, neither would reach the middle, and the integral is for α of 1 or more."""
    small = np.geomspace(1e-4, 0.9, 40).astype(dtype)
    a, b = (axis.ravel() for axis in np.meshgrid(small, small))
    with jax.enable_x64(dtype == "float64"):
        quantile = jax.jit(beta_quantile)
        at_half = np.asarray(quantile(small, small, np.full_like(small, 0.5)))
        u = scipy.special.betainc(a.astype("f8"), b.astype("f8"), 0.5)
        x = np.asarray(quantile(a, b, u.astype(dtype)), np.float64)
    eps = float(np.finfo(dtype).eps)
    assert (np.abs(at_half - 0.5) < 4 * eps * (1 + 1 / small)).all()
    back = scipy.special.betainc(a.astype("f8"), b.astype("f8"), x)
    chex.assert_trees_all_close(back, u, rtol=40 * eps)
