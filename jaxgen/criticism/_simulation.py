"""Simulation-based calibration: whether q(z | x) is the posterior of the model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._types import Array, Key, Params


def simulation_based_calibration(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    *,
    num_simulations: int,
    num_samples: int = 99,
    context: Any = None,
) -> Array:
    r"""Rank latents among the posterior draws of the data that they made.

    .. math:: \tilde z \sim p(z), \quad \tilde x \sim p(x \mid \tilde z), \quad
       z_k \sim q(z \mid \tilde x), \quad u = \frac{\#\{z_k < \tilde z\} + v}{K + 1}

    The u are uniform in every unit if q is the posterior of the model (Talts et al. 2018): it needs
    no data. Where q is too narrow they pile up at both ends, where it is too wide, in the middle.

    Args:
      key: a typed key.
      model: a latent-variable model with continuous latents.
      params: parameters of the model.
      num_simulations: N.
      num_samples: K posterior draws behind each rank.
      context: what the model is conditioned on, for all.

    Returns:
      Uniforms, float32 `[N, Z]`, the groups of a hierarchy one after the other; for `uniformity`.
    """
    check_key(key)
    check_count("num_simulations", num_simulations)
    check_count("num_samples", num_samples)
    return _ranks(key, model, params, context, num_simulations, num_samples)


@functools.partial(jax.jit, static_argnums=(4, 5), inline=True)
def _ranks(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    context: Any,
    num_simulations: int,
    num_samples: int,
) -> Array:
    prior_key, data_key, posterior_key, rank_key = jax.random.split(key, 4)
    prior = model.prior(params, context=context)
    z = prior.sample(seed=prior_key, sample_shape=(num_simulations,))
    x = model.likelihood(params, z, context=context).sample(seed=data_key)
    posterior = model.posterior(params, x, context=context)
    drawn = posterior.sample(seed=posterior_key, sample_shape=(num_samples,))
    below = jax.tree.map(lambda one, many: jnp.sum(many < one[None], axis=0), z, drawn)
    ranks = jnp.concatenate(
        [leaf.reshape(num_simulations, -1) for leaf in jax.tree.leaves(below)], axis=1
    )
    return (ranks + jax.random.uniform(rank_key, ranks.shape)) / (num_samples + 1)
