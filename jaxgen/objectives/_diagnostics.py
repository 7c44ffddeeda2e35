"""Diagnostics of latent-variable models: how latents are used, and where the bound loses."""

from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from jaxgen.core import _log_mean_exp as lme
from jaxgen.core._checks import check_count, check_in_range, check_key
from jaxgen.core._contracts import LatentVariableModel, check_model
from jaxgen.core._types import Array, Key, Params
from jaxgen.estimators._gradients._dependence import check_continuous
from jaxgen.estimators._importance import effective_sample_size, pareto_smooth

ACTIVE = 0.01
"""A unit is active if its posterior mean varies by more than this over the data."""


class Diagnostics(NamedTuple):
    r"""Diagnostics of a model on data `[B, ...]`, from the same K posterior draws, in nats.

    Attributes:
      log_prob: the importance-weighted bound from K draws, `[B]`.
      elbo: the mean log-weight, `[B]`; the gap to `log_prob` is what the posterior loses.
      group_kl: the part of KL(q(z | x) ‖ p(z)) that each group adds, `[L, B]`.
      mean_variance: how much the posterior mean of each unit moves with the data, as
        `posterior_mean_variance` gives it; a pytree like one z.
      num_active: units of each group whose mean moves by more than `ACTIVE`, integers `[L]`.
      is_collapsed: groups without an active unit, booleans `[L]`.
      index_mutual_information: of a point's index and its z under q, as the function of that name
        gives it, at most log B; a scalar.
      aggregate_kl: KL of the aggregate posterior :math:`\frac1B \sum_b q(z \mid x_b)` from the
        prior, a scalar. With the mutual information it makes up the mean KL (Hoffman & Johnson
        2016); where that is cut at log B, this is too large by as much.
      effective_sample_size: of the importance weights, between 1 and K, `[B]`.
      pareto_shape: k̂ of the importance weights, `[B]`; above 0.7 neither `log_prob` nor its error
        is to be trusted.
    """

    log_prob: Array
    elbo: Array
    group_kl: Array
    mean_variance: Any
    num_active: Array
    is_collapsed: Array
    index_mutual_information: Array
    aggregate_kl: Array
    effective_sample_size: Array
    pareto_shape: Array


def diagnose(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int = 100,
    context: Any = None,
) -> Diagnostics:
    """Estimate active units, the KL of each group, collapse, and the health of the weights.

    Prior and posterior over a tuple of groups must have `group_log_probs(z)`, as those of
    `HierarchicalVAE` have; others count as one group.

    Args:
      key: a typed key.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`; memory grows with B² and with K·B.
      num_samples: K, at least 25, below which k̂ says nothing.
      context: what the model is conditioned on, for each of B or for all.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples, minimum=25)
    posterior = model.posterior(params, x, context=context)
    prior = model.prior(params, context=context)
    z = posterior.sample(seed=key, sample_shape=(num_samples,))
    log_ratios = _group_log_probs(posterior, z) - _group_log_probs(prior, z)
    log_likelihood = model.likelihood(params, z, context=context).log_prob(x[None])
    log_w = log_likelihood - jnp.sum(log_ratios, axis=0)
    group_kl = jnp.mean(log_ratios, axis=1)
    variance = jax.tree.map(_mean_variance, z)
    num_active = jnp.stack([jnp.sum(group > ACTIVE) for group in jax.tree.leaves(variance)])
    information = index_mutual_information(posterior, jax.tree.map(lambda leaf: leaf[0], z))
    return Diagnostics(
        lme.log_mean_exp(log_w, axis=0),
        jnp.mean(log_w, axis=0),
        group_kl,
        variance,
        num_active,
        num_active == 0,
        information,
        jnp.mean(jnp.sum(group_kl, axis=0)) - information,
        effective_sample_size(log_w),
        jax.vmap(lambda w: pareto_smooth(w).shape)(log_w.T),
    )


def posterior_mean_variance(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int = 32,
    context: Any = None,
) -> Any:
    r"""Estimate how much the posterior's mean of each unit moves with the data (Burda et al. 2015).

    .. math:: A_u = \mathrm{Var}_x\left(\mathbb E_{q(u \mid x)}[u]\right)

    A unit with A_u above `ACTIVE` is called active; one that is not says nothing of x. The means
    are taken over draws, for any posterior, and what the draws add to their variance is taken away.

    Args:
      key: a typed key.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`; thousands, for the estimate's own error to be small.
      num_samples: draws behind each mean.
      context: what the model is conditioned on, for each of B or for all.

    Returns:
      A_u of each unit, a pytree like one z, `[Z]` each; chance may put it slightly below zero.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples, minimum=2)
    posterior = model.posterior(params, x, context=context)
    z = posterior.sample(seed=key, sample_shape=(num_samples,))
    return jax.tree.map(_mean_variance, z)


def index_mutual_information(posterior: Any, z: Any) -> Array:
    r"""Estimate the mutual information of a data point's index and its latent, in nats.

    .. math:: I = \frac1B \sum_b \left[\log q(z_b \mid x_b) -
       \log \frac1B \sum_{b'} q(z_b \mid x_{b'})\right], \qquad z_b \sim q(z \mid x_b)

    (Hoffman & Johnson 2016.) It cannot exceed log B: near that, it only says that more points are
    needed.

    Args:
      posterior: q(z | x), of batch shape [B].
      z: one draw for each point, `[B, ...]` or a pytree of such.
    """
    num_points = jax.tree.leaves(z)[0].shape[0]

    def at_every_point(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf[:, None], (num_points, num_points, *leaf.shape[1:]))

    log_q = posterior.log_prob(jax.tree.map(at_every_point, z))
    return jnp.mean(jnp.diagonal(log_q) - lme.log_mean_exp(log_q, axis=1))


class InferenceGaps(NamedTuple):
    r"""Where the ELBO loses, for each data point, in nats `[B]` (Cremer et al. 2018).

    .. math:: \log p(x) - \mathcal L[q] =
       (\log p(x) - \mathcal L[q^*]) + (\mathcal L[q^*] - \mathcal L[q])

    is `approximation` and `amortization`.

    Attributes:
      log_prob: the larger of two importance-weighted bounds, with q and with q* as proposals.
      local_elbo: L[q*], of the best diagonal normal for each point.
      elbo: L[q], of the model's posterior.
    """

    log_prob: Array
    local_elbo: Array
    elbo: Array

    @property
    def approximation(self) -> Array:
        """Return what no diagonal normal could give."""
        return self.log_prob - self.local_elbo

    @property
    def amortization(self) -> Array:
        """Return the encoder's loss, below zero where the model's own family is the richer."""
        return self.local_elbo - self.elbo


def inference_gaps(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_steps: int = 500,
    learning_rate: float = 0.02,
    num_samples: int = 1000,
    context: Any = None,
) -> InferenceGaps:
    """Split the gap between log p(x) and the ELBO by fitting a diagonal normal to each data point.

    Args:
      key: a typed key.
      model: a latent-variable model with continuous latents.
      params: parameters of the model.
      x: data, `[B, ...]`; memory grows with B times `num_samples`.
      num_steps: steps of Adam, with ten draws each and a rate that falls to nothing.
      learning_rate: its highest rate.
      num_samples: draws behind each bound.
      context: what the model is conditioned on, for each of B or for all.

    Raises:
      ValueError: the latents are discrete.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_steps", num_steps)
    check_count("num_samples", num_samples, minimum=2)
    check_in_range("learning_rate", learning_rate, 0.0, 1.0, open_lower=True)
    keys = jax.random.split(key, 3)
    posterior = model.posterior(params, x, context=context)
    prior = model.prior(params, context=context)
    z, log_q = posterior.sample_and_log_prob(seed=keys[0], sample_shape=(num_samples,))
    check_continuous("model.posterior", z)

    def log_joint(z: Any) -> Array:
        likelihood = model.likelihood(params, z, context=context)
        return likelihood.log_prob(x[None]) + prior.log_prob(z)

    local = _fit_normals(keys[1], log_joint, z, num_steps, learning_rate)
    local_z, local_log_q = _draw_normals(keys[2], local, num_samples)
    log_w, local_log_w = log_joint(z) - log_q, log_joint(local_z) - local_log_q
    bounds = [lme.log_mean_exp(w, axis=0) for w in (log_w, local_log_w)]
    return InferenceGaps(
        jnp.maximum(*bounds), jnp.mean(local_log_w, axis=0), jnp.mean(log_w, axis=0)
    )


def _fit_normals(key: Key, log_joint: Any, z: Any, num_steps: int, learning_rate: float) -> Any:
    """Fit means and log-scales to each point's ELBO, from those of the draws `[K, B, …]`."""
    start = (
        jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), z),
        jax.tree.map(lambda leaf: jnp.log(jnp.std(leaf, axis=0) + 1e-6), z),
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss(local: Any, key: Key) -> Array:
        z, log_q = _draw_normals(key, local, 10)
        return -jnp.sum(jnp.mean(log_joint(z) - log_q, axis=0))

    def step(carry: tuple, key: Key) -> tuple[tuple, None]:
        local, state = carry
        updates, state = optimizer.update(jax.grad(loss)(local, key), state)
        return (optax.apply_updates(local, updates), state), None

    keys = jax.random.split(key, num_steps)
    return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]


def _draw_normals(key: Key, local: Any, num_samples: int) -> tuple[Any, Array]:
    """Draw from a diagonal normal over all groups: `[K, B, …]`, log-densities `[K, B]`."""
    means, structure = jax.tree.flatten(local[0])
    normals = [
        distrax.MultivariateNormalDiag(mean, jnp.exp(log_scale))
        for mean, log_scale in zip(means, jax.tree.leaves(local[1]), strict=True)
    ]
    drawn = [
        normal.sample_and_log_prob(seed=k, sample_shape=(num_samples,))
        for k, normal in zip(jax.random.split(key, len(normals)), normals, strict=True)
    ]
    z = jax.tree.unflatten(structure, [group for group, _ in drawn])
    return z, sum((term for _, term in drawn), jnp.zeros(()))


def _mean_variance(group: Array) -> Array:
    noise = jnp.mean(jnp.var(group, axis=0, ddof=1), axis=0) / group.shape[0]
    return jnp.var(jnp.mean(group, axis=0), axis=0, ddof=1) - noise


def _group_log_probs(distribution: Any, z: Any) -> Array:
    """Return log-densities of each group given the one before, `[L, K, B]`."""
    if hasattr(distribution, "group_log_probs"):
        return jnp.stack(distribution.group_log_probs(z))
    return distribution.log_prob(z)[None]
