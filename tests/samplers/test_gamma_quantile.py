"""SciPy's float64 inverses are the reference; each is right to about 1e-12 of itself."""

import chex
import jax
import numpy as np
import pytest
import scipy.special

from jaxgen.samplers import gamma_quantile

LOWER = np.r_[1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.4, 0.5]
U = np.r_[LOWER, 0.6, 0.75, 0.9, 0.99, 1 - 1e-3, 1 - 1e-5, 1 - 1e-7].astype(np.float32)
CONCENTRATION = np.r_[np.geomspace(1e-3, 1e6, 28), 0.5, 1, 1.5, 2].astype(np.float32)[:, None]
quantile = jax.jit(gamma_quantile)


def exact(concentration, u, is_upper=False):
    a, u = np.asarray(concentration, float), np.asarray(u, float)
    lower, upper = scipy.special.gammaincinv(a, u), scipy.special.gammainccinv(a, u)
    if is_upper:
        return upper
    return np.where(u > 0.5, scipy.special.gammainccinv(a, 1 - u), lower)


def error_and_allowed(x, reference, concentration):
    """Errors of x relative to it, and some roundings of x and of u."""
    small = np.finfo(np.float32).tiny
    error = np.where(reference < small, x > 2 * small, np.abs(x / np.maximum(reference, small) - 1))
    eps = np.finfo(np.float32).eps
    return error, 4 * eps + 0.25 * eps / np.minimum(np.asarray(concentration, float), 1)


@pytest.mark.parametrize(("u", "is_upper"), [(U, False), (LOWER.astype(np.float32), True)])
def test_the_error_is_a_few_roundings_at_every_concentration_and_tail(u, is_upper):
    x = np.asarray(jax.jit(lambda a, u: gamma_quantile(a, u, is_upper=is_upper))(CONCENTRATION, u))
    reference = exact(CONCENTRATION, u, is_upper)
    error, allowed = error_and_allowed(x.astype(float), reference, CONCENTRATION)
    assert x.dtype == np.float32
    assert np.all(error <= allowed)
    assert np.all(np.diff(x, axis=1) * (1 - 2 * is_upper) >= 0)


def test_the_error_in_u_is_what_the_rounding_of_x_makes_it():
    a = CONCENTRATION[CONCENTRATION >= 0.01][:, None].astype(float)
    x = np.asarray(quantile(a.astype(np.float32), U), float)
    is_normal = (x > 1e-37) & (U <= 0.5)
    u_error = np.abs(scipy.special.gammainc(a, x) - U)
    density = np.exp(scipy.special.xlogy(a - 1, x) - x - scipy.special.gammaln(a))
    rounding = np.spacing(x.astype(np.float32)) * density
    assert np.all(u_error[is_normal] <= (2 * rounding + 2e-7)[is_normal])


def test_ends_and_what_is_no_probability_or_concentration():
    a = np.array([2, 0.1, 2, 0.1, 2, 2, 0, -1, np.inf, np.nan, 2], np.float32)
    u = np.array([0, 0, 1, 1, -0.1, 1.1, 0.5, 0.5, 0.5, 0.5, np.nan], np.float32)
    expected = [0, 0, np.inf, np.inf, *[np.nan] * 7]
    np.testing.assert_array_equal(quantile(a, u), expected)
    with pytest.raises(TypeError, match="u must"):
        gamma_quantile(1.0, 1j)


def test_an_end_does_not_move():
    for u in (0.0, 1.0):
        assert jax.grad(gamma_quantile, (0, 1))(2.0, u) == (0.0, 0.0)


def test_gradients_agree_with_differences_of_the_reference():
    a, u = np.broadcast_arrays(CONCENTRATION, U)
    slopes = jax.jit(jax.grad(lambda a, u: gamma_quantile(a, u).sum(), (0, 1)))(a, u)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    a, u = a.astype(float), u.astype(float)
    x, h = exact(a, u), 1e-4 * a
    is_normal = x > 1e-30
    near, far = (exact(a + k * h, u) - exact(a - k * h, u) for k in (1, 2))
    chex.assert_trees_all_close(
        np.asarray(slopes[0])[is_normal], ((8 * near - far) / (12 * h))[is_normal], rtol=1e-5
    )
    log_density = scipy.special.xlogy(a - 1, x) - x - scipy.special.gammaln(a)
    chex.assert_trees_all_close(
        np.asarray(slopes[1])[is_normal], np.exp(-log_density)[is_normal], rtol=1e-4
    )


def test_float64_agrees_with_scipy(x64):
    a, u = np.geomspace(1e-3, 1e6, 19)[:, None], np.r_[1e-200, 1e-30, 1e-3, 0.1, 0.3, 0.5, 0.8]
    reference = exact(a, u)
    x = np.where(reference < 1e-300, reference, quantile(a, u))
    chex.assert_trees_all_close(x, reference, rtol=1e-10)
