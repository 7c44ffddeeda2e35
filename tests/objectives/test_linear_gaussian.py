"""Bounds against a model that integrates exactly."""

import re

import chex
import distrax
import jax
import jax.numpy as jnp
import latent_conformance
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.models.latent._linear_gaussian import LinearGaussian, LinearGaussianParams
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._multi_sample import importance_log_prob, iwae, iwae_bound, log_weights

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

W = np.array([[1.0, 0.3], [-0.5, 0.8], [0.2, -0.4]], np.float32)
NOISE = 0.7
MODEL = LinearGaussian()
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
EXACT = scipy.stats.multivariate_normal(np.zeros(3), W @ W.T + NOISE**2 * np.eye(3)).logpdf(X)

BLANK = LinearGaussianParams(
    W, np.float32(np.log(NOISE)), np.zeros((2, 3), np.float32), np.eye(2, dtype=np.float32)
)
TRUE = jax.device_get(jax.jit(MODEL.exact_posterior)(BLANK))
WRONG = TRUE._replace(
    posterior_weights=0.5 * TRUE.posterior_weights, posterior_factor=1.4 * TRUE.posterior_factor
)

weights_of = jax.jit(log_weights, static_argnames="num_samples")
elbo_of = jax.jit(elbo, static_argnames=("num_samples", "kl"))
estimate_of = jax.jit(importance_log_prob, static_argnames=("num_samples", "chunk_size"))


def test_marginal_agrees_with_scipy():
    chex.assert_trees_all_close(jax.jit(MODEL.log_prob)(WRONG, X), EXACT, rtol=1e-5)


def test_no_solve_is_batched(key):
    """Some versions of jax hang where two batched ones run at once; one factor needs no batch."""

    def value(params, x):
        options = {"num_samples": 5, "gradient": "doubly_reparameterized"}
        return jnp.sum(iwae(key, MODEL, params, x, **options))

    program = jax.jit(jax.grad(value)).lower(WRONG, X).as_text()
    calls = [line for line in program.splitlines() if "@lapack" in line]
    assert calls
    assert not [line for line in calls if re.search(r"tensor<\d+x\d+x\d+x", line)]


def test_a_context_is_refused():
    with pytest.raises(ValueError, match="context must be None for a model without conditioning"):
        MODEL.posterior(TRUE, X, context=1)


def test_exact_posterior_is_bayes_rule():
    @jax.jit
    def log_probs(params, z):
        joint = MODEL.likelihood(params, z).log_prob(X) + MODEL.prior(params).log_prob(z)
        return joint, MODEL.posterior(params, X).log_prob(z)

    joint, log_q = log_probs(TRUE, np.array([[0.4, -0.8]] * 4, np.float32))
    chex.assert_trees_all_close(log_q, joint - EXACT, atol=2e-5, rtol=1e-7)


def test_weights_are_constant_at_the_true_posterior(key):
    log_w = weights_of(key, MODEL, TRUE, X, num_samples=50)
    chex.assert_trees_all_close(log_w, np.broadcast_to(EXACT, (50, 4)), atol=2e-5, rtol=1e-7)


def test_elbo_is_tight_at_the_true_posterior(key):
    result = elbo_of(key, MODEL, TRUE, X, num_samples=7, kl="monte_carlo")
    chex.assert_trees_all_close(result.value, EXACT, atol=2e-5, rtol=1e-7)


def test_weights_are_unbiased_at_a_wrong_posterior(key):
    ratios = np.exp(weights_of(key, MODEL, WRONG, X, num_samples=200_000) - EXACT[None])
    sampling_checks.assert_mean(ratios, 1.0)
    assert (ratios.std(0) / 200_000**0.5 < 0.003).all()  # sees a fault of 2 %


def test_bounds_grow_with_the_number_of_samples(key):
    @jax.jit
    def means(key):
        log_w = log_weights(key, MODEL, WRONG, X, num_samples=100_000)
        return [latent_conformance.bound_samples(log_w, k).mean(0) for k in (1, 4, 20)]

    bounds = means(key)
    assert (np.diff([*bounds, EXACT], axis=0) > 0).all()
    assert np.max(EXACT - bounds[-1]) < 0.05


def test_parts_of_the_elbo_stay_apart(key):
    again = jax.random.clone(key)
    plain = jax.device_get(elbo_of(key, MODEL, WRONG, X, num_samples=3, kl="monte_carlo"))
    chex.assert_trees_all_close(plain.value, plain.log_likelihood - plain.kl, rtol=1e-6)
    weighted = elbo_of(again, MODEL, WRONG, X, num_samples=3, kl="monte_carlo", beta=0.25)
    chex.assert_trees_all_equal(weighted.kl, plain.kl)
    chex.assert_trees_all_close(weighted.value, plain.log_likelihood - 0.25 * plain.kl, rtol=1e-6)


def test_analytic_and_sampled_kl_agree(key):
    class Diagonal(LinearGaussian):
        def posterior(self, params, x, *, context=None):
            mean = x @ params.posterior_weights.T
            return distrax.MultivariateNormalDiag(mean, jnp.full(mean.shape, 0.6))

    model = Diagonal()
    again = jax.random.clone(key)
    exact = elbo_of(again, model, WRONG, X).kl
    sampled = elbo_of(key, model, WRONG, X, num_samples=100_000, kl="monte_carlo").kl
    chex.assert_trees_all_close(sampled, exact, atol=0.03, rtol=1e-7)


@pytest.mark.parametrize("chunk_size", [20, 1000])
def test_streamed_estimate_agrees_with_the_exact_value(key, chunk_size):
    estimate = estimate_of(key, MODEL, WRONG, X, num_samples=20_000, chunk_size=chunk_size)
    excess = np.abs(estimate.value - EXACT) / estimate.standard_error
    assert (excess < scipy.stats.norm.isf(sampling_checks.FALSE_POSITIVE_RATE / 8)).all()
    assert (estimate.standard_error < 0.03).all()
    assert int(estimate.num_samples) == 20_000


def test_streamed_estimate_is_exact_at_the_true_posterior(key):
    estimate = estimate_of(key, MODEL, TRUE, X, num_samples=100, chunk_size=10)
    chex.assert_trees_all_close(estimate.value, EXACT, atol=2e-5, rtol=1e-7)
    assert (np.asarray(estimate.standard_error) < 1e-4).all()


def test_memory_does_not_grow_with_the_number_of_samples(key):
    def temporary_bytes(num_samples):
        compiled = jax.jit(
            lambda key: (
                importance_log_prob(
                    key, MODEL, WRONG, X, num_samples=num_samples, chunk_size=50
                ).value
            )
        ).lower(key)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(50_000) == temporary_bytes(1_000)


def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match="num_samples must be a multiple of chunk_size=50, got 70"):
        importance_log_prob(key, MODEL, TRUE, X, num_samples=70)
    with pytest.raises(ValueError, match="kl must be one of analytic, monte_carlo, got 'exact'"):
        elbo(key, MODEL, TRUE, X, kl="exact")
    with pytest.raises(ValueError, match="log_w must have rank 2, got shape"):
        iwae_bound(jnp.zeros(3))
    with pytest.raises(TypeError, match="key must be a typed key"):
        log_weights(jax.random.PRNGKey(0), MODEL, TRUE, X, num_samples=3)
