import chex
import jax
import numpy as np
import scipy.special

from jaxgen.core._log_gamma import digamma_gap, digamma_rise, log_gamma_rise, stirling_error
from jaxgen.core._quadrature import gauss_legendre

A = np.geomspace(1e-3, 1e6, 50)


def test_stirling_error_and_digamma_gap_to_their_last_digits(x64):
    far = A > 50
    series = 1 / (12 * A) - 1 / (360 * A**3) + 1 / (1260 * A**5)
    direct = scipy.special.gammaln(A) - ((A - 0.5) * np.log(A) - A + 0.5 * np.log(2 * np.pi))
    chex.assert_trees_all_close(
        stirling_error(A), np.where(far, series, direct), atol=2e-14, rtol=1e-7
    )
    series = 1 / (2 * A) + 1 / (12 * A**2) - 1 / (120 * A**4)
    direct = np.log(A) - scipy.special.digamma(A)
    chex.assert_trees_all_close(digamma_gap(A), np.where(far, series, direct), rtol=1e-10)
    single = A.astype(np.float32)
    chex.assert_trees_all_close(stirling_error(single), stirling_error(A), rtol=2e-7, atol=1e-6)
    chex.assert_trees_all_close(digamma_gap(single), digamma_gap(A), rtol=5e-7)


def test_rises_keep_their_digits_where_they_are_small():
    rises = [(jax.jit(log_gamma_rise), 0), (jax.jit(digamma_rise), 1)]
    for b in (0.0, 1e-3, 0.5, 10.0, 1e6):
        for a in (1e-6, 1e-3, 0.3, 1.0):
            single = np.float32([a, b])
            wide = [float(value) for value in single]
            rule = gauss_legendre(0, wide[0], 20)
            for rise, order in rises:
                rates = scipy.special.polygamma(order, 1 + wide[1] + rule.nodes)
                np.testing.assert_allclose(rise(*single), rule.weights @ rates, 2e-6, 2e-7 * a)
