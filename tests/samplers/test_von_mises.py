import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.special
import scipy.stats

from jaxgen.core import _quadrature as quadrature
from jaxgen.samplers import _von_mises
from jaxgen.samplers._von_mises import von_mises

CONCENTRATIONS = np.array([0, 1e-6, 0.3, 2, 50, 1e4, 1e12, 1e30, -1, np.nan, np.inf], np.float32)
NUM_GOOD = 8
RULE = quadrature.gauss_legendre(0, 1, 20, 10)


@pytest.fixture(scope="module")
def draws():
    """Angles `[50,000, cases]`, each column of its own concentration, by one program."""
    draw = jax.jit(von_mises, static_argnums=2)
    shape = (50_000, CONCENTRATIONS.size)
    return np.asarray(draw(jax.random.key(5), jnp.asarray(CONCENTRATIONS), shape), np.float64)


def cdf(concentration):
    """SciPy's, which is a normal's with corrections where κ is large."""
    if concentration == 0:
        return lambda x: (x + np.pi) / (2 * np.pi)
    if concentration > 1e6:
        return lambda x: scipy.stats.norm.cdf(x * np.sqrt(float(concentration)))
    return scipy.stats.vonmises(float(concentration)).cdf


def test_a_grid_of_uniforms_accepts_the_right_angles(x64):
    """The share accepted is that of the formula, so no proposal exceeds its bound."""
    concentration = np.array([0.0, 0.5, 4.0, 1e8])
    u = (np.arange(2**17) + 0.5) / 2**17
    v = np.arange(1, 2**17 + 1) * 0.6180339887498949 % 1  # a lattice: even over the square
    propose = jax.jit(_von_mises.propose)
    angles, accepted = (np.asarray(a) for a in propose(concentration[:, None], u[None], v[None]))
    assert np.all(accepted[0])
    assert np.all(accepted.mean(1) > 0.65)
    for kappa, angle, kept in zip(concentration, angles, accepted, strict=True):
        x = np.sort(angle[kept])
        ranks = (np.arange(x.size) + 0.5) / x.size
        chex.assert_trees_all_close(cdf(kappa)(x), ranks, atol=2e-4, rtol=1e-7)


def test_angles_follow_the_von_mises_distribution(draws):
    for column in range(NUM_GOOD):
        sampling_checks.assert_distribution(draws[:, column], cdf(CONCENTRATIONS[column]))
    assert np.all(np.isnan(draws[:, NUM_GOOD:]))


def test_a_concentration_off_by_a_twentieth_is_seen(draws):
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(draws[:, 3], cdf(2.2))


def test_keeping_the_rejected_is_seen(x64):
    u = (np.arange(50_000) + 0.5) / 50_000
    angles, _ = jax.jit(_von_mises.propose)(2.0, u, u)
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(angles, cdf(2.0))


def test_gradient_is_implicit_reparameterization():
    """In float32, against −∂F/∂κ / p by quadrature in float64 from the nearer end."""
    concentration = np.array([0.0, 0.7, 5.0, 40.0, 1e4], np.float32)
    angle = np.geomspace(1e-3, 1, 12)[:, None] * np.minimum(3.1, 6 / np.sqrt(1 + concentration))
    angle = np.concatenate([-angle, angle]).astype(np.float32)
    tangent = np.ones_like(angle)

    @jax.jit
    def slopes(concentration, angle):
        return jax.jvp(lambda k: _von_mises._with_gradient(k, angle), (concentration,), (tangent,))

    _, found = slopes(np.tile(concentration, (24, 1)), angle)
    exact = [[slope(k, x) for k, x in zip(concentration, row, strict=True)] for row in angle]
    np.testing.assert_allclose(found, exact, rtol=2e-5)


def slope(concentration, angle):
    kappa, theta = float(concentration), abs(float(angle))
    spread = 1 - scipy.special.i1e(kappa) / scipy.special.i0e(kappa)
    is_inner = 1 - np.cos(theta) < spread
    end = 0 if is_inner else min(np.pi, theta + 20 / np.sqrt(1 + kappa))
    y = theta + (end - theta) * RULE.nodes
    weight = np.exp(kappa * (np.cos(y) - np.cos(theta)))
    integral = np.sum(RULE.weights * (spread - 2 * np.sin(y / 2) ** 2) * weight) * (end - theta)
    return np.sign(angle) * integral


def test_gradient_of_an_expectation_agrees_with_closed_form(key):
    concentration = jnp.full(50_000, 1.5)
    tangent = jnp.ones_like(concentration)
    mean = lambda k: jnp.cos(von_mises(key, k))  # noqa: E731
    _, gradients = jax.jit(lambda k: jax.jvp(mean, (k,), (tangent,)))(concentration)
    a = scipy.special.i1(1.5) / scipy.special.i0(1.5)
    sampling_checks.assert_mean(gradients, 1 - a / 1.5 - a**2)  # dA/dκ of A = I₁ / I₀ = E[cos θ]


def test_the_largest_concentration_is_drawn(key):
    largest = _von_mises._MAX_CONCENTRATION
    angles = np.asarray(von_mises(key, np.float32([largest, 2 * largest])))
    chex.assert_trees_all_equal(np.isnan(angles), np.array([False, True]))


def test_no_other_wrapped_cauchy_would_be_rejected_less(x64):
    """The share accepted is the largest of all δ, with the exact bound of each."""
    kappa = np.array([0.1, 0.3, 1.0, 4.0])[:, None]
    u = (np.arange(2**16) + 0.5)[None] / 2**16
    v = np.arange(1, 2**16 + 1)[None] * 0.6180339887498949 % 1  # a lattice: even over the square
    accepted = np.mean(jax.jit(_von_mises.propose)(kappa, u, v)[1], axis=1)
    delta = np.geomspace(1e-3, 1e2, 20_000)[None]
    m = np.clip(1 / kappa - 1 / delta, 0, 2)  # where the density over the proposal is largest
    largest = np.exp(-kappa * m) * (1 + delta * m)
    best = np.max(scipy.special.ive(0, kappa) * np.sqrt(1 + 2 * delta) / largest, axis=1)
    chex.assert_trees_all_close(accepted, best, atol=2e-4, rtol=1e-7)
