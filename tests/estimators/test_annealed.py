import dataclasses
import functools
import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._quadrature import gauss_hermite
from jaxgen.estimators import _annealed as annealed
from jaxgen.estimators import _importance as importance


class Normal(NamedTuple):
    mean: jax.Array
    scale: jax.Array

    def log_prob(self, x):
        return jnp.sum(stats.norm.logpdf(x, self.mean, self.scale), axis=-1)

    def sample(self, seed):
        return self.mean + self.scale * jax.random.normal(seed, self.mean.shape)


class Bernoulli(NamedTuple):
    logits: jax.Array

    def log_prob(self, x):
        return jnp.sum(x * self.logits - jax.nn.softplus(self.logits), axis=-1)

    def sample(self, seed):
        return jax.random.bernoulli(seed, jax.nn.sigmoid(self.logits)).astype(jnp.float32)


PARAMS = {
    "loadings": jnp.array([[1.0, -0.5], [0.8, 1.2], [0.0, 2.0], [1.5, 0.3]]),
    "scale": jnp.full((1, 4), 0.3),
}


@dataclasses.dataclass(frozen=True)
class Model(LatentVariableModel):
    """Linear, or bits by a sigmoid; the mean of z is 0, or what `context` says."""

    is_linear: bool

    def prior(self, params, *, context=None):
        mean = jnp.zeros(2) if context is None else context
        return Normal(mean, jnp.ones_like(mean))

    def likelihood(self, params, z, *, context=None):
        mean = z @ params["loadings"].T
        return Normal(mean, params["scale"]) if self.is_linear else Bernoulli(3 * mean)


LINEAR, SIGMOID = Model(is_linear=True), Model(is_linear=False)


def simulate(key, model, num_points):
    z_key, x_key = jax.random.split(key)
    z = jax.random.normal(z_key, (num_points, 2))
    return model.likelihood(PARAMS, z).sample(x_key), z


def linear_log_likelihood(x):
    loadings = np.asarray(PARAMS["loadings"], np.float64)
    covariance = loadings @ loadings.T + 0.09 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(np.asarray(x))


def sigmoid_log_likelihood(x):
    rule = gauss_hermite(80)
    z = np.array(list(itertools.product(rule.nodes, rule.nodes)))
    weights = np.outer(rule.weights, rule.weights).ravel()
    logits = 3 * z @ np.asarray(PARAMS["loadings"], np.float64).T
    x = np.asarray(x, np.float64)[:, None]
    return np.log(np.exp(np.sum(x * logits - np.logaddexp(0, logits), axis=-1)) @ weights)


@jax.jit
def bounds(key, model, x, z, temperatures, context=None):
    return annealed.log_likelihood_bounds(
        key, model, PARAMS, x, z, temperatures, context=context, num_chains=8, num_leapfrog=5
    )


@pytest.mark.parametrize(
    ("model", "exact_fn"),
    [(LINEAR, linear_log_likelihood), (SIGMOID, sigmoid_log_likelihood)],
    ids=["linear", "sigmoid"],
)
def test_bounds_sandwich_the_exact_log_likelihood(model, exact_fn, key):
    data_key, run_key = jax.random.split(key)
    x, z = simulate(data_key, model, 40)
    exact = exact_fn(x)
    result = bounds(run_key, model, x, z, annealed.sigmoid_schedule(200))
    below = exact - np.asarray(result.lower.value)
    above = np.asarray(result.upper.value) - exact
    for side in (below, above):
        assert side.mean() > -4 * side.std(ddof=1) / np.sqrt(40)
    assert 0 < np.mean(below + above) < 0.2
    acceptance = np.asarray(result.acceptance)
    assert np.all((acceptance > 0.4) & (acceptance <= 1))


def test_more_temperatures_close_the_gap(key):
    data_key, run_key = jax.random.split(key)
    x, z = simulate(data_key, SIGMOID, 40)
    result = bounds(run_key, SIGMOID, x, z, annealed.sigmoid_schedule(10))
    gap = np.asarray(result.upper.value - result.lower.value)
    assert gap.mean() > 0.2  # with 200 it is below that


def test_the_context_of_each_point_moves_its_prior(key):
    """The prior's mean m makes x ~ N(W m, W Wᵀ + σ² I); other points' contexts do not matter."""
    data_key, run_key = jax.random.split(key)
    noise, z = simulate(data_key, LINEAR, 40)
    context = jnp.stack([jnp.linspace(-2.0, 2.0, 40), jnp.ones(40)], axis=1)
    shift = context @ PARAMS["loadings"].T
    exact = linear_log_likelihood(noise)
    result = bounds(
        run_key, LINEAR, noise + shift, z + context, annealed.sigmoid_schedule(200), context
    )
    below = exact - np.asarray(result.lower.value)
    above = np.asarray(result.upper.value) - exact
    for side in (below, above):
        assert side.mean() > -4 * side.std(ddof=1) / np.sqrt(40)
    assert 0 < np.mean(below + above) < 0.2


def gaussian_path(num_temperatures):
    """From N(0, 1) to 3 exp(−(z − 1)² / 0.32), whose constant is 3 √(0.32 π)."""
    return annealed.AnnealingPath(
        lambda z: stats.norm.logpdf(z, 0.0, 1.0),
        lambda z: jnp.log(3.0) - (z - 1) ** 2 / 0.32,
        annealed.sigmoid_schedule(num_temperatures),
    )


LOG_CONSTANT = np.log(3 * np.sqrt(0.32 * np.pi))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_weights_are_unbiased_with_few_temperatures(direction, key):
    path, step_sizes = gaussian_path(4), jnp.full(4, 0.3)
    draw_key, run_key = jax.random.split(key)
    z = jax.random.normal(draw_key, (200_000,))
    if direction == "forward":
        chains = jax.jit(lambda z: annealed.anneal(run_key, path, z, step_sizes, num_leapfrog=2))(z)
        ratio = np.exp(np.asarray(chains.log_weights, np.float64) - LOG_CONSTANT)
    else:
        chains = jax.jit(
            lambda z: annealed.anneal(run_key, path, z, step_sizes, num_leapfrog=2, reverse=True)
        )(1 + 0.4 * z)
        ratio = np.exp(LOG_CONSTANT - np.asarray(chains.log_weights, np.float64))
    sampling_checks.assert_mean(ratio, 1.0)
    with pytest.raises(AssertionError):
        sampling_checks.assert_mean(ratio, 1.02)


def test_one_temperature_is_importance_sampling_from_the_start(key):
    path = gaussian_path(1)
    z = jnp.linspace(-1.0, 2.0, 5)
    chains = annealed.anneal(key, path, z, jnp.full(1, 0.3), num_leapfrog=1)
    ratio = jax.vmap(lambda z: path.log_final_fn(z) - path.log_initial_fn(z))(z)
    chex.assert_trees_all_close(chains.log_weights, ratio, rtol=1e-6)


def test_hmc_leaves_its_density_unchanged(key):
    draw_key, move_key = jax.random.split(key)
    z = jax.random.normal(draw_key, (200_000,))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0))
    def move(key, z):
        return annealed.hmc_step(key, lambda z: -(z**2) / 2, z, 1.2, 3)

    moved, rates = move(jax.random.split(move_key, z.size), z)
    assert 0.3 < np.mean(rates) < 0.95
    assert abs(np.corrcoef(z, moved)[0, 1]) < 0.9
    sampling_checks.assert_distribution(moved, scipy.stats.norm.cdf)
    with pytest.raises(AssertionError):
        sampling_checks.assert_distribution(1.05 * moved, scipy.stats.norm.cdf)


def test_hmc_refuses_a_diverged_trajectory(key):
    start = {"a": jnp.ones(2), "b": jnp.array(0.5)}

    def log_density(z):
        return -jnp.sum(z["a"] ** 4) - z["b"] ** 2

    moved, rate = annealed.hmc_step(key, log_density, start, 100.0, 20)
    assert rate == 0
    chex.assert_trees_all_equal(moved, start)


@jax.jit
def anneal_to_posterior(key, x):
    """Prior N(0, 1), likelihood N(z, 0.3²): the weights of prior draws, steps and chains."""

    def log_joint(z):
        return stats.norm.logpdf(z) + stats.norm.logpdf(x, z, 0.3)

    path = annealed.AnnealingPath(stats.norm.logpdf, log_joint, annealed.sigmoid_schedule(100))
    draw_key, tune_key, run_key = jax.random.split(key, 3)
    z = jax.random.normal(draw_key, (500,))
    step_sizes = annealed.tune_step_sizes(tune_key, path, z, num_leapfrog=3)
    chains = annealed.anneal(run_key, path, z, step_sizes, num_leapfrog=3)
    return stats.norm.logpdf(x, z, 0.3), step_sizes, chains


def test_tuned_steps_reach_the_acceptance_asked_for(key):
    _, step_sizes, chains = anneal_to_posterior(key, 1.0)
    assert abs(np.mean(chains.acceptance) - 0.65) < 0.1
    assert step_sizes[-1] < 0.5 * step_sizes[0]


def test_smoothed_weights_warn_of_the_prior_where_annealing_does_not(key):
    """A point far out: the prior is a bad proposal, annealed chains are a good one."""
    by_prior, _, chains = anneal_to_posterior(key, 4.5)
    smooth = jax.jit(importance.pareto_smooth)
    assert not smooth(by_prior).reliable
    smoothed = smooth(chains.log_weights)
    assert smoothed.reliable
    estimate = importance.log_mean_weight(smoothed.log_weights)
    exact = stats.norm.logpdf(4.5, 0.0, np.sqrt(1.09))
    assert abs(estimate.value - exact) < 4 * estimate.standard_error < 0.4
    gain = importance.effective_sample_size(chains.log_weights)
    assert gain > 20 * importance.effective_sample_size(by_prior)


def test_mistakes_are_named(key):
    x, z = jnp.zeros((2, 4)), jnp.zeros((2, 2))
    with pytest.raises(ValueError, match="num_chains must be at least 2"):
        annealed.log_likelihood_bounds(
            key, LINEAR, PARAMS, x, z, annealed.sigmoid_schedule(4), num_chains=1
        )
    with pytest.raises(ValueError, match="num_temperatures must be at least 1"):
        annealed.sigmoid_schedule(0)
