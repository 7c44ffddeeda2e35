"""Categorical draws over large vocabularies by a two-level inverse CDF that keeps the tail.

One uniform picks a block of symbols, a second picks the symbol in it, so no cumulative sum is
long. In each the heaviest entry comes last: the light ones lie near u = 0, where floats are dense,
instead of behind a large partial sum that absorbs them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_float_array, check_key, check_shape
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import dense_near_zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockedCategorical:
    """Weights of V symbols cut into B blocks of S, padded with zeros.

    Attributes:
      weights: exp(logits − max), `[..., B, S]`; NaN where the logits have no valid distribution.
      masses: sums over each block, `[..., B]`.
      num_symbols: V.
    """

    weights: Array
    masses: Array
    num_symbols: int = dataclasses.field(metadata={"static": True})

    @property
    def probabilities(self) -> Array:
        """Return what is drawn from, `[..., V]`."""
        total = jnp.sum(self.masses, axis=-1)
        num_padded = math.prod(self.weights.shape[-2:])
        flat = self.weights.reshape(*total.shape, num_padded)[..., : self.num_symbols]
        return flat / total[..., None]

    def quantile(self, u: Array) -> Array:
        """Map two uniforms to a symbol.

        Args:
          u: uniforms in (0, 1), `[*shape, ..., 2]` with `[...]` the leading shape of the logits,
            for the block and for the symbol in it. Order over blocks and within them is that of the
            symbols, but for the heaviest, which comes last.

        Returns:
          Symbols, int32 `[*shape, ...]`; −1 where the logits have no distribution. A symbol of
          weight zero never comes.

        Raises:
          ValueError: `u` has another shape.
        """
        u = jnp.asarray(u)
        rows = (*self.masses.shape[:-1], 2)
        num_repeated = max(u.ndim - len(rows), 0)
        check_shape("u", u, (*u.shape[:num_repeated], *rows))
        pick = _quantile
        for _ in range(num_repeated):
            pick = jax.vmap(pick, (None, None, 0))
        return pick(self.weights, self.masses, u)

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Draw symbols.

        Behind one leader, symbols 20 nats below it are drawn at their rate: where its block has
        probability p, with a relative error of about 2^-33 / p. Behind many heavy symbols sums in
        float32 absorb a block less likely than 1e-7, and in a block a symbol of as small a share;
        `categorical_with_tails` keeps those.

        Args:
          key: a typed key.
          shape: leading shape of independent draws for each row of logits.

        Returns:
          Symbols, int32 `[*shape, ...]`; −1 where a row holds NaN, +inf or nothing but −inf.

        Raises:
          TypeError, ValueError: `key` is not one typed key.
        """
        check_key(key)
        return self.quantile(dense_near_zero(key, (*shape, *self.masses.shape[:-1], 2)))


def blocked_categorical(logits: Array) -> BlockedCategorical:
    """Return a categorical distribution over many symbols, weighed in blocks of about √V.

    It is cheap to set up, so it also serves logits that are drawn from once.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.

    Returns:
      `BlockedCategorical`, float32 at least. Logits with NaN, +inf or nothing but −inf give NaN.

    Raises:
      TypeError: `logits` are not floating-point numbers.
      ValueError: `logits` have no last axis of symbols, or an empty one.

    >>> import jax
    >>> table = blocked_categorical(jnp.array([-jnp.inf, 0.0, -jnp.inf]))
    >>> table.sample(jax.random.key(0), (4,)).tolist()
    [1, 1, 1, 1]
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have a last axis of symbols, got shape {logits.shape}")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_symbols = logits.shape[-1]
    block_size = 2 ** max(3, math.ceil(math.log2(num_symbols) / 2))
    num_blocks = -(-num_symbols // block_size)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, num_blocks * block_size - num_symbols)]
    weights = jnp.pad(weights, padding).reshape(*logits.shape[:-1], num_blocks, block_size)
    return BlockedCategorical(weights, jnp.sum(weights, axis=-1), num_symbols)


def _quantile(weights: Array, masses: Array, u: Array) -> Array:
    block = _pick(masses, u[..., 0])
    inside = jnp.take_along_axis(weights, jnp.maximum(block, 0)[..., None, None], axis=-2)
    position = _pick(inside[..., 0, :], u[..., 1])
    return jnp.where(block < 0, -1, block * weights.shape[-1] + position)


def _pick(weights: Array, u: Array) -> Array:
    """Return the entry `[...]` of `weights [..., B]` at u, the heaviest placed last; −1 for NaN."""
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
