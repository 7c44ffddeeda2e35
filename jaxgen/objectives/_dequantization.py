"""Densities for data that are integers: noise fills the unit cube above each of them."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_count, check_key, check_rank
from jaxgen.core._log_mean_exp import log_mean_exp
from jaxgen.core._types import Array, Key, LogProbFn, Params


def dequantized_log_prob(
    key: Key, log_prob_fn: LogProbFn, params: Params, x: Array, *, num_samples: int = 1
) -> Array:
    r"""Bound the log-probability that a density gives to integers, by uniform dequantization.

    .. math:: \log P(x) = \log \int_{[0, 1)^D} p(x + u)\, du \ge
       \mathbb E \log \frac1K \sum_{k=1}^K p(x + u_k), \qquad u_k \sim U[0, 1)^D

    (Uria et al. 2013; Theis et al. 2016; Hoogeboom et al. 2020 for K > 1). P sums to one over the
    integers, so nats and bits/dim are comparable with those of a categorical model. A density
    evaluated at the integers themselves can be made arbitrarily high, and is not.

    Args:
      key: a typed key.
      log_prob_fn: `(params, y [D]) -> scalar`, the log-density at one real point.
      params: parameters of the density.
      x: integers, `[B, D]`.
      num_samples: K; the bound's mean grows with it.

    Returns:
      Nats, `[B]`; one draw of the bound.
    """
    check_key(key)
    check_rank("x", x, 2)
    check_count("num_samples", num_samples)
    x = jnp.asarray(x)
    u = jax.random.uniform(key, (num_samples, *x.shape))
    log_prob = jax.vmap(jax.vmap(log_prob_fn, (None, 0)), (None, 0))(params, x[None] + u)
    return log_mean_exp(log_prob, axis=0)
