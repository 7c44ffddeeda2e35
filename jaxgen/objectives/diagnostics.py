"""What a latent-variable model makes of its latents."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_key
from jaxgen.core.types import Array, Key, LatentVariableModel, Params

ACTIVE = 0.01
"""A unit is active if its posterior mean varies by more than this over the data."""


def posterior_mean_variance(
    key: Key, params: Params, model: LatentVariableModel, x: Array, *, num_samples: int = 32
) -> Any:
    r"""How much the posterior's mean of each unit moves with the data (Burda et al. 2015).

    .. math:: A_u = \mathrm{Var}_x\left(\mathbb E_{q(u \mid x)}[u]\right)

    A unit with A_u above `ACTIVE` is called active; one that is not says nothing of x. The means
    are taken over draws, for any posterior, and what the draws add to their variance is taken away.

    Args:
      key: a typed key.
      params: parameters of the model.
      model: a latent-variable model.
      x: data, `[B, ...]`; thousands, for the estimate's own error to be small.
      num_samples: draws behind each mean.

    Returns:
      A_u of each unit, a pytree like one z, `[Z]` each; chance may put it slightly below zero.
    """
    check_key(key)
    check_count("num_samples", num_samples, minimum=2)
    z = model.posterior(params, x).sample(seed=key, sample_shape=(num_samples,))

    def variance(group: Array) -> Array:
        noise = jnp.mean(jnp.var(group, axis=0, ddof=1), axis=0) / num_samples
        return jnp.var(jnp.mean(group, axis=0), axis=0, ddof=1) - noise

    return jax.tree.map(variance, z)
