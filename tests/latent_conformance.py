"""Conformance of latent-variable models; a new model joins by one row where these are run.

A case is a model whose spaces of x and z are small: symbols are enumerated, and a line or a plane
is covered with nodes that integrate to float32's last digits. Then log p(x), the bounds and their
gradients are sums, and everything random is held against them at the suite's stated rate.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import sampling_checks
import scipy.stats

from jaxgen.core import _quadrature as quadrature
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._multi_sample import elbo_bound, iwae_bound, multi_sample_bound
from jaxgen.objectives._multi_sample import log_weights as weights_of

NUM_DRAWS = 20_000
# Tiny models compile for longer than they run.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Space(NamedTuple):
    """Points over which sums are taken: all there are, or the nodes of a quadrature rule."""

    points: Any  # a pytree of [N, ...]
    log_weights: np.ndarray  # [N]


class Case(NamedTuple):
    """A model in a setting small enough to sum over."""

    model: LatentVariableModel
    params: Any
    x: np.ndarray  # where bounds and gradients are checked, [B, D]
    x_space: Space
    z_space: Space
    context: Any = None  # one for all data points


def every_symbol(num_dims, num_symbols):
    """All vectors of symbols, `[V^D, D]`."""
    points = np.array(list(itertools.product(range(num_symbols), repeat=num_dims)), np.int32)
    return Space(points, np.zeros(len(points), np.float32))


def line(half_width=12.0):
    """Nodes of `[N, 1]`, fine enough for the steep likelihoods that random networks make."""
    rule = quadrature.gauss_legendre(-half_width, half_width, 16, num_panels=16)
    return Space(rule.nodes.astype(np.float32)[:, None], np.log(rule.weights).astype(np.float32))


def plane(half_width=10.0):
    """Nodes of `[N, 2]`."""
    rule = quadrature.gauss_legendre(-half_width, half_width, 10, num_panels=12)
    nodes = np.stack(np.meshgrid(rule.nodes, rule.nodes), -1).reshape(-1, 2)
    weights = np.outer(rule.weights, rule.weights).ravel()
    return Space(nodes.astype(np.float32), np.log(weights).astype(np.float32))


def pair(half_width=10.0):
    """Nodes of two groups of one coordinate each, `([N, 1], [N, 1])`."""
    points, log_weights = plane(half_width)
    return Space((points[:, :1], points[:, 1:]), log_weights)


def simplex(half_width=40.0):
    """Logarithms of two probabilities `[N, 1, 2]`, by the line of their log-odds.

    Relaxed symbols have their density over that line, which is where they are logistic.
    """
    rule = quadrature.gauss_legendre(-half_width, half_width, 16, num_panels=32)
    log_odds = rule.nodes[:, None, None] * np.array([1.0, -1.0])
    points = -np.logaddexp(0.0, -log_odds)
    return Space(points.astype(np.float32), np.log(rule.weights).astype(np.float32))


class Measured(NamedTuple):
    """Sums over z, and draws to hold against them; from one compilation a model."""

    log_prob_everywhere: jax.Array  # log Σ_z p(x, z) over the space of x, [X]
    prior_mass: jax.Array  # Σ_z p(z), a scalar
    log_prob: jax.Array  # log Σ_z p(x, z), [B]
    elbo: jax.Array  # E_q[log p(x, z) − log q(z | x)], [B]
    posterior_mass: jax.Array  # Σ_z q(z | x), [B]
    log_q: jax.Array  # of posterior draws as they were drawn, [8, B]
    log_q_again: jax.Array  # of the same draws, evaluated, [8, B]
    log_w: jax.Array  # importance weights, [N, B]
    bounds: tuple  # draws of the bounds from 1, 5 and 50 weights, [N / K, B] each
    x: jax.Array  # data drawn from the model, [N, D]


def measure(case, key):
    """All that the checks below look at."""
    return jax.tree.map(np.asarray, _measure(key, case.model, case.params, *case[2:]))


@functools.partial(jax.jit, compiler_options=QUICK)
def _measure(key, model, params, x, x_space, z_space, context):
    keys = jax.random.split(key, 4)
    model = CompiledOnce(model)
    posterior = model.posterior(params, x, context=context)
    log_prior, log_joint = _log_joint(model, params, x, z_space, context)
    _, everywhere = _log_joint(model, params, x_space.points, z_space, context)
    log_weights = z_space.log_weights[:, None]
    log_q = posterior.log_prob(_at_each_x(z_space, x))
    mass = jnp.exp(log_q + log_weights)
    drawn, drawn_log_q = posterior.sample_and_log_prob(seed=keys[0], sample_shape=(8,))
    prior = model.prior(params, context=context)
    z = prior.sample(seed=keys[1], sample_shape=(NUM_DRAWS,))
    log_w = weights_of(keys[2], model, params, x, num_samples=NUM_DRAWS, context=context)
    return Measured(
        jax.nn.logsumexp(everywhere + log_weights, axis=0),
        jnp.sum(jnp.exp(log_prior + log_weights)[:, 0]),
        jax.nn.logsumexp(log_joint + log_weights, axis=0),
        jnp.sum(mass * jnp.where(mass > 0, log_joint - log_q, 0.0), axis=0),
        jnp.sum(mass, axis=0),
        drawn_log_q,
        posterior.log_prob(drawn),
        log_w,
        tuple(bound_samples(log_w, num_samples) for num_samples in (1, 5, 50)),
        model.likelihood(params, z, context=context).sample(seed=keys[3]),
    )


@dataclasses.dataclass(frozen=True)
class Wrapped(LatentVariableModel):
    """A model that does as another one, but for what a subclass overrides."""

    inner: LatentVariableModel

    def prior(self, params, *, context=None):
        return self.inner.prior(params, context=context)

    def posterior(self, params, x, *, context=None):
        return self.inner.posterior(params, x, context=context)

    def likelihood(self, params, z, *, context=None):
        return self.inner.likelihood(params, z, context=context)


@dataclasses.dataclass(frozen=True)
class CompiledOnce(Wrapped):
    """The model, asked for one posterior and giving it again to whoever asks in the same trace."""

    kept: dict = dataclasses.field(default_factory=dict, hash=False, compare=False)

    def posterior(self, params, x, *, context=None):
        if id(x) not in self.kept:
            self.kept[id(x)] = self.inner.posterior(params, x, context=context)
        return self.kept[id(x)]


def exact_elbo(model, params, x, z_space, context):
    """E_q[log p(x, z) − log q(z | x)], `[B]`."""
    log_q = model.posterior(params, x, context=context).log_prob(_at_each_x(z_space, x))
    mass = jnp.exp(log_q + z_space.log_weights[:, None])
    log_joint = _log_joint(model, params, x, z_space, context)[1]
    return jnp.sum(mass * jnp.where(mass > 0, log_joint - log_q, 0.0), axis=0)


def _log_joint(model, params, x, z_space, context):
    z = _at_each_x(z_space, x)
    log_prior = model.prior(params, context=context).log_prob(z)
    log_likelihood = model.likelihood(params, z, context=context).log_prob(x[None])
    return log_prior, log_prior + log_likelihood


def _at_each_x(z_space, x):
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[:, None], (len(leaf), len(x), *leaf.shape[1:])),
        z_space.points,
    )


def check_sums_to_one(case, measured, tolerance=1e-5):
    """Σ_x p(x) = 1, Σ_z p(z) = 1, and Σ_z q(z | x) = 1 at every x."""
    total = np.exp(np.float64(measured.log_prob_everywhere) + case.x_space.log_weights).sum()
    assert abs(total - 1) <= tolerance, f"the joint sums to {total}"
    chex.assert_trees_all_close(measured.prior_mass, 1.0, atol=tolerance, rtol=1e-7)
    chex.assert_trees_all_close(measured.posterior_mass, 1.0, atol=tolerance, rtol=1e-7)


def check_shapes(case):
    """Batch shapes are those of the contract; traced, not run."""
    model, params, x, _, z_space, context = case
    batch = (len(x),)

    def look(key):
        posterior = model.posterior(params, x, context=context)
        prior = model.prior(params, context=context)
        z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(3, 2))
        likelihood = model.likelihood(params, z, context=context)
        assert (posterior.batch_shape, prior.batch_shape) == (batch, ())
        assert likelihood.batch_shape == (3, 2, *batch)
        assert likelihood.event_shape == x.shape[1:]
        assert log_q.shape == prior.log_prob(z).shape == (3, 2, *batch)
        return z

    z = jax.eval_shape(look, jax.random.key(0))
    like = jax.tree.map(lambda leaf: ((3, 2, *batch, *leaf.shape[1:]), leaf.dtype), z_space.points)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), z) == like


def check_samples(case, measured):
    """Draws come as often as their exact probability says, and are given the density they have."""
    chex.assert_trees_all_close(measured.log_q, measured.log_q_again, atol=2e-4, rtol=1e-7)
    x, probabilities = measured.x, np.exp(measured.log_prob_everywhere + case.x_space.log_weights)
    probabilities /= probabilities.sum()  # one but for the rule's own error, checked above
    points = case.x_space.points
    if np.issubdtype(x.dtype, np.integer):
        radices = (points.max() + 1) ** np.arange(x.shape[1])[::-1]
        chex.assert_trees_all_equal(points @ radices, np.arange(len(points)))
        counts = np.bincount(x @ radices, minlength=len(points))
        sampling_checks.assert_frequencies(counts, probabilities)
        return
    for moment in (lambda x: x, np.square, np.cos):
        expected = np.sum(probabilities[:, None] * moment(points), 0)
        sampling_checks.assert_mean(moment(x), expected, rounding=1e-5)


def check_weights_are_unbiased(case, measured):
    """E[w] = p(x) at every x."""
    ratios = np.exp(measured.log_w - measured.log_prob[None])
    sampling_checks.assert_mean(ratios, 1.0, rounding=1e-5)
    assert ratios.std(0).max() < 0.15 * NUM_DRAWS**0.5, "weights too heavy for this check"


def check_bounds_are_ordered(case, measured):
    """ELBO ≤ IWAE_5 ≤ IWAE_50 ≤ log p(x) in expectation, and the ELBO is what the sums say."""
    sampling_checks.assert_mean(measured.log_w, measured.elbo, rounding=1e-4)
    means = [samples.mean(0) for samples in measured.bounds] + [measured.log_prob]
    errors = [samples.std(0) / len(samples) ** 0.5 for samples in measured.bounds] + [0.0]
    limit = scipy.stats.norm.isf(sampling_checks.FALSE_POSITIVE_RATE / (3 * len(case.x)))
    for i in range(3):
        excess = np.asarray(means[i] - means[i + 1]) / np.hypot(errors[i], errors[i + 1])
        assert (excess <= limit).all(), f"bound {i} exceeds the next by {excess.max()} errors"
    assert (means[0] < means[2] - limit * np.hypot(errors[0], errors[2])).any(), "no bound improves"


def bound_samples(log_w, num_samples):
    """Independent draws of the K-sample bound from the weights `[N, B]`: `[N / K, B]`."""
    groups = jnp.swapaxes(log_w.reshape(-1, num_samples, log_w.shape[1]), 0, 1)
    return iwae_bound(groups.reshape(num_samples, -1)).reshape(-1, log_w.shape[1])


def elbo_value(key, model, params, x, estimator, context):
    """A draw of the ELBO, `[B]`; `estimator` is a KL method or the gradient of a bound."""
    options = {"num_samples": GROUP_SIZE, "context": context}
    if estimator in ("analytic", "monte_carlo"):
        return elbo(key, model, params, x, kl=estimator, **options).value
    return multi_sample_bound(key, elbo_bound, model, params, x, **options, gradient=estimator)


GROUP_SIZE, NUM_GROUPS = 40, 150


def check_gradient(case, key, estimator):
    """The ELBO's gradient is that of the sum, in every parameter, on average over keys."""
    drawn, exact = _gradients(
        key, case.model, estimator, case.params, case.x[:1], case.z_space, case.context
    )
    for one, other in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        sampling_checks.assert_mean(one, other, rounding=3e-5)


@functools.partial(jax.jit, static_argnames="estimator", compiler_options=QUICK)
def _gradients(key, model, estimator, params, x, z_space, context):
    """Gradients of the mean of each group of draws, `[G, ...]`, and of the sum over z."""

    def drawn(key):
        return jax.grad(lambda p: elbo_value(key, model, p, x, estimator, context)[0])(params)

    exact = jax.grad(lambda p: exact_elbo(model, p, x, z_space, context)[0])(params)
    return jax.lax.map(drawn, jax.random.split(key, NUM_GROUPS)), exact
