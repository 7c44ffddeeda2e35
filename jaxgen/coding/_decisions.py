r"""Symbols as decisions whose shares are integers, whatever the last bits of the logits are.

A symbol is which half of the alphabet it lies in, which half of that, and so on: one decision a
bit. What a machine computes of a decision is where it stands between the masses a and b of the
halves,

.. math:: t = \pm \left(1 - (\min(a, b) / \max(a, b))^{1/4}\right) \in [-1, 1],

and all that coding knows of it is the cell of t among K to the unit, which another machine finds
too unless t lies next to a boundary. The root makes cells of even odds narrow and those of what is
nearly certain wide, so that neither rounding to a cell nor boundaries nearby cost much. A cell's
share is that of its middle, a ratio of integers. From there on all is exact.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.coding import _ans as ans
from jaxgen.coding import _chain as chain
from jaxgen.coding._ans import PRECISION, FindFn, Interval
from jaxgen.core._types import Array

NUM_OFFSETS = 256
"""By as many parts of a cell all boundaries may be moved."""
MAX_CELLS_A_UNIT = 255
ROOT = 4
"""Of the ratio of masses, that cells are even in."""
# Masses are at least this, in nats below the largest: no sum of them is a subnormal number.
_LEAST_LOG_MASS = -60.0


def num_decisions(num_symbols: int) -> int:
    """Return how many decisions a symbol is."""
    return (num_symbols - 1).bit_length()


def levels(logits: Array) -> tuple[Array, ...]:
    """Return where all decisions stand, the first level first: float32 `[..., 2ˡ]` of level l.

    Args:
      logits: float32 `[..., V]`.
    """
    num_symbols = logits.shape[-1]
    # Some models give −inf to all that cannot be: those have the least mass like the others.
    logits = logits - jnp.max(logits, axis=-1, keepdims=True)
    masses = jnp.exp(jnp.maximum(logits, _LEAST_LOG_MASS))
    missing = 2 ** num_decisions(num_symbols) - num_symbols
    masses = jnp.pad(masses, [(0, 0)] * (masses.ndim - 1) + [(0, missing)])
    found: list[Array] = []
    while masses.shape[-1] > 1:
        left, right = masses[..., 0::2], masses[..., 1::2]
        found.append(_place(left, right))
        masses = left + right
    return tuple(reversed(found))


def path(levels: tuple[Array, ...], symbols: Array) -> Array:
    """Return where the decisions of symbols `[...]` stand, the first one first, `[..., L]`."""
    places = []
    for i, level in enumerate(levels):
        node = symbols >> (len(levels) - i)
        places.append(jnp.take_along_axis(level, node[..., None], axis=-1)[..., 0])
    return jnp.stack(places, axis=-1)


def is_open(symbols: np.ndarray, num_symbols: int) -> np.ndarray:
    """Return which decisions of symbols `[...]` have two sides, `[..., L]`."""
    halves = 2 ** np.arange(num_decisions(num_symbols))[::-1]
    return (symbols[..., None] // (2 * halves) * 2 + 1) * halves < num_symbols


def _place(left: Array, right: Array) -> Array:
    larger = jnp.maximum(jnp.maximum(left, right), jnp.exp(_LEAST_LOG_MASS))
    width = jnp.sqrt(jnp.sqrt(jnp.minimum(left, right) / larger))
    return jnp.where(left >= right, 1 - width, width - 1)


@lru_cache(maxsize=8)
def shares_of_cells(cells_a_unit: int) -> np.ndarray:
    """Return the share of the left half, uint32 `[256, 511]`, for each offset and each cell.

    Of 2 K + 1 cells; behind these are zeros, so that one program takes any number of them.
    """
    end, offsets = NUM_OFFSETS * cells_a_unit, np.arange(NUM_OFFSETS)[:, None]
    low = NUM_OFFSETS * np.arange(-cells_a_unit, cells_a_unit + 1) - offsets
    middle = np.clip(low, -end, end) + np.clip(low + NUM_OFFSETS, -end, end)
    # Integers of any size, so that every machine has the same.
    smaller = (2 * end - np.abs(middle)).astype(object) ** ROOT
    larger = (2 * end) ** ROOT
    left = np.where(middle >= 0, larger, smaller)
    shares = (left * 2 ** (PRECISION + 1) + smaller + larger) // (2 * (smaller + larger))
    shares = np.clip(shares, 1, 2**PRECISION - 1).astype(np.uint32)
    return np.pad(shares, [(0, 0), (0, 2 * (MAX_CELLS_A_UNIT - cells_a_unit))])


class Grid(NamedTuple):
    """The rule of `_chain.walk` by which decisions have the shares of their cells.

    Attributes:
      cells_a_unit: K, a scalar.
      shares: of the left half for each offset and each cell, from `shares_of_cells`.
      offsets: of the boundaries for each symbol, in 256ths of a cell, uint8 `[D, B]`.
    """

    cells_a_unit: Array
    shares: Array
    offsets: Array

    def take(self, index: Array, logits: Array) -> chain.Taken:
        """Take float32 logits `[B, V]` of a coordinate; encoders are told places, `[B, L]`."""
        places = levels(logits)
        here = self._replace(offsets=self.offsets[index])
        # In the order of a heap: level l begins at 2ˡ − 1.
        of_nodes = here.shares_at(jnp.concatenate(places, axis=-1))
        _, num_symbols = logits.shape
        find_fn = _find(of_nodes, num_symbols)
        return chain.Taken(
            find_fn, partial(path, places), jnp.all(jnp.isfinite(places[0]), axis=-1)
        )

    def shares_at(self, places: Array) -> Array:
        """Return the shares of the left halves, `[..., L]` like `places`, for offsets `[...]`."""
        offsets = self.offsets[..., None]
        at = jnp.floor(places * self.cells_a_unit + offsets.astype(jnp.float32) / NUM_OFFSETS)
        at = at.astype(jnp.int32) + self.cells_a_unit
        return self.shares[offsets, jnp.clip(at, 0, 2 * self.cells_a_unit)]


def _find(shares: Array, num_symbols: int) -> FindFn:
    """Return what finds the i-th symbol, of the shares of all its decisions, `[B, 2ᴸ − 1]`."""

    def find_fn(i: Array, slot: Array) -> tuple[Array, Interval]:
        return _descend(
            num_symbols,
            lambda level, node: shares[i, (1 << level) - 1 + node],
            lambda level, middle: slot >= middle,
            jnp.int32(0),
        )

    return find_fn


def interval(symbols: Array, shares: Array, num_symbols: int) -> Interval:
    """Return the intervals of symbols `[N]`, of the shares of their decisions `[N, L]`."""
    last = shares.shape[-1] - 1
    _, found = _descend(
        num_symbols,
        lambda level, node: shares[:, level],
        lambda level, middle: (symbols >> (last - level)) & 1 == 1,
        jnp.zeros_like(symbols),
    )
    return found


def _descend(
    num_symbols: int,
    share_fn: Callable[[Array, Array], Array],
    is_right_fn: Callable[[Array, Array], Array],
    root: Array,
) -> tuple[Array, Interval]:
    """Go from the whole to a symbol; return it and its interval.

    Args:
      num_symbols: V; each symbol is left a slot of the whole at least.
      share_fn: gives the share of the left half, of a level and the node there.
      is_right_fn: says whether to go right, of a level and where the right half begins.
      root: int32 zeros of the shape of what is found.
    """
    num_levels = num_decisions(num_symbols)

    def halve(level: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        node, start, size = found
        half = jnp.int32(1) << (num_levels - 1 - level)
        num_right = jnp.clip(num_symbols - (2 * node + 1) * half, 0, half).astype(jnp.uint32)
        left, _ = ans.times(size, share_fn(level, node), jnp.uint32(0))
        left = jnp.clip(left, half.astype(jnp.uint32), size - num_right)
        left = jnp.where(num_right > 0, left, size)
        is_right = is_right_fn(level, start + left)
        node = 2 * node + is_right.astype(jnp.int32)
        return (
            node,
            jnp.where(is_right, start + left, start),
            jnp.where(is_right, size - left, left),
        )

    zeros = jnp.zeros_like(root, jnp.uint32)
    begin = (root, zeros, zeros + jnp.uint32(2**PRECISION))
    symbol, start, size = jax.lax.fori_loop(0, num_levels, halve, begin)
    return symbol, (start, size)
