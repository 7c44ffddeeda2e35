import chex
import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpy as np
import pytest
import scipy.special

from jaxgen.core._quadrature import gauss_legendre, product_rule
from jaxgen.estimators import _functionals as functionals

LINE = gauss_legendre(-12.0, 12.0, 20, 12)


def gaussian(mean, scale):
    return lambda x: stats.norm.logpdf(x, mean, scale)


def correlated(rho):
    def log_p(x):
        quadratic = (x[0] ** 2 - 2 * rho * x[0] * x[1] + x[1] ** 2) / (1 - rho**2)
        return -quadratic / 2 - jnp.log(2 * jnp.pi) - jnp.log(1 - rho**2) / 2

    return log_p


def test_one_dimensional_functionals_agree_with_closed_forms(x64):
    average = functionals.by_quadrature(LINE)
    p, q = gaussian(0.5, 0.8), gaussian(-0.2, 1.1)
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.64)
    forward = np.log(1.1 / 0.8) + (0.64 + 0.49) / (2 * 1.21) - 0.5
    backward = np.log(0.8 / 1.1) + (1.21 + 0.49) / (2 * 0.64) - 0.5
    chex.assert_trees_all_close(functionals.entropy(average, p).value, entropy, rtol=1e-10)
    chex.assert_trees_all_close(functionals.kl_divergence(average, p, q).value, forward, rtol=1e-10)
    chex.assert_trees_all_close(
        functionals.kl_divergence(average, q, p).value, backward, rtol=1e-10
    )
    chex.assert_trees_all_close(
        functionals.cross_entropy(average, p, q).value, entropy + forward, rtol=1e-10
    )


def test_no_mass_means_no_contribution():
    def uniform(x):
        return jnp.where((x > 0) & (x < 2), -jnp.log(2.0), -jnp.inf)

    average = functionals.by_quadrature(gauss_legendre(-1.0, 3.0, 4, 4))
    chex.assert_trees_all_close(functionals.entropy(average, uniform).value, np.log(2.0), rtol=1e-6)


def test_mutual_information_of_a_correlated_pair(x64):
    rule = gauss_legendre(-9.0, 9.0, 16, 4)
    joint = correlated(0.6)
    marginals = functionals.marginal_product(joint, rule, rule)
    average = functionals.by_quadrature(product_rule(rule, rule))
    information = functionals.mutual_information(average, joint, marginals)
    chex.assert_trees_all_close(information.value, -0.5 * np.log(1 - 0.36), rtol=1e-8)


def test_monte_carlo_agrees_above_two_dimensions(key):
    """Five dimensions; both entropies and a divergence in closed form."""
    scales = jnp.array([0.5, 1.0, 2.0, 0.7, 1.5])

    def draw(key, num_samples):
        return scales[None] * jax.random.normal(key, (num_samples, 5))

    def log_p(x):
        return jnp.sum(stats.norm.logpdf(x, 0.0, scales))

    def log_q(x):
        return jnp.sum(stats.norm.logpdf(x, 0.1, 1.2 * scales))

    average = functionals.by_monte_carlo(key, draw, 200_000)
    entropy = functionals.entropy(average, log_p)
    divergence = functionals.kl_divergence(average, log_p, log_q)
    exact_entropy = np.sum(np.log(scales)) + 2.5 * np.log(2 * np.pi * np.e)
    spread = np.log(1.2) + (1 + 0.01 / np.asarray(scales) ** 2) / 2.88 - 0.5
    for estimate, exact in ((entropy, exact_entropy), (divergence, spread.sum())):
        assert abs(estimate.value - exact) < 4 * estimate.standard_error < 0.03 * abs(exact)


def test_integrals_of_the_slope_by_quadrature_and_by_samples(key):
    def fisher(x, p, dp):
        return jnp.sum(dp**2) / p

    def density(x):
        return jnp.exp(-jnp.sum(x**2) / 3) / (3 * jnp.pi) ** (x.size / 2)

    plane = product_rule(gauss_legendre(-9.0, 9.0, 30), gauss_legendre(-9.0, 9.0, 30))
    both = jax.jit(lambda: [functionals.functional(fisher, density, r) for r in (LINE, plane)])()
    chex.assert_trees_all_close(both[0], 2 / 3, rtol=1e-5)
    chex.assert_trees_all_close(both[1], 4 / 3, rtol=1e-4)

    def draw(key, num_samples):
        return jnp.sqrt(1.5) * jax.random.normal(key, (num_samples, 4))

    estimate = jax.jit(
        lambda key: functionals.functional_estimate(key, fisher, density, draw, 100_000)
    )(key)
    assert abs(estimate.value - 8 / 3) < 4 * estimate.standard_error < 0.03


FUNCTIONALS = {
    "negentropy": (
        lambda x, p, dp: p * jnp.log(p),
        lambda x, s: -(x**2) / (2 * s**2) - np.log(s * np.sqrt(2 * np.pi)) + 1,
    ),
    "energy": (lambda x, p, dp: p * x**4 + p**2, None),
    "fisher": (lambda x, p, dp: dp**2 / p, lambda x, s: 2 / s**2 - x**2 / s**4),
}


@pytest.mark.parametrize("name", ["negentropy", "fisher"])
def test_functional_derivative_agrees_with_the_closed_form(name, x64):
    integrand_fn, exact_fn = FUNCTIONALS[name]
    x, scale = np.linspace(-3, 3, 13), 1.3
    derivative = functionals.functional_derivative(
        integrand_fn, lambda x: jnp.exp(stats.norm.logpdf(x, 0.0, scale))
    )
    chex.assert_trees_all_close(
        jax.jit(jax.vmap(derivative))(x), exact_fn(x, scale), atol=1e-10, rtol=1e-7
    )


def test_functional_derivative_of_the_dirichlet_energy_is_minus_the_laplacian(x64):
    def density(x):
        return jnp.sin(x[0]) * jnp.exp(x[1])

    derivative = functionals.functional_derivative(lambda x, p, dp: jnp.sum(dp**2) / 2, density)
    x = np.array([0.3, -0.7])  # the Laplacian of this one is zero
    chex.assert_trees_all_close(jax.jit(derivative)(x), 0.0, atol=1e-12, rtol=1e-7)
    derivative = functionals.functional_derivative(
        lambda x, p, dp: jnp.sum(dp**2) / 2, lambda x: jnp.sum(x**2) ** 2
    )
    chex.assert_trees_all_close(jax.jit(derivative)(x), -16 * np.sum(x**2), rtol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_functional_derivative_predicts_a_small_change(name, x64):
    integrand_fn, _ = FUNCTIONALS[name]
    rule = gauss_legendre(-5.0, 5.0, 20, 6)

    def density(x):
        return jnp.exp(-(x**2) / 4 + 0.1 * jnp.sin(x)) / 3.5

    def bump(x):
        return (x - 0.3) * jnp.exp(-((x - 0.3) ** 2))

    def changed(size):
        return functionals.functional(integrand_fn, lambda x: density(x) + size * bump(x), rule)

    derivative = functionals.functional_derivative(integrand_fn, density)
    by_node = jax.jit(jax.vmap(lambda x: derivative(x) * bump(x)))(rule.nodes)
    slope = jax.jit(jax.grad(changed))(0.0)
    chex.assert_trees_all_close(slope, rule.weights @ np.asarray(by_node), rtol=1e-6)


RESULTANT = float(scipy.special.i1(2.0) / scipy.special.i0(2.0))
MAXIMUM_ENTROPY = {
    "uniform": (gauss_legendre(-1.0, 3.0, 20), lambda x: jnp.zeros(0), [], lambda x: 0 * x + 0.25),
    "exponential": (
        gauss_legendre(0.0, 60.0, 12, 20),
        lambda x: jnp.stack([x]),
        [1.5],
        lambda x: np.exp(-x / 1.5) / 1.5,
    ),
    "gaussian": (
        gauss_legendre(-9.0, 11.0, 12, 20),
        lambda x: jnp.stack([x, x**2]),
        [1.0, 1.0 + 0.81],
        lambda x: np.exp(-((x - 1) ** 2) / 1.62) / np.sqrt(1.62 * np.pi),
    ),
    "von_mises": (
        gauss_legendre(-np.pi, np.pi, 12, 10),
        lambda x: jnp.stack([jnp.cos(x), jnp.sin(x)]),
        [RESULTANT * np.cos(0.5), RESULTANT * np.sin(0.5)],
        lambda x: np.exp(2 * np.cos(x - 0.5)) / (2 * np.pi * scipy.special.i0(2.0)),
    ),
}


def most_entropic(name, moments):
    rule, statistics_fn, _, _ = MAXIMUM_ENTROPY[name]
    return jax.jit(
        lambda moments: functionals.minimize_functional(
            lambda x, p: p * jnp.log(p), statistics_fn, moments, rule
        )
    )(moments)


@pytest.mark.parametrize("name", MAXIMUM_ENTROPY)
def test_maximum_entropy_densities_are_recovered_to_a_millionth(name, x64):
    rule, _, moments, exact_fn = MAXIMUM_ENTROPY[name]
    result = most_entropic(name, jnp.asarray(moments, jnp.float64))
    assert result.residual < 1e-8
    chex.assert_trees_all_close(result.density, exact_fn(rule.nodes), rtol=0, atol=1e-6)
    negentropy = rule.weights @ scipy.special.xlogy(exact_fn(rule.nodes), exact_fn(rule.nodes))
    chex.assert_trees_all_close(result.value, negentropy, rtol=1e-6)


@pytest.mark.parametrize("name", MAXIMUM_ENTROPY)
def test_single_precision_comes_within_its_rounding(name):
    rule, _, moments, exact_fn = MAXIMUM_ENTROPY[name]
    result = most_entropic(name, jnp.asarray(moments, jnp.float32))
    chex.assert_trees_all_close(result.density, exact_fn(rule.nodes), rtol=0, atol=2e-5)


def test_an_impossible_moment_shows_in_the_residual():
    result = most_entropic("von_mises", jnp.array([1.5, 0.0]))
    assert not result.residual < 1e-3


def test_a_moment_that_is_not_met_shows_in_the_residual_alone():
    """At the start the density is uniform, which is stationary here, and of mean 1."""
    result = functionals.minimize_functional(
        lambda x, p: (p - 0.25) ** 2,
        lambda x: jnp.stack([x]),
        jnp.array([1.5]),
        gauss_legendre(-1.0, 3.0, 4),
        num_iterations=0,
    )
    chex.assert_trees_all_close(result.residual, 0.5, rtol=1e-5)


def test_the_residual_is_that_of_the_node_that_is_least_stationary():
    """The slope of the integrand is 2 (p − ¼) + x: at the start it is x, and the mean is met."""
    rule = gauss_legendre(-1.0, 3.0, 4)
    result = functionals.minimize_functional(
        lambda x, p: (p - 0.25) ** 2 + x * p,
        lambda x: jnp.stack([x]),
        jnp.array([1.0]),
        rule,
        num_iterations=0,
    )
    chex.assert_trees_all_close(result.residual, np.abs(rule.nodes).max(), rtol=1e-4)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="moments must have shape"):
        functionals.minimize_functional(
            lambda x, p: p**2, lambda x: jnp.stack([x]), jnp.zeros(2), LINE
        )
    with pytest.raises(TypeError, match="key must be a typed key"):
        functionals.by_monte_carlo(jnp.zeros(2), lambda key, num_samples: None, 10)


def test_complex_integrands_are_refused_by_name():
    average = functionals.by_quadrature(gauss_legendre(0.0, 1.0, 4))
    with pytest.raises(TypeError, match=r"h\(x\) must be real"):
        average(lambda x: 0.0 * x, lambda x: 1j * x)
    assert average(lambda x: 0, lambda x: 2).value == 2  # whole numbers are numbers


def test_the_size_of_violations_does_not_depend_on_the_number_of_nodes():
    sizes = []
    for rule in (gauss_legendre(-1.0, 3.0, 4), gauss_legendre(-1.0, 3.0, 9)):
        violations = jnp.asarray(rule.nodes, jnp.float32), jnp.array([0.5])
        sizes.append(functionals._size(violations, jnp.asarray(rule.weights, jnp.float32)))
    np.testing.assert_allclose(sizes, 7 / 3 + 0.25, rtol=1e-5)
