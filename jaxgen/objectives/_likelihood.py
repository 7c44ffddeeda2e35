"""Log-likelihoods, and the units they are reported in."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._checks import check_count
from jaxgen.core._contracts import AutoregressiveModel, check_model
from jaxgen.core._types import Array, Params


def log_prob(model: Any, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
    r"""Return the exact log-likelihood of data, for an autoregressive model by the chain rule.

    .. math:: \log p(x) = \sum_{i=1}^D \log p(x_i \mid x_{<i})

    Args:
      model: an autoregressive model, or another whose `log_prob` is known, as `LinearGaussian`'s.
      params: parameters of the model.
      x: data, `[..., D]`.
      context: what the model is conditioned on, for each data point or for all.

    Returns:
      Nats, `[...]`. Maximum likelihood minimizes the negative of its mean.

    Raises:
      TypeError: the model has latent variables that do not integrate in closed form, or is none.
    """
    if not hasattr(model, "posterior") and not hasattr(model, "log_prob"):
        check_model(model, AutoregressiveModel)
    if not hasattr(model, "log_prob"):
        raise TypeError(
            f"model must have an exact log_prob, got {type(model).__name__}; bound a "
            "latent-variable model's with elbo or iwae, or estimate it with importance_log_prob"
        )
    if isinstance(model, AutoregressiveModel):
        return _log_prob(model, params, jnp.asarray(x), context)
    return model.log_prob(params, x, context=context)


@functools.partial(jax.jit, inline=True)
def _log_prob(model: AutoregressiveModel, params: Params, x: Array, context: Any) -> Array:
    return model.log_prob(params, x, context=context)


def bits_per_dim(log_prob: Any, num_dims: int) -> Any:
    r"""Return the bits that a coordinate costs, :math:`-\log p(x) / (D \log 2)`.

    Args:
      log_prob: nats of whole data points, a number or an array of any shape.
      num_dims: D, the coordinates of a data point.

    >>> round(bits_per_dim(-math.log(2) * 64, 64), 6)
    1.0
    """
    check_count("num_dims", num_dims)
    return -log_prob / (num_dims * math.log(2))


def perplexity(log_prob: Array, num_dims: int) -> Array:
    r"""Return the number of equally likely symbols that would be as hard to guess.

    .. math:: \exp(-\log p(x) / D)

    Args:
      log_prob: nats of whole data points, any shape.
      num_dims: D, the coordinates of a data point.
    """
    check_count("num_dims", num_dims)
    return jnp.exp(-jnp.asarray(log_prob) / num_dims)
