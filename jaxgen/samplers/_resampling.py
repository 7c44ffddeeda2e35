"""Resampling: turn weighted points into equally weighted ones, without bias."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxgen.core._checks import (
    check_count,
    check_float_array,
    check_key,
    check_one_of,
    check_rank,
)
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import iid_uniforms, stratified_uniforms

ResamplingMethod = Literal["multinomial", "stratified", "systematic", "residual"]


def resample(
    key: Key, log_weights: Array, num_samples: int, *, method: ResamplingMethod = "systematic"
) -> Array:
    """Draw the indices of N of M weighted points, so that point i has N w_i copies in expectation.

    Methods differ in how much the number of copies varies (Douc, Cappé and Moulines 2005):

    * "systematic": one uniform v for all, u_i = (i + v) / N. Point i gets ⌊N w_i⌋ copies or one
      more (Carpenter, Clifford and Fearnhead 1999);
    * "stratified": one uniform in each of N equal strata (Kitagawa 1996);
    * "residual": ⌊N w_i⌋ copies of each point, and the rest independently (Liu and Chen 1998);
    * "multinomial": every index independently, with the largest variance.

    Args:
      key: a typed key.
      log_weights: unnormalized log-weights (nats), `[M]`; −inf stands for zero.
      num_samples: N.
      method: one of those above.

    Returns:
      Indices, int32 `[N]`, increasing for "systematic" and "stratified"; those of "residual" begin
      with its certain copies. A point of weight zero never comes. All are −1 when the weights hold
      NaN, +inf or nothing but −inf.

    Raises:
      TypeError, ValueError: `key` is not one typed key, `log_weights` are not floating-point
        numbers of rank 1, `num_samples` is no positive integer, or `method` is unknown.

    >>> resample(jax.random.key(0), jnp.log(jnp.array([0.25, 0.0, 0.75])), 4).tolist()
    [0, 2, 2, 2]
    """
    check_key(key)
    check_count("num_samples", num_samples)
    check_one_of("method", method, get_args(ResamplingMethod))
    if method == "systematic":
        v = iid_uniforms(key, 1)[0]
        u = (jnp.arange(num_samples, dtype=v.dtype) + v) / num_samples
    elif method == "stratified":
        u = stratified_uniforms(key, num_samples)[:, 0]
    else:
        u = iid_uniforms(key, num_samples)[:, 0]
    return (_residual if method == "residual" else resample_from_uniforms)(log_weights, u)


def resample_from_uniforms(log_weights: Array, u: Array) -> Array:
    """Map uniforms to points by the inverse CDF of their weights.

    Args:
      log_weights: unnormalized log-weights (nats), `[M]`; −inf stands for zero.
      u: uniforms in [0, 1), `[N]`.

    Returns:
      Indices, int32 `[N]`: the first point whose cumulative weight exceeds u. A point of weight
      zero never comes. All are −1 when the weights hold NaN, +inf or nothing but −inf.

    Raises:
      TypeError, ValueError: `log_weights` are not floating-point numbers of rank 1.

    >>> log_weights = jnp.log(jnp.array([0.25, 0.0, 0.75]))
    >>> resample_from_uniforms(log_weights, jnp.array([0.2, 0.3, 0.9])).tolist()
    [0, 2, 2]
    """
    weights = _normalized(log_weights)
    indices = _inverse(weights, jnp.asarray(u))
    return jnp.where(jnp.any(jnp.isnan(weights)), -1, indices)


def _residual(log_weights: Array, u: Array) -> Array:
    """Map uniforms `[N]` to ⌊N w_i⌋ copies of each point, and draws for those that are missing."""
    expected = u.size * _normalized(log_weights)
    copies = jnp.floor(expected)
    last_copy = jnp.cumsum(jnp.where(jnp.isnan(copies), 0, copies).astype(jnp.int32))
    position = jnp.arange(u.size, dtype=jnp.int32)
    certain = jnp.searchsorted(last_copy, position, side="right")
    remaining = (expected - copies) / jnp.sum(expected - copies)
    indices = jnp.where(position < last_copy[-1], certain.astype(jnp.int32), _inverse(remaining, u))
    return jnp.where(jnp.any(jnp.isnan(expected)), -1, indices)


def _normalized(log_weights: Array) -> Array:
    log_weights = jnp.asarray(log_weights)
    check_float_array("log_weights", log_weights)
    check_rank("log_weights", log_weights, 1)
    if log_weights.size == 0:
        raise ValueError("log_weights must hold at least one point, got shape (0,)")
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    return weights / jnp.sum(weights)


def _inverse(weights: Array, u: Array) -> Array:
    positive = weights > 0
    # A parallel sum may rise by rounding where nothing was added: let only weights raise it.
    cumulative = jax.lax.cummax(jnp.where(positive, jnp.cumsum(weights), 0))
    found = jnp.searchsorted(cumulative, u * cumulative[-1], side="right")
    last = jnp.max(jnp.where(positive, jnp.arange(weights.size), 0))
    return jnp.minimum(found, last).astype(jnp.int32)
