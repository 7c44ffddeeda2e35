"""Categorical draws that know no smallest probability: an inverse CDF from light to heavy.

One uniform picks a block of symbols, a second the symbol in it. Each sum holds what is no heavier
than its last term, so it has that term's own digits, and the lightest lie near u = 0, where the
uniforms have theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_key, check_shape
from jaxgen.core._types import Array, Key
from jaxgen.samplers._blocked_categorical import blocked_categorical
from jaxgen.samplers._categorical import symbols_last
from jaxgen.samplers._random_bits import tail_uniforms


def tails_quantile(logits: Array, u: Array) -> Array:
    """Map two uniforms to a symbol, through blocks and within one from light to heavy.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      u: uniforms in [0, 1), `[..., 2]`, for the block and for the symbol in it.

    Returns:
      Symbols, int32 `[...]`; −1 where there is no distribution.
    """
    check_shape("u", u, (*logits.shape[:-1], 2))
    table = blocked_categorical(logits)
    block = _pick(table.masses, u[..., 0])
    inside = jnp.take_along_axis(table.weights, jnp.maximum(block, 0)[..., None, None], axis=-2)
    position = _pick(inside[..., 0, :], u[..., 1])
    return jnp.where(block < 0, -1, block * table.weights.shape[-1] + position)


def categorical_with_tails(
    key: Key, logits: Array, axis: int = -1, shape: tuple[int, ...] | None = None
) -> Array:
    """Draw symbols from a softmax, the unlikeliest at their rate too.

    Probabilities are right in relative terms, to about V^½ times 1e-7, down to 2^-64 for a block of
    √V symbols and as much again for a symbol in it: 40 nats below the leader and more. For
    distributions over many symbols that are drawn from once it is no slower than `categorical`.

    Args:
      key: a typed key.
      logits: unnormalized log-probabilities; −inf forbids a symbol.
      axis: the axis of `logits` that runs over symbols.
      shape: shape of the result, to which that of `logits` without `axis` must broadcast, and
        which it is by default.

    Returns:
      Symbols, int32 of shape `shape`; −1 where a row of logits is no distribution.

    Raises:
      TypeError: `key` is not a typed key, or `logits` are not floating-point numbers.
      ValueError: `axis` is none of `logits`, or `shape` does not fit.

    >>> import jax
    >>> categorical_with_tails(jax.random.key(0), jnp.array([-jnp.inf, 0.0]), shape=(3,)).tolist()
    [1, 1, 1]
    """
    check_key(key)
    logits, shape = symbols_last(logits, axis, shape)
    num_repeated = len(shape) + 1 - logits.ndim
    logits = jnp.broadcast_to(logits, (*shape[num_repeated:], logits.shape[-1]))
    draw = tails_quantile
    for _ in range(num_repeated):  # the weights are shared by all draws from a row
        draw = jax.vmap(draw, (None, 0))
    return draw(logits, tail_uniforms(key, (*shape, 2)))


def _pick(weights: Array, u: Array) -> Array:
    """Return the entry `[...]` of `weights [..., B]` at u, from light to heavy; −1 for NaN."""
    size = weights.shape[-1]
    own, other = weights[..., :, None], weights[..., None, :]
    is_earlier = np.tril(np.ones((size, size), bool))
    is_earlier = is_earlier.reshape((1,) * (weights.ndim - 1) + (size, size))
    # B² comparisons take less time than a sort.
    is_no_heavier = (other < own) | ((other == own) & is_earlier)
    cumulative = jnp.sum(jnp.where(is_no_heavier, other, 0.0), axis=-1)
    heaviest = jnp.argmax(weights, axis=-1)
    target = u.astype(weights.dtype) * jnp.sum(weights, axis=-1)
    reached = (cumulative > target[..., None]) & (weights > 0)
    lightest = jnp.argmin(jnp.where(reached, cumulative, jnp.inf), axis=-1)
    index = jnp.where(jnp.any(reached, axis=-1), lightest, heaviest)
    return jnp.where(jnp.isnan(target), -1, index).astype(jnp.int32)
