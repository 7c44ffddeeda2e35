"""Draws from a softmax, as an inverse CDF."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_float_array, check_key, check_shape
from jaxgen.core._types import Array, Key
from jaxgen.samplers._shapes import result_shape


def categorical_quantile(logits: Array, u: Array) -> Array:
    r"""Map uniforms to symbols through the inverse CDF of a categorical distribution.

    .. math:: F^{-1}(u) = \min \{ i : \sum_{j \le i} p_j > u, \; p_i > 0 \},
       \qquad p = \mathrm{softmax}(\ell)

    No symbol of probability zero is ever returned: not the first one at u = 0, and not the last one
    where the rounded cumulative sum ends below u (a plain `searchsorted` picks both). Sums are
    float32's: a symbol's probability is off by up to about 1e-7, or V times 1e-8 if that is more.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      u: uniforms in [0, 1), `[...]`.

    Returns:
      Symbols, int32 `[...]`; −1 where there is no distribution (a NaN among the logits, +inf, or
      every symbol forbidden).

    Raises:
      ValueError: `u` has not the shape of `logits` without its last axis.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([0.0, 0.5, 0.5, 0.0]))
    >>> [int(categorical_quantile(logits, jnp.float32(u))) for u in (0.0, 0.49, 0.51, 1.0)]
    [1, 1, 2, 2]
    """
    logits, u = jnp.asarray(logits), jnp.asarray(u)
    check_float_array("logits", logits)
    check_shape("u", u, logits.shape[:-1])
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    cumulative = jnp.cumsum(weights, axis=-1)
    target = u.astype(weights.dtype)[..., None] * cumulative[..., -1:]
    possible = weights > 0
    reached = possible & (cumulative > target)
    last_possible = logits.shape[-1] - 1 - jnp.argmax(possible[..., ::-1], axis=-1)
    symbol = jnp.where(jnp.any(reached, axis=-1), jnp.argmax(reached, axis=-1), last_possible)
    is_distribution = jnp.isfinite(cumulative[..., -1])
    return jnp.where(is_distribution, symbol, -1).astype(jnp.int32)


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
