r"""Codes from autoregressive models that a machine can read which rounds otherwise.

Where decisions stand (`_decisions`) differs from machine to machine in the last bits. The encoder
measures by how much on its own: by steps, as decoders compute; by a pass over all coordinates; and
by one with weights that are shaken in their last bits. Four times the most that it finds is the
tolerance. Symbols are dealt to groups, and for each group it says by how much all boundaries are
moved, so that no decision of the group stands within the tolerance of one. Any machine that stays
within the tolerance then finds the same cells, and the shares of cells are integers. As models are
given symbols, which are exact, differences do not add up along a chain.

Chosen is the first offset, of a fixed sequence, that is free; how many were not is geometric. So a
decision that is a boundary's neighbor with probability q costs about 2 q bits.
"""

import math
import struct
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.coding import _ans as ans
from jaxgen.coding import _chain as chain
from jaxgen.coding import _decisions as decisions
from jaxgen.coding import _file as file
from jaxgen.coding import _shares as shares
from jaxgen.coding._stack import Stack
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._types import Array, Params

# In front of the code: cells a unit; log2 of the symbols in a group; in 256ths, how often the next
# offset is free; -log2 of the tolerance in eighths, which is there to be read alone.
_SETTINGS = struct.Struct("<BBBB")
_TOLERANCE_STEPS = 8

_SAFETY = 4
# What place and cell are off by if logits are not, and the least by which log-odds, nats, may be.
_ROUNDING = 2.0**-22
_LEAST_DEVIATION = 2.0**-19
_SHAKE = 2.0**-22  # relative

_CELLS_A_UNIT = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
_MAX_LOG_GROUP = 24
_BITS_A_NEIGHBOR = 2.1  # of a decision's, with groups that have two neighbors of boundaries each
_NEIGHBORS_A_GROUP = 2
_MAX_SAMPLED = 2**16  # decisions by which cells and groups are chosen
_MAX_LOGITS = 2**22  # that a pass over all coordinates gives at once
_MAX_PASS_ROWS = 64

# Offsets from one another as far as can be; the first puts even odds into the middle of a cell.
_OFFSETS = (np.arange(decisions.NUM_OFFSETS) * 159 + decisions.NUM_OFFSETS // 2) % 256


class Settings(NamedTuple):
    """What the code begins with.

    Attributes:
      cells_a_unit: K.
      log_group: log2 of the symbols in a group.
      success: how often an offset is free, in 256ths.
      fineness: of the tolerance, by how much log-odds may differ: -log2 of the nats, in eighths.
    """

    cells_a_unit: int
    log_group: int
    success: int
    fineness: int

    @property
    def tolerance(self) -> float:
        """Return by how much log-odds may differ between encoder and decoder, nats."""
        return 2.0 ** (-self.fineness / _TOLERANCE_STEPS)


class _Seen(NamedTuple):
    """What the encoder finds in rows side by side.

    Attributes:
      symbols: in the order of the code, int32 `[D B]`.
      places: of their decisions, float32 `[D B, L]`.
      is_open: whether these have two sides, `[D B, L]`.
      deviation: the most by which log-odds of two computations differ, nats.
    """

    symbols: np.ndarray
    places: np.ndarray
    is_open: np.ndarray
    deviation: float


def encode(model: AutoregressiveModel, params: Params, x: np.ndarray, context: Any) -> bytes:
    """Return the code of int32 symbols `[N, D]`; nothing for what needs none."""
    if model.num_symbols == 1 or x.size == 0:
        return file.padded(b"", len(x))
    shaken = _shaken(params)
    all_rows = list(chain.chunks(model, len(x)))
    seen = [
        _see(model, params, shaken, x[rows], file.context_rows(context, rows)) for rows in all_rows
    ]
    settings, offsets = _settle(seen)
    stack = Stack()
    for part, chosen in zip(reversed(seen), reversed(offsets), strict=True):
        _push(model, stack, part, chosen, settings)
    return file.padded(_SETTINGS.pack(*settings) + stack.to_bytes(), len(x))


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
        return chain.without_code(model, num_rows, code)
    settings = read_settings(code)
    stack = Stack.from_bytes(code[_SETTINGS.size :])
    rule_fn = partial(_pop_grid, model, stack, settings)
    try:
        return chain.pop_all(model, params, stack, num_rows, code, context, rule_fn)
    except file.CodeError as error:
        raise file.CodeError(
            "data does not end with its rows: log-odds differ here from the encoder's by more than "
            f"{settings.tolerance:.1e} nats, or the context is another, or the file is forged"
        ) from error


def read_settings(code: bytes) -> Settings:
    """Return what a code begins with."""
    if len(code) < _SETTINGS.size:
        raise file.CodeError("data is damaged: its code is cut short")
    settings = Settings(*_SETTINGS.unpack_from(code))
    if not (settings.cells_a_unit and settings.success):
        raise file.CodeError("data is damaged: it has no cells, or no group has an offset")
    return settings


def _see(
    model: AutoregressiveModel, params: Params, shaken: Params, x: np.ndarray, context: Any
) -> _Seen:
    """Look at rows `[B, D]` that are coded side by side."""
    symbols = np.ascontiguousarray(x.T)
    offsets = np.zeros((model.num_dims, chain.num_lanes(len(x))), np.uint8)
    rule = _grid(_CELLS_A_UNIT[0], offsets)
    blocks = [coded for _, coded in chain.walk(model, params, context, x, None, rule)]
    places = np.concatenate(blocks)
    is_open = decisions.is_open(symbols, _alphabet(model))
    deviations = [
        _deviation(places, _at_once(model, weights, x, context), is_open)
        for weights in (params, shaken)
    ]
    num_levels = places.shape[-1]
    return _Seen(
        symbols.ravel(),
        places.reshape(-1, num_levels),
        is_open.reshape(-1, num_levels),
        float(np.max(deviations)),
    )


def _shaken(params: Params) -> Params:
    """Return parameters with other last bits, as sums of them have elsewhere; always the same."""
    rng = np.random.default_rng(0)

    def shake(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        noise = _SHAKE * rng.uniform(-1, 1, np.shape(leaf))
        return (leaf * (1 + noise.astype(np.float32))).astype(leaf.dtype)

    return jax.tree.map(shake, params)


def _at_once(model: AutoregressiveModel, params: Params, x: np.ndarray, context: Any) -> np.ndarray:
    """Return where the decisions of rows `[B, D]` stand by a pass over all coordinates."""
    most = _MAX_LOGITS // (model.num_dims * _alphabet(model))
    most = min(max(1, most), _MAX_PASS_ROWS)
    size = -(-len(x) // -(-len(x) // most))
    parts = []
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        parts.append(_pass(model, params, x[rows], file.context_rows(context, rows)))
    return np.swapaxes(np.concatenate(parts), 0, 1)


@jax.jit
def _pass(model: AutoregressiveModel, params: Params, x: Array, context: Any) -> Array:
    logits = model.logits(params, x, context=context).astype(jnp.float32)
    return decisions.path(decisions.levels(logits), x)


def _deviation(places: np.ndarray, others: np.ndarray, is_open: np.ndarray) -> float:
    """Return the most by which log-odds differ, beyond what rounding of places explains."""
    excess = np.maximum(np.abs(places - others) - _ROUNDING, 0)[is_open]
    nats = excess / _slope(places[is_open])
    return float(np.max(nats, initial=0.0))


def _slope(places: np.ndarray) -> np.ndarray:
    """Return by how much places move with log-odds, a nat."""
    return np.maximum(1 - np.abs(places.astype(np.float64)), _ROUNDING) / decisions.ROOT


def _reach(places: np.ndarray, tolerance: float) -> np.ndarray:
    """Return how near boundaries must not be."""
    return _SAFETY * _ROUNDING + tolerance * _slope(places)


def _settle(seen: list[_Seen]) -> tuple[Settings, list[np.ndarray]]:
    """Choose the settings; return them, and the number of the offset of each group."""
    deviation = float(np.max([part.deviation for part in seen], initial=_LEAST_DEVIATION))
    if not _SAFETY * deviation <= 1:
        raise _too_much(deviation)
    fineness = math.floor(-_TOLERANCE_STEPS * math.log2(_SAFETY * deviation))
    tolerance = 2.0 ** (-fineness / _TOLERANCE_STEPS)
    cells_a_unit, num_neighbors = _choose_cells(seen, tolerance)
    largest = round(np.log2(_NEIGHBORS_A_GROUP / num_neighbors))
    for log_group in reversed(range(min(max(largest, 0), _MAX_LOG_GROUP) + 1)):
        chosen = [_first_free(part, tolerance, cells_a_unit, log_group) for part in seen]
        if all(np.all(part >= 0) for part in chosen):
            success = round(256 / (1 + np.mean(np.concatenate(chosen))))
            success = min(max(success, 1), 255)
            return Settings(cells_a_unit, log_group, success, fineness), chosen
    raise _too_much(deviation)


def _too_much(deviation: float) -> ValueError:
    return ValueError(
        f"model gives log-odds that differ by {deviation:.1e} nats when computed in another way: "
        "too much for a portable file; give it a dtype of more bits"
    )


def _choose_cells(seen: list[_Seen], tolerance: float) -> tuple[int, float]:
    """Return how many cells a unit take the fewest bits, and a symbol's neighbors of boundaries."""
    places, sides, num_decisions = _sample(seen)
    reach = _reach(places, tolerance)
    offsets = _OFFSETS[np.arange(len(places)) % len(_OFFSETS)]
    bits = []
    for cells_a_unit in _CELLS_A_UNIT:
        cells = np.floor(places * cells_a_unit + offsets / decisions.NUM_OFFSETS).astype(int)
        table = decisions.shares_of_cells(cells_a_unit)
        left = table[offsets, np.clip(cells + cells_a_unit, 0, 2 * cells_a_unit)] / 2**ans.PRECISION
        neighbors = np.minimum(2 * cells_a_unit * reach, 1)
        bits.append(np.sum(_BITS_A_NEIGHBOR * neighbors - np.log2(np.where(sides, 1 - left, left))))
    best = _CELLS_A_UNIT[int(np.argmin(bits))]
    return best, num_decisions * float(np.mean(np.minimum(2 * best * reach, 1)))


def _sample(seen: list[_Seen]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return places `[S]` of some open decisions, which go right, and how many a symbol has."""
    places, sides, num_open, num_symbols = [], [], 0, 0
    for part in seen:
        num_levels = part.places.shape[-1]
        bits = part.symbols[:, None] >> np.arange(num_levels)[::-1] & 1
        places.append(part.places[part.is_open])
        sides.append(bits[part.is_open] == 1)
        num_open, num_symbols = num_open + len(places[-1]), num_symbols + len(part.symbols)
    every = -(-num_open // _MAX_SAMPLED)
    return np.concatenate(places)[::every], np.concatenate(sides)[::every], num_open / num_symbols


def _num_groups(num_symbols: int, log_group: int) -> int:
    """Return an odd number, so that no group is dealt one row or one coordinate alone."""
    return (num_symbols >> log_group) | 1


def _first_free(part: _Seen, tolerance: float, cells_a_unit: int, log_group: int) -> np.ndarray:
    """Return the number of the first offset that is free for each group; −1 where none is."""
    num_groups = _num_groups(len(part.symbols), log_group)
    scale = decisions.NUM_OFFSETS * cells_a_unit
    group, level = np.nonzero(part.is_open)
    places = part.places[group, level].astype(np.float64)
    group %= num_groups
    # An offset o puts a boundary on a place v if v K + o / 256 is whole.
    reach = scale * _reach(places, tolerance)
    first = np.ceil(-scale * places - reach).astype(int)
    counts = np.minimum(np.floor(-scale * places + reach).astype(int) - first + 1, 256)
    is_free = np.ones((num_groups, decisions.NUM_OFFSETS), bool)
    for i in range(int(np.max(counts, initial=0))):
        has = counts > i
        is_free[group[has], (first[has] + i) % decisions.NUM_OFFSETS] = False
    is_free = is_free[:, _OFFSETS]
    return np.where(is_free.any(axis=1), is_free.argmax(axis=1), -1)


def _push(
    model: AutoregressiveModel, stack: Stack, part: _Seen, chosen: np.ndarray, settings: Settings
) -> None:
    """Push the symbols of rows, then the offsets of their groups."""
    offsets = _dealt(chosen, len(part.symbols))
    grid = _grid(settings.cells_a_unit, offsets)
    intervals = _intervals(model, grid, part.symbols, part.places)
    chain.push_intervals(stack, *(np.asarray(a) for a in intervals))
    of_chosen = shares.interval(jnp.asarray(_ends(settings.success))[None], jnp.asarray(chosen))
    chain.push_intervals(stack, *(np.asarray(a) for a in of_chosen))


@partial(jax.jit, static_argnums=0)
def _intervals(
    model: AutoregressiveModel, grid: decisions.Grid, symbols: Array, places: Array
) -> ans.Interval:
    return decisions.interval(symbols, grid.shares_at(places), _alphabet(model))


def _pop_grid(
    model: AutoregressiveModel, stack: Stack, settings: Settings, num_rows: int
) -> decisions.Grid:
    """Pop the offsets of the groups of rows."""
    num_symbols = num_rows * model.num_dims
    num_groups = _num_groups(num_symbols, settings.log_group)
    popped = _pop_chosen(stack.state, stack.top(num_groups), _ends(settings.success), num_groups)
    stack.drop(popped.state, int(popped.num_words))
    offsets = _dealt(np.asarray(popped.symbols), num_symbols).reshape(model.num_dims, num_rows)
    unused = chain.num_lanes(num_rows) - num_rows
    return _grid(settings.cells_a_unit, np.pad(offsets, ((0, 0), (0, unused))))


@partial(jax.jit, static_argnums=3)
def _pop_chosen(state: ans.State, words: Array, ends: Array, num_groups: int) -> ans.Popped:
    find_fn = shares.find(ends[None])
    return ans.pop(
        state, words, jnp.int32(0), num_groups, lambda i, slot: find_fn(jnp.int32(0), slot)
    )


def _dealt(chosen: np.ndarray, num_symbols: int) -> np.ndarray:
    """Return the offset of each symbol, uint8, of the number of that of each group."""
    return _OFFSETS.astype(np.uint8)[np.resize(chosen, num_symbols)]


def _grid(cells_a_unit: int, offsets: np.ndarray) -> decisions.Grid:
    table = decisions.shares_of_cells(cells_a_unit)
    return decisions.Grid(*map(jnp.asarray, (np.int32(cells_a_unit), table, offsets)))


def _alphabet(model: AutoregressiveModel) -> int:
    assert model.num_symbols is not None  # the verbs have checked
    return model.num_symbols


def _ends(success: int) -> np.ndarray:
    """Return where intervals of offsets end, uint32 `[256]`, if each next one is free so often."""
    rest, sizes = 2**ans.PRECISION - decisions.NUM_OFFSETS, []
    for _ in range(decisions.NUM_OFFSETS - 1):
        sizes.append(1 + rest * success // 256)
        rest -= sizes[-1] - 1
    return np.cumsum([*sizes, 1 + rest]).astype(np.uint32)
