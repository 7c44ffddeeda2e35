import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.core import _quadrature as quadrature
from jaxgen.samplers import _gamma
from jaxgen.samplers._gamma import gamma, log_gamma
from jaxgen.samplers._refill import draw_with_refill, groups_of
from jaxgen.samplers._uniform import iid_uniforms

NUM_SAMPLES = 200_000


draw_log = jax.jit(log_gamma, static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def draw(key, concentration, num_samples):
    return gamma(key, concentration, (num_samples,))


def acceptance(concentration):
    """Mass and first moment of what is kept, by quadrature over the normal and the test."""
    rule = quadrature.gauss_legendre(1e-6, 1 - 1e-6, 20, 200)
    d = concentration - 1 / 3
    z = scipy.stats.norm.ppf(rule.nodes)
    root = 1 + z / np.sqrt(9 * d)
    v = np.maximum(root, 1e-30) ** 3
    kept = np.where(root > 0, np.minimum(1, np.exp(0.5 * z**2 + d * (1 - v + np.log(v)))), 0)
    mass = np.sum(rule.weights * kept)
    return mass, np.sum(rule.weights * kept * d * v) / mass


@pytest.mark.parametrize("concentration", [1.0, 2.5, 40.0])
def test_accepted_proposals_have_the_right_mean_and_rate(concentration, x64):
    """A grid of uniforms instead of random ones: the test region integrates to the gamma."""
    grid = (np.arange(2000) + 0.5) / 2000
    u, w = (jnp.asarray(a.ravel()) for a in np.meshgrid(grid, grid))
    x, accepted = jax.jit(_gamma.propose)(concentration, u, w)
    mass, mean = acceptance(concentration)
    assert mass > 0.95
    chex.assert_trees_all_close(mean, concentration, rtol=1e-4)  # the formula itself
    chex.assert_trees_all_close(np.mean(accepted), mass, atol=1e-4, rtol=1e-7)
    chex.assert_trees_all_close(np.mean(np.asarray(x)[np.asarray(accepted)]), mean, rtol=5e-4)


@pytest.mark.parametrize("concentration", [0.2, 0.5, 1.0, 2.5, 300.0])
def test_samples_follow_the_gamma_distribution(concentration, key):
    x = draw(key, concentration, NUM_SAMPLES)
    cdf = scipy.stats.gamma(float(np.float32(concentration))).cdf
    sampling_checks.assert_distribution(x, cdf)


def test_a_concentration_off_by_a_hundredth_is_seen(key):
    x = draw(key, 2.5, NUM_SAMPLES)
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(x, scipy.stats.gamma(2.54).cdf)


def test_keeping_the_rejected_is_seen(key):
    """At α = 1 one proposal in twenty is rejected."""
    u = np.asarray(iid_uniforms(key, 2 * NUM_SAMPLES)).reshape(2, -1)
    x, _ = jax.jit(_gamma.propose)(1.0, u[0], u[1])
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(x, scipy.stats.gamma(1.0).cdf)


def test_each_sample_has_its_own_concentration(key):
    concentration = jnp.tile(jnp.array([0.3, 1.0, 7.0]), 60_000)
    x = np.asarray(jax.jit(gamma)(key, concentration)).reshape(-1, 3)
    for column, value in enumerate(concentration[:3]):
        sampling_checks.assert_distribution(x[:, column], scipy.stats.gamma(float(value)).cdf)
    correlation = np.corrcoef(x.T)
    assert np.all(np.abs(correlation - np.eye(3)) < 6 / np.sqrt(60_000))


def test_log_samples_keep_a_small_concentration_from_underflow(key):
    concentration = 1e-3
    log_x = np.asarray(draw_log(key, concentration, (50_000,)), np.float64)
    assert np.all(np.isfinite(log_x))
    # For α → 0, α log x tends to log u: its CDF is that of the gamma at exp(log x).
    tail = log_x < -50
    exact = concentration * log_x[tail] - scipy.special.gammaln(1 + concentration)
    cdf_at_edge = np.exp(-50 * concentration - scipy.special.gammaln(1 + concentration))
    sampling_checks.assert_distribution(np.exp(exact) / cdf_at_edge, lambda x: x)


@pytest.mark.parametrize("concentration", [0.01, 0.5, 2.5, 50.0])
def test_gradient_is_implicit_reparameterization(concentration, x64):
    """Against finite differences of SciPy's quantile at the level of each sample."""
    log_x = draw_log(jax.random.key(1), concentration, (64,))
    slope = np.asarray(jax.jit(_gamma._log_slope)(concentration, log_x))
    x = np.exp(np.asarray(log_x))
    usable = (x > 1e-200) & (scipy.stats.gamma.cdf(x, concentration) < 1 - 1e-9)
    u = scipy.stats.gamma.cdf(x[usable], concentration)
    h = 1e-5 * concentration
    ends = [np.log(scipy.stats.gamma.ppf(u, concentration + s * h)) for s in (-1, 1)]
    chex.assert_trees_all_close(slope[usable], (ends[1] - ends[0]) / (2 * h), rtol=1e-4)


def test_gradient_of_an_expectation_agrees_with_closed_form(key):
    keys = jax.random.split(key, 2000)
    gradient = jax.jit(
        jax.vmap(jax.grad(lambda a, k: jnp.mean(gamma(k, a, (16,)) ** 2)), (None, 0))
    )(1.5, keys)
    sampling_checks.assert_mean(gradient, 2 * 1.5 + 1)  # E[x²] = α² + α


def test_jit_equals_eager_and_vmap_equals_a_loop(key):
    keys = jax.random.split(key, 3)
    concentration = jnp.array([0.4, 1.0, 3.0])
    loop = [draw(jax.random.clone(k), a, 5) for k, a in zip(keys, concentration, strict=True)]
    mapped = jax.vmap(lambda k, a: gamma(k, a, (5,)))(jax.random.clone(keys), concentration)
    chex.assert_trees_all_close(mapped, jnp.stack(loop), rtol=2e-6)
    eager = gamma(jax.random.clone(keys[1]), 1.0, (5,))
    chex.assert_trees_all_close(eager, loop[1], rtol=2e-6)


@hypothesis.given(concentration=st.floats(1e-3, 1e6), shape=st.sampled_from([(), (0,), (3, 2)]))
@hypothesis.settings(max_examples=5)
def test_shapes_and_support(concentration, shape):
    x = draw_log(jax.random.key(0), concentration, shape)
    assert x.shape == shape
    assert np.all(np.isfinite(x))


def test_float64_is_kept(x64, key):
    x = draw(key, 2.5, 100)
    assert x.dtype == jnp.float64
    assert np.any(np.asarray(x) != np.asarray(x, np.float32))


def test_bad_concentrations_give_nan_in_their_own_places_only(key):
    x = jax.jit(gamma)(key, np.array([1.0, 0.0, -1.0, np.nan, np.inf], np.float32))
    chex.assert_trees_all_equal(np.isnan(x), np.array([False, True, True, True, True]))


def test_a_shape_that_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="concentration must broadcast to shape"):
        gamma(key, jnp.ones(3), (2,))


@pytest.mark.parametrize(("num_samples", "rejected_share"), [(20_000, 1 / 16), (40_000, 0.5)])
def test_refill_draws_every_slot_when_most_are_rejected(key, num_samples, rejected_share):
    """Acceptance 0.2 exceeds the slots of one refill, so several are needed, or several levels."""

    def propose(key, scale, num_samples):
        u = jax.random.uniform(key, (num_samples,))
        return scale * u, u < 0.2

    scale = np.arange(1.0, num_samples + 1.0, dtype=np.float32)
    draw = jax.jit(lambda key: draw_with_refill(key, propose, scale, num_samples, rejected_share))
    x = draw(key) / scale
    sampling_checks.assert_distribution(x, lambda x: np.clip(x / 0.2, 0, 1))
    assert np.unique(np.asarray(x)).size > 0.9 * num_samples  # no key is used twice


def test_groups_divide_the_draws_and_are_not_small():
    sizes = [0, 1, 2**17, 2**18, 2**18 + 1, 3 * 2**18, 10**6, 2**20, 2**30]
    assert [groups_of(size) for size in sizes] == [1, 1, 1, 2, 1, 4, 4, 8, 256]
