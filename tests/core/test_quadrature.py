import chex
import numpy as np
import pytest

from jaxgen.core import _quadrature as quadrature


def test_gauss_legendre_is_exact_for_polynomials():
    rule = quadrature.gauss_legendre(-1.0, 3.0, 6)
    for degree in range(12):
        exact = (3.0 ** (degree + 1) - (-1.0) ** (degree + 1)) / (degree + 1)
        chex.assert_trees_all_close(rule.weights @ rule.nodes**degree, exact, rtol=1e-12)


def test_panels_cover_the_interval():
    rule = quadrature.gauss_legendre(0.0, 10.0, 8, num_panels=20)
    chex.assert_trees_all_close(
        rule.weights @ np.sin(5 * rule.nodes), (1 - np.cos(50)) / 5, rtol=1e-7
    )


def test_gauss_hermite_gives_normal_moments():
    rule = quadrature.gauss_hermite(12)
    for degree, moment in [(0, 1), (1, 0), (2, 1), (4, 3), (6, 15)]:
        chex.assert_trees_all_close(
            rule.weights @ rule.nodes**degree, moment, atol=1e-10, rtol=1e-7
        )


@pytest.mark.parametrize(("lower", "upper"), [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf)])
def test_bad_intervals_are_refused(lower, upper):
    with pytest.raises(ValueError, match="lower and upper must be finite and in order"):
        quadrature.gauss_legendre(lower, upper, 4)
