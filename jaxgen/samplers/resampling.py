"""Resampling: turn weighted points into equally weighted ones, without bias.

Every scheme gives each point i an expected N w_i copies; they differ in how much the number of
copies varies (Douc, Cappé and Moulines 2005). `ancestors` is the deterministic core of all.
"""

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_float_array, check_key, check_rank
from jaxgen.core.types import Array, Key
from jaxgen.samplers import uniform


def ancestors(log_weights: Array, u: Array) -> Array:
    """Map uniforms to points by the inverse CDF of the weights: the deterministic core.

    Args:
      log_weights: unnormalised log-weights (nats), `[M]`; −inf stands for zero.
      u: uniforms in [0, 1), `[N]`.

    Returns:
      Indices, int32 `[N]`: the first point whose cumulative weight exceeds u. A point of weight
      zero never comes. All are −1 when the weights hold NaN, +inf or nothing but −inf.

    Raises:
      TypeError, ValueError: `log_weights` are not floating-point numbers of rank 1.

    >>> ancestors(jnp.log(jnp.array([0.25, 0.0, 0.75])), jnp.array([0.2, 0.3, 0.9])).tolist()
    [0, 2, 2]
    """
    weights = _normalized(log_weights)
    indices = _inverse(weights, jnp.asarray(u))
    return jnp.where(jnp.any(jnp.isnan(weights)), -1, indices)


def multinomial(key: Key, log_weights: Array, num_samples: int) -> Array:
    """Draw every index independently; the number of copies has the largest variance.

    Args:
      key: a typed key.
      log_weights: unnormalised log-weights (nats), `[M]`.
      num_samples: N.

    Returns:
      Indices, int32 `[N]`, in no order; −1 as in `ancestors`.

    Raises:
      TypeError, ValueError: as `ancestors`; also for a bad key or count.
    """
    check_key(key)
    return ancestors(log_weights, uniform.iid(key, num_samples)[:, 0])


def stratified(key: Key, log_weights: Array, num_samples: int) -> Array:
    """Draw one uniform in each of N equal strata (Kitagawa 1996).

    Takes and raises what `multinomial` does; gives indices in increasing order.
    """
    check_key(key)
    return ancestors(log_weights, uniform.stratified(key, num_samples)[:, 0])


def systematic(key: Key, log_weights: Array, num_samples: int) -> Array:
    """Use one uniform v for all: u_i = (i + v) / N (Carpenter, Clifford and Fearnhead 1999).

    Point i gets ⌊N w_i⌋ copies or one more. Takes and raises what `multinomial` does; gives
    indices in increasing order.
    """
    check_key(key)
    check_count("num_samples", num_samples)
    v = uniform.iid(key, 1)[0]
    return ancestors(log_weights, (jnp.arange(num_samples, dtype=v.dtype) + v) / num_samples)


def residual(key: Key, log_weights: Array, num_samples: int) -> Array:
    """Copy each point ⌊N w_i⌋ times and draw the rest independently (Liu and Chen 1998).

    Takes and raises what `multinomial` does; the certain copies come first.
    """
    check_key(key)
    expected = num_samples * _normalized(log_weights)
    copies = jnp.floor(expected)
    last_copy = jnp.cumsum(jnp.where(jnp.isnan(copies), 0, copies).astype(jnp.int32))
    position = jnp.arange(num_samples, dtype=jnp.int32)
    certain = jnp.searchsorted(last_copy, position, side="right")
    remaining = (expected - copies) / jnp.sum(expected - copies)
    drawn = _inverse(remaining, uniform.iid(key, num_samples)[:, 0])
    indices = jnp.where(position < last_copy[-1], certain.astype(jnp.int32), drawn)
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
