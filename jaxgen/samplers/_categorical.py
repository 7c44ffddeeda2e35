"""Draws from a softmax, as an inverse CDF."""

import jax
import jax.numpy as jnp

from jaxgen.core._categorical_quantile import categorical_quantile as categorical_quantile
from jaxgen.core._checks import check_float_array, check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._shapes import result_shape


def categorical(
    key: Key, logits: Array, axis: int = -1, shape: tuple[int, ...] | None = None
) -> Array:
    """Draw symbols from a softmax over one axis.

    Args:
      key: a typed key.
      logits: unnormalized log-probabilities; −inf forbids a symbol.
      axis: the axis of `logits` that runs over symbols.
      shape: shape of the result, to which that of `logits` without `axis` must broadcast, and
        which it is by default.

    Returns:
      Symbols, int32 of shape `shape`; −1 where a row of logits is no distribution. A symbol of
      probability zero never comes. One less likely than about 1e-7, the step of a float32 uniform,
      may come too often or never: `categorical_with_tails` has no such limit.

    Raises:
      TypeError: `key` is not a typed key, or `logits` are not floating-point numbers.
      ValueError: `axis` is none of `logits`, or `shape` does not fit.

    >>> import jax
    >>> categorical(jax.random.key(0), jnp.zeros((4, 3)), axis=0, shape=(2, 3)).shape
    (2, 3)
    """
    check_key(key)
    logits, shape = symbols_last(logits, axis, shape)
    num_repeated = len(shape) + 1 - logits.ndim
    logits = jnp.broadcast_to(logits, (*shape[num_repeated:], logits.shape[-1]))
    draw = categorical_quantile
    for _ in range(num_repeated):  # the sums over symbols are shared by all draws from a row
        draw = jax.vmap(draw, (None, 0))
    return draw(logits, jax.random.uniform(key, shape))


def symbols_last(
    logits: Array, axis: int, shape: tuple[int, ...] | None
) -> tuple[Array, tuple[int, ...]]:
    """Return logits with their symbols last, and the shape of the draws."""
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    if not -logits.ndim <= axis < logits.ndim:
        raise ValueError(f"axis must be one of logits of shape {logits.shape}, got {axis}")
    logits = jnp.moveaxis(logits, axis, -1)
    return logits, result_shape(shape, {"logits without its axis": logits.shape[:-1]})
