"""Categorical draws over large vocabularies by a two-level inverse CDF that keeps the tail.

One uniform picks a block of symbols, a second picks the symbol in it, so no cumulative sum is
long. In each the heaviest entry comes last: the light ones lie near u = 0, where floats are dense,
instead of behind a large partial sum that absorbs them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_float_array, check_key
from jaxgen.core.types import Array, Key
from jaxgen.samplers import uniform


class BlockedWeights(NamedTuple):
    """Weights of V symbols cut into B blocks of S, padded with zeros.

    Attributes:
      weights: exp(logits − max), `[..., B, S]`; NaN where the logits have no valid distribution.
      masses: sums over each block, `[..., B]`.
    """

    weights: Array
    masses: Array


def build(logits: Array) -> BlockedWeights:
    """Weigh symbols in blocks of about √V.

    Args:
      logits: unnormalised log-probabilities, `[..., V]`; −inf forbids a symbol.

    Returns:
      `BlockedWeights`, float32 at least. Logits with NaN, +inf or nothing but −inf give NaN.

    Raises:
      TypeError: `logits` are not floating-point numbers.
      ValueError: `logits` have no last axis of symbols, or an empty one.
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have a last axis of symbols, got shape {logits.shape}")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_symbols = logits.shape[-1]
    block_size = 2 ** max(3, math.ceil(math.log2(num_symbols) / 2))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, -num_symbols % block_size)]
    weights = jnp.pad(weights, padding).reshape(*logits.shape[:-1], -1, block_size)
    return BlockedWeights(weights, jnp.sum(weights, axis=-1))


def quantile(table: BlockedWeights, u: Array) -> Array:
    """Map two uniforms to a symbol: the deterministic core.

    Args:
      table: from `build`, with leading shape `[...]`.
      u: uniforms in (0, 1), `[..., 2]`, for the block and for the symbol in it. Order over blocks
        and within them is that of the symbols, but for the heaviest, which comes last.

    Returns:
      Symbols, int32 `[...]`; −1 where the table holds NaN. A symbol of weight zero never comes.
    """
    block = _pick(table.masses, u[..., 0])
    inside = jnp.take_along_axis(table.weights, jnp.maximum(block, 0)[..., None, None], axis=-2)
    position = _pick(inside[..., 0, :], u[..., 1])
    return jnp.where(block < 0, -1, block * table.weights.shape[-1] + position)


def sample(key: Key, logits: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draw symbols from a softmax over the last axis of `logits`.

    A symbol whose block has probability p comes with a relative error of about 2^-33 / p, so tails
    20 nats below the leader are drawn at their rate (a float32 Gumbel-max never draws symbols that
    are 18 nats below).

    Args:
      key: a typed key.
      logits: unnormalised log-probabilities, `[..., V]`; −inf forbids a symbol.
      shape: leading shape of independent draws for each row of logits.

    Returns:
      Symbols, int32 `[*shape, ...]`; −1 where a row holds NaN, +inf or nothing but −inf.

    Raises:
      TypeError, ValueError: `key` is not one typed key; `logits` as in `build`.

    >>> import jax
    >>> sample(jax.random.key(0), jnp.array([-jnp.inf, 0.0, -jnp.inf]), (4,)).tolist()
    [1, 1, 1, 1]
    """
    check_key(key)
    table = build(logits)
    u = uniform.dense_near_zero(key, (*shape, *table.masses.shape[:-1], 2))
    draw = quantile
    for _ in shape:
        draw = jax.vmap(draw, (None, 0))
    return draw(table, u)


def _pick(weights: Array, u: Array) -> Array:
    """The entry `[...]` of `weights [..., B]` at u, the heaviest placed last; −1 for NaN."""
    heaviest = jnp.argmax(weights, axis=-1)
    entries = jnp.broadcast_to(jnp.arange(weights.shape[-1]), weights.shape)
    lighter = jnp.where(entries == heaviest[..., None], 0, weights)
    cumulative = jnp.cumsum(lighter, axis=-1)
    target = u * (cumulative[..., -1] + jnp.max(weights, axis=-1))
    # Weight is asked for too, as a parallel sum may rise by rounding where nothing was added.
    reached = (cumulative > target[..., None]) & (lighter > 0)
    index = jnp.min(jnp.where(reached, entries, weights.shape[-1]), axis=-1)
    index = jnp.where(jnp.any(reached, axis=-1), index, heaviest).astype(jnp.int32)
    return jnp.where(jnp.isnan(target), -1, index)
