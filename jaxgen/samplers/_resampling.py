"""Resampling: turn weighted points into equally weighted ones, without bias."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxgen.core import _double as double
from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import (
    check_count,
    check_float_array,
    check_in_range,
    check_key,
    check_one_of,
    check_rank,
)
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import iid_uniforms

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
      log_weights: unnormalized log-weights (nats), `[M]`; −inf stands for zero. They are
        summed with twice the digits of a float: right for up to 2^30 points.
      num_samples: N, at most 2^30.
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
    check_in_range("num_samples", num_samples, 1, 2**30)
    check_one_of("method", method, get_args(ResamplingMethod))
    weights = _weights(log_weights)
    if method == "systematic":
        cell, u = jnp.arange(num_samples), jnp.broadcast_to(iid_uniforms(key, 1)[0], num_samples)
    elif method == "stratified":
        cell, u = jnp.arange(num_samples), iid_uniforms(key, num_samples).ravel()
    else:  # a cell and a place in it: one float has no bits for both
        cell_key, key = jax.random.split(key)
        cell = jax.random.randint(cell_key, (num_samples,), 0, num_samples)
        u = iid_uniforms(key, num_samples).ravel()
    indices = _residual if method == "residual" else _inverse
    return jnp.where(jnp.any(jnp.isnan(weights)), -1, indices(weights, cell, u, num_samples))


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
    weights, u = _weights(log_weights), jnp.asarray(u)
    indices = _inverse(weights, jnp.zeros(u.shape, jnp.int32), u, 1)
    return jnp.where(jnp.any(jnp.isnan(weights)), -1, indices)


def _residual(weights: Array, cell: Array, u: Array, num_cells: int) -> Array:
    """Map targets `[N]` to ⌊N w_i⌋ copies of each point, and draws for those that are missing."""
    total = jax.tree.map(lambda part: part[-1], double.cumulative_sum(weights))
    expected = double.Double(weights, jnp.zeros_like(weights))
    copies, remaining = double.whole_and_fraction(_scaled(expected, total, num_cells))
    last_copy = jnp.cumsum(copies)
    position = jnp.arange(u.size, dtype=jnp.int32)
    certain = jnp.searchsorted(last_copy, position, side="right").astype(jnp.int32)
    drawn = _inverse(remaining, cell, u, num_cells)
    return jnp.where(position < last_copy[-1], certain, drawn)


def _weights(log_weights: Array) -> Array:
    """Return weights of which the largest is one, `[M]`; NaN among them for no distribution."""
    log_weights = jnp.asarray(log_weights)
    check_float_array("log_weights", log_weights)
    check_rank("log_weights", log_weights, 1)
    if log_weights.size == 0:
        raise ValueError("log_weights must hold at least one point, got shape (0,)")
    log_weights = as_reals("log_weights", log_weights)
    return jnp.exp(log_weights - jnp.max(log_weights))


def _inverse(weights: Array, cell: Array, u: Array, num_cells: int) -> Array:
    """Return the first point whose share of the weight, summed up, exceeds (cell + u) / N, `[...]`.

    Sums and shares have twice the digits of a float, so that each of 2^30 points and draws has a
    place of its own.
    """
    cumulative = double.cumulative_sum(weights)
    total = jax.tree.map(lambda part: part[-1], cumulative)
    whole, fraction = double.whole_and_fraction(_scaled(cumulative, total, num_cells))
    u = u.astype(fraction.dtype)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        is_beyond = fraction[middle] > u
        is_open = low < high
        low = jnp.where(is_open & ~is_beyond, middle + 1, low)
        return low, jnp.where(is_open & is_beyond, middle, high)

    # Of the points that end in the target's cell the fractions decide.
    bounds = jnp.searchsorted(whole, cell), jnp.searchsorted(whole, cell, side="right")
    found = jax.lax.while_loop(lambda bounds: jnp.any(bounds[0] < bounds[1]), halve, bounds)[0]
    # Only points of positive weight count: a sum may rise by rounding where nothing was added, and
    # may end below the last target.
    places = jnp.where(weights > 0, jnp.arange(weights.size, dtype=jnp.int32), -1)
    last = jnp.max(places)
    following = jax.lax.cummin(jnp.where(places < 0, last, places), reverse=True)
    return following[jnp.minimum(found, last)]


def _scaled(part: double.Double, total: double.Double, num_cells: int) -> double.Double:
    """Return N · part / total."""
    per_weight = double.divide(double.double(num_cells, part.high.dtype), total)
    return double.multiply(part, per_weight)
