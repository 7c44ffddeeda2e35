"""The marginal likelihood itself, where the latent variable has so few dimensions that it can."""

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_rank
from jaxgen.core.quadrature import Rule
from jaxgen.core.types import Array, LatentVariableModel, Params


def quadrature_log_prob(params: Params, model: LatentVariableModel, x: Array, rule: Rule) -> Array:
    r"""Integrate the latent variable out over a rule, differentiably.

    .. math:: \log p(x) = \log \int p(z)\, p(x \mid z)\, dz
       \approx \log \sum_i w_i\, p(z_i)\, p(x \mid z_i)

    Args:
      params: parameters of the model.
      model: a latent-variable model whose z is one array `[Z]`; its posterior is not used.
      x: data, `[B, ...]`.
      rule: a rule over z that reaches as far as the prior does: nodes `[N]` for Z = 1, or `[N, Z]`
        (`jaxgen.estimators.functionals.product_rule`).

    Returns:
      Nats, `[B]`.
    """
    nodes = jnp.asarray(rule.nodes, jnp.result_type(float))
    check_rank("rule.nodes", nodes, (1, 2))
    z = (nodes[:, None] if nodes.ndim == 1 else nodes)[:, None, :]
    log_joint = model.prior(params).log_prob(z) + model.likelihood(params, z).log_prob(x[None])
    log_weights = jnp.log(jnp.asarray(rule.weights, nodes.dtype))
    return jax.nn.logsumexp(log_joint + log_weights[:, None], axis=0)
