"""Log-likelihoods of chains, and the units they are reported in."""

import math
from typing import Any

import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_shape
from jaxgen.core.likelihood_terms import categorical_log_prob
from jaxgen.core.types import Array


def chain_log_prob(logits: Array, x: Array) -> Array:
    r"""Log-probability of data under the chain rule.

    .. math:: \log p(x) = \sum_{i=1}^D \log p(x_i \mid x_{<i})

    Args:
      logits: unnormalised log-probabilities of each conditional at `x`, `[..., D, V]`.
      x: symbols, integers `[..., D]`.

    Returns:
      Nats, `[...]`. Maximum likelihood minimises the negative of its mean.
    """
    check_shape("x", x, jnp.shape(logits)[:-1])
    return jnp.sum(categorical_log_prob(logits, x), axis=-1)


def bits_per_dim(log_prob: Any, num_dims: int) -> Any:
    r"""Bits a coordinate costs: :math:`-\log p(x) / (D \log 2)`.

    Args:
      log_prob: nats of whole data points, a number or an array of any shape.
      num_dims: D, the coordinates of a data point.

    >>> round(bits_per_dim(-math.log(2) * 64, 64), 6)
    1.0
    """
    check_count("num_dims", num_dims)
    return -log_prob / (num_dims * math.log(2))


def perplexity(log_prob: Array, num_dims: int) -> Array:
    r"""The number of equally likely symbols that would be as hard to guess.

    .. math:: \exp(-\log p(x) / D)

    Args:
      log_prob: nats of whole data points, any shape.
      num_dims: D, the coordinates of a data point.
    """
    check_count("num_dims", num_dims)
    return jnp.exp(-jnp.asarray(log_prob) / num_dims)
