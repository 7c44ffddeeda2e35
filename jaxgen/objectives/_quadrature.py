"""The marginal likelihood itself, where the latent variable has so few dimensions that it can."""

from typing import Any

import jax.numpy as jnp

from jaxgen.core._checks import check_rank
from jaxgen.core._contracts import LatentVariableModel, check_model
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._quadrature import Rule
from jaxgen.core._types import Array, Params


def quadrature_log_prob(
    model: LatentVariableModel, params: Params, x: Array, rule: Rule, *, context: Any = None
) -> Array:
    r"""Integrate the latent variable out over a rule, differentiably.

    .. math:: \log p(x) = \log \int p(z)\, p(x \mid z)\, dz
       \approx \log \sum_i w_i\, p(z_i)\, p(x \mid z_i)

    Args:
      model: a latent-variable model whose z is one array `[Z]`; its posterior is not used.
      params: parameters of the model.
      x: data, `[B, ...]`.
      rule: a rule over z that reaches as far as the prior does: nodes `[N]` for Z = 1, or `[N, Z]`,
        of a product of rules.
      context: what the model is conditioned on, for each of B or for all.

    Returns:
      Nats, `[B]`.
    """
    check_model(model, LatentVariableModel)
    nodes = jnp.asarray(rule.nodes, jnp.result_type(float))
    check_rank("rule.nodes", nodes, (1, 2))
    z = (nodes[:, None] if nodes.ndim == 1 else nodes)[:, None, :]
    if context is not None:  # which may differ from row to row; otherwise p(x | z) is made once
        z = jnp.broadcast_to(z, (len(z), len(x), z.shape[-1]))
    log_prior = model.prior(params, context=context).log_prob(z)
    log_joint = log_prior + model.likelihood(params, z, context=context).log_prob(x[None])
    log_weights = jnp.log(jnp.asarray(rule.weights, nodes.dtype))
    return log_sum_exp(log_joint + log_weights[:, None], axis=0)
