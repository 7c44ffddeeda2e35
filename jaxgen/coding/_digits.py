r"""Codes of reals on a grid: which cell a value is in, digit by digit, by differences of the CDF.

A column has cells k p / q, for k from its least to its greatest; k is written in base 16, the
leading digit first, and a digit's probability is the mass of the cells that begin so, of those that
begin like the digits before it. So digits are the symbols of a longer chain, which is coded as any
other, and has the bits of the cells' masses. All is computed in float64, as masses of fine cells
are differences of nearly equal numbers. What lies beyond the outermost cells counts to these.
"""

import dataclasses
import struct
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.coding import _chain as chain
from jaxgen.coding import _file as file
from jaxgen.core._checks import check_float_array, check_shape
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._types import Array, Params

METHOD, BASE = "digits", 16
_DTYPES = ("float32", "float64")
_KIND, _COLUMN = struct.Struct("<B"), struct.Struct("<QQqQ")  # in front of the code
_MOST_CELLS = 2**53  # so that k, and k p, are exact
_LEAST_MASS = 1e-300  # of a cell, where the CDF has none


class Column(NamedTuple):
    """The cells of a column: their centers are (low + i) p / q, for i in [0, num_cells)."""

    p: int
    q: int
    low: int
    num_cells: int

    @property
    def num_digits(self) -> int:
        """Return how many digits tell a cell; one where there is one cell alone."""
        return max(1, -(-(self.num_cells - 1).bit_length() // 4))


@dataclasses.dataclass(frozen=True)
class Digits(AutoregressiveModel):
    """The chain of the digits of a model over reals; a coordinate is a digit.

    Attributes:
      model: over reals or mixed columns.
      columns: the cells of each.
    """

    model: AutoregressiveModel
    columns: tuple[Column, ...]
    num_symbols: int = dataclasses.field(default=BASE, init=False)

    @property
    def num_dims(self) -> int:  # type: ignore[override]
        """Return the digits of all columns."""
        return len(self._places[0])

    @property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return of each digit its column, and how many cells its least step is."""
        lengths = [column.num_digits for column in self.columns]
        steps = [BASE**i for length in lengths for i in reversed(range(length))]
        return np.repeat(np.arange(len(lengths)), lengths), np.array(steps, np.int64)

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the model's own cache, its outputs, and the cell as far as it is known."""
        cache = self.model.init_cache(params, batch_size, context=context)
        if self.model.block_size is not None:
            cache = self.model.resize(params, cache, self.model.num_dims)
        cell = jnp.zeros(batch_size, jnp.int64)
        said = jax.eval_shape(self.model.step, params, cache, cell[0], cell.astype(float))[0]
        return cache, jnp.zeros(said.shape, said.dtype), cell

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed the digit before, and return the logits of the digits that may stand here."""
        own, outputs, cell = cache
        of_digit, steps = (jnp.asarray(part) for part in self._places)
        last = jnp.maximum(index - 1, 0)
        cell = jnp.where(index > 0, cell + previous * steps[last], cell)
        column = of_digit[index]
        is_first = (index == 0) | (of_digit[last] != column)

        def begin(_: None) -> tuple[Array, Any]:
            value = self._value(of_digit[last], cell.astype(float))
            said, now = self.model.step(params, own, column, value)
            # What a model begins with may be of fewer bits than what it goes on with.
            return said, jax.tree.map(lambda new, old: new.astype(old.dtype), now, own)

        outputs, own = jax.lax.cond(is_first, begin, lambda _: (outputs, own), None)
        cell = jnp.where(is_first, 0, cell)
        edges = cell[:, None] + steps[index] * jnp.arange(BASE + 1)[None]
        below = self._below(outputs, column, edges)
        count = jnp.asarray([c.num_cells for c in self.columns])[column]
        sizes = jnp.diff(jnp.minimum(edges, count), axis=-1)
        masses = jnp.maximum(jnp.diff(below, axis=-1), 0.0) + _LEAST_MASS * sizes
        return jnp.where(sizes > 0, jnp.log(masses), -1e4), (own, outputs, cell)

    def _value(self, column: Array, cell: Array) -> Array:
        """Return the value of cells `[...]`, floats that may be half of a cell off, of a column."""
        p, q, low = (jnp.asarray([c[i] for c in self.columns], float)[column] for i in range(3))
        return (low + cell) * p / q

    def _below(self, outputs: Array, column: Array, edges: Array) -> Array:
        """Return the mass below the lower edge of cells `[B, 17]`: 0 of the first, 1 past all."""
        conditional = self.model.conditional_or_default
        kinds = getattr(conditional, "columns", (conditional,) * len(self.columns))
        half = jnp.asarray([0.5 if kind.num_symbols is None else 0.0 for kind in kinds])[column]
        count = jnp.asarray([c.num_cells for c in self.columns])[column]
        inner = jnp.clip(edges, 1, jnp.maximum(count - 1, 1))
        wide = jnp.broadcast_to(outputs[:, None], (*edges.shape, outputs.shape[-1]))
        cdf = conditional.at(column).cdf(wide, self._value(column, inner - half), 0.0)
        return jnp.where(edges <= 0, 0.0, jnp.where(edges >= count, 1.0, cdf))


def encode(
    model: AutoregressiveModel, params: Params, x: ArrayLike, precision: ArrayLike, context: Any
) -> bytes:
    """Return the file of reals `[N, D]` on a grid of steps, one or `[D]`."""
    x = np.asarray(x)
    check_float_array("x", x)
    check_shape("x", x, (None, model.num_dims))
    if len(x) > file.MAX_ROWS or x.dtype.name not in _DTYPES:
        raise ValueError(f"x must have few rows of float32 or float64, got {x.shape}, {x.dtype}")
    file.check_context(context, len(x))
    steps = np.broadcast_to(np.asarray(precision, np.float64), (model.num_dims,))
    _check_values(model, x, steps)
    columns, cells = [], []
    for j, (column, step) in enumerate(zip(x.T, steps, strict=True)):
        of_column, own = _cells(j, column, float(step))
        columns.append(of_column)
        cells.append(own - of_column.low)
    digits = Digits(model, tuple(columns))
    symbols = _digits(tuple(columns), cells, len(x))
    head = _KIND.pack(_DTYPES.index(x.dtype.name))
    head += b"".join(_COLUMN.pack(*column) for column in columns)
    with jax.enable_x64(True):
        code = chain.encode(digits, _doubled(params), symbols, context)
    return file.write(METHOD, params, symbols, BASE, head + code)


def decode(model: AutoregressiveModel, params: Params, data: bytes, context: Any) -> np.ndarray:
    """Return the reals `[N, D]` of a file."""
    header, code = file.parse(data)
    size = _KIND.size + _COLUMN.size * model.num_dims
    if header.method == METHOD and len(code) < size:
        raise file.CodeError("data is damaged: its code is cut short")
    parts = range(_KIND.size, size, _COLUMN.size) if header.method == METHOD else ()
    columns = tuple(Column(*_COLUMN.unpack_from(code, at)) for at in parts)
    if not all(c.p and c.q and 0 < c.num_cells <= 2 * _MOST_CELLS for c in columns):
        raise file.CodeError("data is damaged: its columns have no cells, or too many")
    num_digits = sum(column.num_digits for column in columns)
    file.read((METHOD,), params, num_digits, BASE, data)
    file.check_context(context, header.num_rows)
    shape = header.num_rows, num_digits
    with jax.enable_x64(True):
        symbols = chain.decode(
            Digits(model, columns), _doubled(params), shape, code[size:], context
        )
    file.check_symbols(symbols, header.checksum)
    values, start = [], 0
    for column in columns:
        own = symbols[:, start : start + column.num_digits].astype(np.int64)
        cell = own @ BASE ** np.arange(column.num_digits)[::-1] + column.low
        values.append(cell * column.p / column.q)
        start += column.num_digits
    return np.stack(values, axis=1).astype(_DTYPES[_KIND.unpack_from(code)[0] % len(_DTYPES)])


def _check_values(model: AutoregressiveModel, x: np.ndarray, steps: np.ndarray) -> None:
    conditional = model.conditional_or_default
    kinds = getattr(conditional, "columns", (conditional,) * model.num_dims)
    for j, (kind, step) in enumerate(zip(kinds, steps, strict=True)):
        if kind.num_symbols is not None and step != 1:
            raise ValueError(f"precision must be 1 in column {j}, of symbols, got {step}")
    with jax.enable_x64(True):
        is_value = np.asarray(conditional.is_value(jnp.asarray(x)))
    if not is_value.all():
        row, j = np.argwhere(~is_value)[0]
        raise ValueError(
            f"x must hold values that the model takes for possible, got {x[row, j]} in row {row}, "
            f"column {j}"
        )


def _cells(j: int, column: np.ndarray, step: float) -> tuple[Column, np.ndarray]:
    """Return the cells of a column `[N]`, and which each value is in, int64."""
    if not (np.isfinite(step) and step > 0):
        raise ValueError(f"precision must be positive, got {step} in column {j}")
    ratio = Fraction(repr(step)).limit_denominator()  # some steps are no decimals, as 1 / 3
    if float(ratio) != step:
        ratio = Fraction(repr(step))
    if max(ratio.numerator, ratio.denominator) > _MOST_CELLS:
        raise ValueError(f"precision must be a decimal of few digits, got {step} in column {j}")
    p, q = ratio.numerator, ratio.denominator
    cells = np.rint(column.astype(np.float64) * q / p)
    is_off = (cells * p / q).astype(column.dtype) != column
    is_off |= np.abs(cells) * p >= _MOST_CELLS
    if is_off.any():
        row = int(np.argmax(is_off))
        raise ValueError(
            f"x must hold multiples of precision={step} in column {j}, got {column[row]!s} in row "
            f"{row}"
        )
    cells = cells.astype(np.int64)
    low, high = (int(cells.min()), int(cells.max())) if len(cells) else (0, 0)
    return Column(p, q, low, high - low + 1), cells


def _digits(columns: tuple[Column, ...], cells: list[np.ndarray], num_rows: int) -> np.ndarray:
    """Return the digits of all cells, int32 `[N, sum of digits]`."""
    parts = [
        own // BASE**i % BASE
        for column, own in zip(columns, cells, strict=True)
        for i in reversed(range(column.num_digits))
    ]
    return np.stack(parts, axis=1).astype(np.int32).reshape(num_rows, len(parts))


def _doubled(params: Params) -> Params:
    """Return parameters in float64."""

    def double(leaf: ArrayLike) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(double, params)
