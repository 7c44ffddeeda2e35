r"""Asymmetric numeral systems (Duda 2009): a stack that symbols are pushed on and popped from.

A symbol owns an interval :math:`[c, c + f)` of :math:`[0, 2^{24})`, a share :math:`f / 2^{24}`.
What has been pushed is a number X. Pushing a symbol makes it :math:`\lfloor X / f \rfloor 2^{24} +
c + X \bmod f`, so it grows by :math:`-\log_2 (f / 2^{24})` bits, and popping undoes that:
:math:`X \bmod 2^{24}` says whose interval it is. The leading 48 bits of X are the state, in
:math:`[2^{32}, 2^{48})`; what grows beyond goes to the stack in words of 16 bits.

All of it is exact arithmetic of 32-bit integers in compiled loops: the same bits everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array

PRECISION = 24
"""Bits of the whole that symbols own shares of."""
WORD_BYTES, WORD_BITS, WORDS_A_SYMBOL = 2, 16, 2
"""Bytes and bits of a word, and how many words a symbol moves at most."""

STATE_BYTES = 6
"""Length of a state in a file."""

LEAST_HIGH = 2 ** (32 - PRECISION)
"""Of a state."""
STIR = 0x9E3779
"""By what the lowest 24 bits may be multiplied, so that each depends on all: an odd number."""
_MASK = 2**PRECISION - 1


class State(NamedTuple):
    """The leading 48 bits of what has been pushed, high · 2²⁴ + low, each uint32 and below 2²⁴."""

    high: Array
    low: Array


def empty_state() -> State:
    """Return the state when nothing is pushed: 2³²."""
    return State(jnp.uint32(LEAST_HIGH), jnp.uint32(0))


Interval = tuple[Array, Array]
"""The start c and the size f ≥ 1 of a share, uint32."""
FindFn = Callable[[Array, Array], tuple[Array, Interval]]
"""`find_fn(i, slot)` gives the i-th symbol whose interval holds `slot`, and that interval."""


def first_beyond(slot: Array, end_fn: Callable[[Array], Array], num_symbols: int) -> Array:
    """Return the symbol whose interval holds a slot, by bisection of where intervals end.

    Args:
      slot: the slot.
      end_fn: gives the end of a symbol's interval, ascending in the symbol.
      num_symbols: how many symbols there are.
    """

    # A loop, as steps written out would be compiled again for each use of their results.
    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        is_beyond = slot >= end_fn(middle)
        return jnp.where(is_beyond, middle + 1, low), jnp.where(is_beyond, high, middle)

    bounds = (jnp.int32(0), jnp.int32(num_symbols - 1))
    return jax.lax.fori_loop(0, (num_symbols - 1).bit_length(), halve, bounds)[0]


class Popped(NamedTuple):
    """What `pop` took from the stack.

    Attributes:
      state: behind the last symbol.
      num_words: words that were read.
      symbols: int32 `[num_symbols]`.
    """

    state: State
    num_words: Array
    symbols: Array


def pop(
    state: State,
    words: Array,
    position: Array,
    num_symbols: int,
    find_fn: FindFn,
    *,
    count: Array | None = None,
    stir: int = 1,
) -> Popped:
    """Pop symbols one after the other.

    Args:
      state: the state.
      words: uint16 `[W]`, the top of the stack first; what is read beyond their end is undefined.
      position: how many of the words have been read before.
      num_symbols: room for symbols.
      find_fn: finds a symbol; intervals of the i-th symbols must not overlap, nor leave a gap.
      count: how many to pop, if not as many as there is room for; zeros stand behind them.
      stir: 1, or `STIR` for symbols that must look random whatever was pushed last.
    """

    def one(i: Array, carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        state, at, symbols = carry
        slot = (state.low * jnp.uint32(stir)) & _MASK
        symbol, (start, size) = find_fn(i, slot)
        state, at = _read(*times(size, state.high, slot - start), words, at)
        return state, at, symbols.at[i].set(symbol)

    begin = (state, position, jnp.zeros(num_symbols, jnp.int32))
    end = num_symbols if count is None else count
    state, at, symbols = jax.lax.fori_loop(0, end, one, begin)
    return Popped(state, at - position, symbols)


class Pushed(NamedTuple):
    """What `push` put on the stack.

    Attributes:
      state: after the last symbol.
      num_words: words that were written.
      words: uint16 `[2 N]`, the lowest on the stack first; what stands behind `num_words` is not
        part of it.
    """

    state: State
    num_words: Array
    words: Array


def push(
    state: State, starts: Array, sizes: Array, *, count: Array | None = None, stir: int = 1
) -> Pushed:
    """Push symbols, the last one first, so that `pop` gives them from the first on.

    Args:
      state: the state.
      starts: of their intervals, uint32 `[N]`.
      sizes: of their intervals, uint32 `[N]`.
      count: how many of them to push, the first ones, if not all.
      stir: what they are popped with.
    """
    unstir = pow(stir, -1, 2**PRECISION)
    end = len(starts) if count is None else count

    def one(i: Array, carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        (high, low), at, words = carry
        start, size = starts[end - 1 - i], sizes[end - 1 - i]
        for _ in range(WORDS_A_SYMBOL):
            words = words.at[at].set((low & 0xFFFF).astype(jnp.uint16))
            is_full = high >= size
            shifted = (low >> WORD_BITS) | ((high & 0xFFFF) << (PRECISION - WORD_BITS))
            low = jnp.where(is_full, shifted, low)
            high = jnp.where(is_full, high >> WORD_BITS, high)
            at += is_full.astype(jnp.int32)
        quotient, remainder = _divide(high, low, size)
        low = ((remainder + start) * jnp.uint32(unstir)) & _MASK
        return State(quotient, low), at, words

    room = jnp.zeros(WORDS_A_SYMBOL * len(starts) + 1, jnp.uint16)
    state, at, words = jax.lax.fori_loop(0, end, one, (state, jnp.int32(0), room))
    return Pushed(state, at, words)


def pack(state: State) -> bytes:
    """Return the state as 6 bytes."""
    return ((int(state.high) << PRECISION) + int(state.low)).to_bytes(6, "little")


def unpack(data: bytes) -> State:
    """Read the state of 6 bytes."""
    x = int.from_bytes(data, "little")
    return State(jnp.uint32(x >> PRECISION), jnp.uint32(x & _MASK))


def times(size: Array, high: Array, rest: Array) -> tuple[Array, Array]:
    """Return size · high + rest of numbers up to 2²⁴, as high and low 24 bits."""
    s1, s0 = size >> 12, size & 0xFFF
    h1, h0 = high >> 12, high & 0xFFF
    middle = s1 * h0 + s0 * h1
    low = s0 * h0 + ((middle & 0xFFF) << 12) + rest
    return s1 * h1 + (middle >> 12) + (low >> PRECISION), low & _MASK


def _read(high: Array, low: Array, words: Array, position: Array) -> tuple[State, Array]:
    """Fill the state up with words until it is at least 2³²."""
    for _ in range(WORDS_A_SYMBOL):
        word = words[position].astype(jnp.uint32)
        is_short = high < LEAST_HIGH
        high = jnp.where(is_short, (high << WORD_BITS) | (low >> (PRECISION - WORD_BITS)), high)
        low = jnp.where(is_short, ((low << WORD_BITS) & _MASK) | word, low)
        position += is_short.astype(jnp.int32)
    return State(high, low), position


def _divide(high: Array, low: Array, size: Array) -> tuple[Array, Array]:
    """Return quotient and remainder of high · 2²⁴ + low by a size above high, byte by byte."""
    remainder, quotient = high, jnp.uint32(0)
    for shift in (16, 8, 0):
        remainder = (remainder << 8) | ((low >> shift) & 0xFF)
        quotient = (quotient << 8) | (remainder // size)
        remainder = remainder % size
    return quotient, remainder
