"""Lossless codes from autoregressive models, as long as the negative log-likelihood in bits."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.coding import _ans as ans
from jaxgen.coding import _file as file
from jaxgen.coding import _shares as shares
from jaxgen.coding._ans import FindFn
from jaxgen.coding._stack import Stack
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._types import Array, Params

# Part of the format, as batch shape can change rounding: rows coded side by side at most, cells of
# rows times coordinates for which intervals are kept, and the coordinates of one compiled call.
_MAX_ROWS = 1024
_MAX_CELLS = 2**20
_MAX_BLOCK = 128


def encode(model: AutoregressiveModel, params: Params, x: np.ndarray, context: Any) -> bytes:
    """Return the code of int32 symbols `[N, D]`; nothing for what needs none."""
    if model.num_symbols == 1 or x.size == 0:
        return file.padded(b"", len(x))
    stack = Stack()
    for rows in reversed(list(chunks(model, len(x)))):
        push(model, params, stack, x[rows], file.context_rows(context, rows))
    return file.padded(stack.to_bytes(), len(x))


def decode(
    model: AutoregressiveModel,
    params: Params,
    shape: tuple[int, int],
    code: bytes,
    context: Any,
) -> np.ndarray:
    """Return the int32 symbols `[N, D]` of a code."""
    num_rows, num_dims = shape
    if model.num_symbols == 1 or num_dims == 0 or num_rows == 0:
        return without_code(model, num_rows, code)
    stack = Stack.from_bytes(code)
    return pop_all(model, params, stack, num_rows, code, context, lambda size: Softmax())


def pop_all(
    model: AutoregressiveModel,
    params: Params,
    stack: Stack,
    num_rows: int,
    code: bytes,
    context: Any,
    rule_fn: "Callable[[int], Rule]",
) -> np.ndarray:
    """Pop the symbols `[N, D]` of all rows, and check that the code ends with them.

    Args:
      model: the model.
      params: its parameters.
      stack: what stands in the code.
      num_rows: N.
      code: all of it, which may be padded.
      context: what the model is conditioned on.
      rule_fn: gives the rule of as many rows that are coded side by side, the next ones.
    """
    parts: list[np.ndarray] = []  # not all at once: what the header says need not be there
    for rows in chunks(model, num_rows):
        of_rows, size = file.context_rows(context, rows), rows.stop - rows.start
        parts.append(_pop_by(model, params, stack, size, of_rows, rule_fn(size)))
    unpadded = code[: len(code) - ans.WORD_BYTES * stack.drop_zeros()]
    stack.check_is(Stack())
    if file.padded(unpadded, num_rows) != code:
        raise file.CodeError("data is damaged: the code goes on behind the rows of its header")
    return np.concatenate(parts)


def push(
    model: AutoregressiveModel, params: Params, stack: Stack, x: np.ndarray, context: Any
) -> None:
    """Push the symbols `[B, D]` of a few rows."""
    blocks = [coded for _, coded in walk(model, params, context, x, None, Softmax())]
    starts, sizes = (np.concatenate([block[i] for block in blocks]).ravel() for i in (0, 1))
    push_intervals(stack, starts, sizes, room=num_lanes(len(x)) * model.num_dims)


def push_intervals(
    stack: Stack, starts: np.ndarray, sizes: np.ndarray, *, room: int | None = None
) -> None:
    """Push symbols by their intervals, uint32 `[N]` each, so that the first is on top.

    The program is for `room` of them, if that is given.
    """
    count = len(starts)
    starts, sizes = (np.pad(a, (0, (room or count) - count)) for a in (starts, sizes))
    pushed = _push(stack.state, starts, sizes, count=np.int32(count))
    stack.put(pushed.state, np.asarray(pushed.words)[: pushed.num_words])


def pop(
    model: AutoregressiveModel, params: Params, stack: Stack, num_rows: int, context: Any
) -> np.ndarray:
    """Pop the symbols `[B, D]` of a few rows."""
    return _pop_by(model, params, stack, num_rows, context, Softmax())


def _pop_by(
    model: AutoregressiveModel,
    params: Params,
    stack: Stack,
    num_rows: int,
    context: Any,
    rule: "Rule",
) -> np.ndarray:
    """Pop the symbols `[B, D]` of a few rows whose intervals follow a rule."""
    template = np.zeros((num_rows, model.num_dims), np.int32)
    blocks = walk(model, params, context, template, stack, rule)
    return np.concatenate([symbols for symbols, _ in blocks]).T


def claimed_bits(log_prob: np.ndarray) -> float:
    """Return the bits that log-probabilities in nats claim for the data: −Σ log₂ p."""
    return float(-np.sum(np.asarray(log_prob, np.float64)) / math.log(2))


class Taken(NamedTuple):
    """What a rule makes of the logits of one coordinate.

    Attributes:
      find_fn: finds the symbol of each row.
      code_fn: gives what an encoder needs to know of symbols `[B]`, a pytree of `[B, ...]`.
      is_valid: whether the logits of each row are numbers, `[B]`.
    """

    find_fn: FindFn
    code_fn: Callable[[Array], Any]
    is_valid: Array


class Rule(Protocol):
    """How the intervals of symbols follow from logits: a pytree, so part of a compiled call."""

    def take(self, index: Array, logits: Array) -> Taken:
        """Take float32 logits `[B, V]` of a coordinate."""


class Softmax(NamedTuple):
    """The rule of probabilities as they are rounded here; an encoder is told the intervals."""

    def take(self, index: Array, logits: Array) -> Taken:
        """Take float32 logits `[B, V]` of a coordinate."""
        del index
        probabilities = jax.nn.softmax(logits, axis=-1)
        ends = shares.ends_of(probabilities)
        is_valid = jnp.all(jnp.isfinite(probabilities), axis=-1)
        return Taken(shares.find(ends), partial(shares.interval, ends), is_valid)


class _Block(NamedTuple):
    """What coding some coordinates gave: `[K, L, ...]`, but for what `walk` needs to go on."""

    symbols: Array
    coded: Any
    is_valid: Array
    num_words: Array
    state: ans.State
    cache: Any


def walk(
    model: AutoregressiveModel,
    params: Params,
    context: Any,
    x: np.ndarray,
    stack: Stack | None,
    rule: Rule,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Go through blocks of coordinates; yield symbols `[K, B]`, and what the rule says of them.

    Symbols come from the stack, or are those of `x` `[B, D]` where there is none. Both ways go
    through one compiled program, so that the conditionals are the same to the last bit. It has L
    lanes, a power of two, so that a header cannot have programs made for each number of rows.
    """
    num_rows, lanes = len(x), num_lanes(len(x))
    x = np.pad(x, ((0, lanes - num_rows), (0, 0)))
    context = _repeat_last(context, lanes)
    cache = _init_cache(model, params, lanes, context)
    previous = np.zeros(lanes, np.int32)
    for start, end in _blocks(model):
        if model.block_size is not None:
            cache = _resize(model, params, cache, end)
        given = np.ascontiguousarray(x[:, start:end].T)
        held = Stack() if stack is None else stack
        rows = _Rows(np.int32(num_rows), stack is None, held.state, held.top(given.size))
        block = _code_block(model, params, cache, previous, np.int32(start), given, rows, rule)
        is_valid = np.asarray(block.is_valid)
        if not is_valid.all():
            raise ValueError(
                f"model gives NaN probabilities at coordinate {start + np.argmin(is_valid)}"
            )
        if stack is not None:
            stack.drop(block.state, int(block.num_words))
        symbols = np.asarray(block.symbols)
        coded = jax.tree.map(lambda a: np.asarray(a)[:, :num_rows], block.coded)
        yield symbols[:, :num_rows], coded
        cache, previous = block.cache, symbols[-1]


class _Rows(NamedTuple):
    """Where the symbols of the first lanes come from.

    Attributes:
      num_rows: lanes that are rows.
      is_given: whether their symbols are given, rather than in the words.
      state: above the words.
      words: the highest first.
    """

    num_rows: ArrayLike
    is_given: ArrayLike
    state: ans.State
    words: Any


@jax.jit
def _code_block(
    model: AutoregressiveModel,
    params: Params,
    cache: Any,
    previous: Array,
    start: Array,
    given: Array,
    rows: _Rows,
    rule: Rule,
) -> _Block:
    """Code the coordinates from `start` on, given symbols `[K, L]` or the words that hold them."""
    is_row = jnp.arange(len(previous)) < rows.num_rows
    num_popped = jnp.where(rows.is_given, 0, rows.num_rows)

    def one(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        cache, previous, state, position = carry
        index, given_here = inputs
        outputs, cache = model.step(params, cache, index, previous)
        logits = model.conditional_or_default.at(index).logits(outputs).astype(jnp.float32)
        taken = rule.take(index, logits)
        popped = ans.pop(
            state, rows.words, position, len(previous), taken.find_fn, count=num_popped
        )
        symbols = jnp.where(rows.is_given, given_here, popped.symbols)
        is_valid = jnp.all(taken.is_valid | ~is_row)
        carry = (cache, symbols, popped.state, position + popped.num_words)
        return carry, (symbols, taken.code_fn(symbols), is_valid)

    indices = start + jnp.arange(len(given), dtype=jnp.int32)
    begin = (cache, previous, rows.state, jnp.int32(0))
    end, coded = jax.lax.scan(one, begin, (indices, given))
    cache, _, state, num_words = end
    symbols, told, is_valid = coded
    return _Block(symbols, told, is_valid, num_words, state, cache)


_push = jax.jit(ans.push)


@partial(jax.jit, static_argnums=2)
def _init_cache(model: AutoregressiveModel, params: Params, num_rows: int, context: Any) -> Any:
    return model.init_cache(params, num_rows, context=context)


@partial(jax.jit, static_argnums=3)
def _resize(model: AutoregressiveModel, params: Params, cache: Any, length: int) -> Any:
    return model.resize(params, cache, length)


def chunks(model: AutoregressiveModel, num_rows: int) -> Iterator[slice]:
    """Yield the rows coded side by side."""
    most = min(_MAX_ROWS, max(1, _MAX_CELLS // model.num_dims))
    size = 1 << (most.bit_length() - 1)
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def num_lanes(num_rows: int) -> int:
    """Return L, the lanes of the program for so many rows: a power of two.

    There are two at least, as XLA on a CPU copies a transformer's cache at each step of a program
    of one.
    """
    return max(2, 1 << (num_rows - 1).bit_length())


def _repeat_last(context: Any, num_lanes: int) -> Any:
    """Return a context of so many rows, unless it is one for all."""
    return jax.tree.map(
        lambda leaf: (
            leaf[np.minimum(np.arange(num_lanes), len(leaf) - 1)] if np.ndim(leaf) else leaf
        ),
        context,
    )


def _blocks(model: AutoregressiveModel) -> list[tuple[int, int]]:
    """Return the ranges of coordinates that one compiled call goes through."""
    size = model.block_size
    if size is None:
        size = -(-model.num_dims // -(-model.num_dims // _MAX_BLOCK))
    edges = [*range(0, model.num_dims, size), model.num_dims]
    return list(itertools.pairwise(edges))


def without_code(model: AutoregressiveModel, num_rows: int, code: bytes) -> np.ndarray:
    """Return rows that need no code; raise CodeError where they have one."""
    if code != file.padded(b"", num_rows):
        raise file.CodeError("data is damaged: rows that need no code have one")
    return np.zeros((num_rows, model.num_dims), np.int32)
