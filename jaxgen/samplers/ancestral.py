"""Sampling by the chain rule: one inverse CDF for each coordinate, in order."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_integer_array, check_key, check_shape
from jaxgen.core.likelihood_terms import categorical_log_prob
from jaxgen.core.types import Array, AutoregressiveModel, Key, Params
from jaxgen.samplers import categorical


class Draws(NamedTuple):
    """What ancestral sampling gives.

    Attributes:
      x: symbols, int32 `[B, D]`; observed coordinates keep their values.
      log_probs: log p(x_i | x_<i) in nats, float32 `[B, D]`, of drawn and observed coordinates
        alike; the sum over the last axis is log p(x).
    """

    x: Array
    log_probs: Array


def quantile(
    params: Params,
    model: AutoregressiveModel,
    u: Array,
    *,
    observed: Array | None = None,
    is_observed: Array | None = None,
) -> Draws:
    r"""Map uniforms to data through the chain of conditional inverse CDFs.

    .. math:: x_i = F_i^{-1}(u_i \mid x_{<i}), \qquad i = 1, \dots, D

    the inverse of Rosenblatt's transform (1952). One compiled scan over the cached `step` of the
    contract; equal uniforms give equal data.

    Args:
      params: parameters of the model.
      model: an autoregressive model over D coordinates.
      u: uniforms in [0, 1), `[B, D]`; those at observed coordinates are not used.
      observed: known symbols, integers `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`. The others are drawn in the order of
        the model, each given the coordinates before it, drawn or observed.

    Returns:
      `Draws`. A NaN among the logits shows as symbol −1 and a NaN log-probability.

    Raises:
      ValueError: a shape does not fit, or only one of `observed` and `is_observed` is given.
    """
    u = jnp.asarray(u)
    check_shape("u", u, (None, model.num_dims))
    observed, is_observed = _check_observed(u, observed, is_observed)

    def draw(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], tuple]:
        cache, previous = carry
        index, u_i, observed_i, is_observed_i = inputs
        logits, cache = model.step(params, cache, index, previous)
        x_i = jnp.where(is_observed_i, observed_i, categorical.quantile(logits, u_i))
        return (cache, x_i), (x_i, categorical_log_prob(logits, x_i))

    batch_size = u.shape[0]
    start = (model.init_cache(params, batch_size), jnp.zeros(batch_size, jnp.int32))
    inputs = (jnp.arange(model.num_dims), u.T, observed.T, is_observed.T)
    _, (x, log_probs) = jax.lax.scan(draw, start, inputs)
    return Draws(x.T, log_probs.T)


def sample(
    key: Key,
    params: Params,
    model: AutoregressiveModel,
    num_samples: int | None = None,
    *,
    observed: Array | None = None,
    is_observed: Array | None = None,
) -> Draws:
    """Draw data from an autoregressive model, or fill in what was not observed.

    Args:
      key: a typed key.
      params: parameters of the model.
      model: an autoregressive model over D coordinates.
      num_samples: B; may be left out when `observed` gives it.
      observed: known symbols, integers `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`.

    Returns:
      `Draws` of `quantile` at iid uniforms.
    """
    check_key(key)
    if num_samples is None:
        if observed is None:
            raise ValueError("num_samples must be given when nothing is observed, got None")
        num_samples = jnp.shape(observed)[0]
    check_count("num_samples", num_samples)
    u = jax.random.uniform(key, (num_samples, model.num_dims))
    return quantile(params, model, u, observed=observed, is_observed=is_observed)


def _check_observed(
    u: Array, observed: Array | None, is_observed: Array | None
) -> tuple[Array, Array]:
    if (observed is None) != (is_observed is None):
        missing = "observed" if observed is None else "is_observed"
        raise ValueError(f"observed and is_observed go together, got no {missing}")
    if observed is None or is_observed is None:
        return jnp.zeros(u.shape, jnp.int32), jnp.zeros(u.shape, bool)
    observed, is_observed = jnp.asarray(observed), jnp.asarray(is_observed)
    check_shape("observed", observed, u.shape)
    check_integer_array("observed", observed)
    check_shape("is_observed", is_observed, u.shape)
    if is_observed.dtype != bool:
        raise TypeError(f"is_observed must hold booleans, got dtype {is_observed.dtype}")
    return observed.astype(jnp.int32), is_observed
