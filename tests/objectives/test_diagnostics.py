"""Diagnostics on a linear Gaussian model, where all of them are known."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
from latent_conformance import QUICK

from jaxgen.models.latent._discrete import DiscreteVAE
from jaxgen.models.latent._hierarchical import HierarchicalVAE
from jaxgen.models.latent._linear_gaussian import LinearGaussian, LinearGaussianParams
from jaxgen.objectives._diagnostics import _mean_variance, diagnose, inference_gaps

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

jitted = functools.partial(jax.jit, compiler_options=QUICK)

# The third latent reaches no coordinate; the first two share theirs, so their posterior is oblique.
W = np.array([[1.0, 0.6, 0.0], [-0.5, 0.8, 0.0], [0.2, -0.4, 0.0]], np.float32)
MODEL = LinearGaussian()
BLANK = LinearGaussianParams(
    W, np.float32(np.log(0.5)), np.zeros((3, 3), np.float32), np.eye(3, dtype=np.float32)
)
TRUE = jax.device_get(jax.jit(MODEL.exact_posterior)(BLANK))
COVARIANCE = W @ W.T + 0.25 * np.eye(3, dtype=np.float32)
X = np.random.default_rng(0).multivariate_normal(np.zeros(3), COVARIANCE, 800).astype(np.float32)


@functools.cache
def diagnosed():
    run = jitted(lambda key, x: diagnose(key, MODEL, TRUE, x, num_samples=200))
    return jax.device_get(run(jax.random.key(0), X))


def test_weights_at_the_true_posterior_are_constant():
    exact = jitted(MODEL.log_prob)(TRUE, X)
    chex.assert_trees_all_close(diagnosed().log_prob, exact, atol=2e-5, rtol=1e-7)
    chex.assert_trees_all_close(diagnosed().elbo, exact, atol=2e-5, rtol=1e-7)
    chex.assert_trees_all_close(diagnosed().effective_sample_size, 200.0, rtol=1e-4)


def test_active_units():
    mean = X @ np.asarray(TRUE.posterior_weights).T
    chex.assert_trees_all_close(
        diagnosed().mean_variance, mean.var(0, ddof=1), atol=0.01, rtol=1e-7
    )
    assert diagnosed().num_active.tolist() == [2]
    assert not diagnosed().is_collapsed[0]


def test_kl_is_that_of_the_normals_and_splits_into_information_and_aggregate():
    covariance = TRUE.posterior_factor @ TRUE.posterior_factor.T
    mean = X @ np.asarray(TRUE.posterior_weights).T
    kl = 0.5 * (np.trace(covariance) + (mean**2).sum(1) - 3 - np.linalg.slogdet(covariance)[1])
    chex.assert_trees_all_close(diagnosed().group_kl[0].mean(), kl.mean(), atol=0.02, rtol=1e-7)
    # At the true posterior of model data the aggregate is the prior, all of the KL information.
    information = 0.5 * (np.linalg.slogdet(COVARIANCE)[1] - 3 * np.log(0.25))
    chex.assert_trees_all_close(
        diagnosed().index_mutual_information, information, atol=0.12, rtol=1e-7
    )
    chex.assert_trees_all_close(diagnosed().aggregate_kl, 0.0, atol=0.12, rtol=1e-7)


def test_heavy_weights_show():
    narrow = TRUE._replace(posterior_factor=0.3 * TRUE.posterior_factor)
    result = jitted(lambda key: diagnose(key, MODEL, narrow, X[:20]))(jax.random.key(1))
    assert np.median(result.pareto_shape) > 0.7
    assert np.median(result.effective_sample_size) < 30


def test_gap_splits_into_what_the_family_and_what_the_encoder_loses():
    precision = np.linalg.inv(np.float64(TRUE.posterior_factor @ TRUE.posterior_factor.T))
    best_scales = np.diag(precision) ** -0.5
    approximation = -0.5 * (np.linalg.slogdet(precision)[1] + 2 * np.log(best_scales).sum())
    shifted = TRUE._replace(
        posterior_weights=TRUE.posterior_weights + 0.3,
        posterior_factor=np.diag(best_scales).astype(np.float32),
    )
    run = jitted(lambda key, x: inference_gaps(key, MODEL, shifted, x, num_samples=4000))
    gaps = run(jax.random.key(3), X[:6])
    off = 0.3 * X[:6].sum(1)
    amortization = 0.5 * off**2 * precision.sum()
    chex.assert_trees_all_close(
        gaps.log_prob, jitted(MODEL.log_prob)(TRUE, X[:6]), atol=0.05, rtol=1e-7
    )
    chex.assert_trees_all_close(gaps.approximation, approximation, atol=0.06, rtol=1e-7)
    chex.assert_trees_all_close(gaps.amortization, amortization, rtol=0.05, atol=0.1)


def test_groups_are_told_apart():
    model = HierarchicalVAE(3, 2, (2, 1), ((3,), (2,)))
    x = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0]] * 10)
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    kernel = params["params"]["upward_1"]["mean"]["kernel"]
    params["params"]["upward_1"]["mean"]["kernel"] = np.zeros_like(kernel)  # hears nothing above
    result = jitted(lambda key: diagnose(key, model, params, x))(jax.random.key(1))
    result = jax.device_get(result)
    assert result.group_kl.shape == (2, 30)
    assert result.is_collapsed.tolist() == [False, True]
    ratios = (result.log_prob - result.elbo)[None]
    assert (ratios >= 0).all()
    sampling_checks.assert_mean(result.group_kl[1], 0.0, rounding=1e-5)


def test_discrete_latents_have_no_local_normal(key):
    model = DiscreteVAE(2, 2, 2, 2, None, (3,))
    x = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), x)
    with pytest.raises(ValueError, match="posterior"):
        jax.eval_shape(lambda key: inference_gaps(key, model, params, x), key)


def test_the_variance_of_posterior_means_is_freed_of_what_few_draws_add():
    group = np.random.default_rng(0).normal(size=(3, 50, 2)).astype(np.float32)
    noise = group.var(axis=0, ddof=1).mean(axis=0) / 3
    expected = group.mean(axis=0).var(axis=0, ddof=1) - noise
    chex.assert_trees_all_close(_mean_variance(jnp.asarray(group)), expected, rtol=1e-5)
