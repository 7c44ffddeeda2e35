"""A table of mixed columns from a CSV file: which kind each column is, and its numbers."""

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import sklearn.datasets

from jaxgen.models import (
    Angles,
    Bits,
    Categorical,
    Conditional,
    Energy,
    Mixture,
    Ordinal,
    TruncatedMixture,
)

KINDS = ("category", "level", "real", "positive", "nonnegative", "degrees", "radians")
_BOUNDS = {"positive": " above zero", "nonnegative": " from zero on"}
_TURNS = {"degrees": 360.0, "radians": 2 * math.pi}
_BUMPS = 5  # of angles and of nonnegative reals where others have energies
_MOST_LEVELS, _MOST_CATEGORIES, _FEWEST_ROWS = 20, 50, 50
_FEWEST_CELLS = 20  # of a column, so that the rows trained on, three fifths of all, have some


class TableError(ValueError):
    """A file that is no table: the message says where."""


class Column(NamedTuple):
    """One column.

    Attributes:
      name: from the first line.
      kind: one of `KINDS`.
      labels: what the symbols stand for, in order; None of reals.
      turn: the ends of angles.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None
    turn: tuple[float, float] | None = None

    def conditional(self, num_components: int) -> Conditional:
        """Return the distribution of one cell, given those before."""
        if self.turn is not None:
            return Angles(self.turn, num_components=num_components or _BUMPS)
        if self.kind == "nonnegative":
            return TruncatedMixture(num_components=num_components or _BUMPS)
        if self.labels is None:
            ends = (0.0 if self.kind == "positive" else -math.inf, math.inf)
            if num_components == 0:
                return Energy(support=ends)
            return Mixture(support=ends, num_components=num_components)
        if len(self.labels) == 2:
            return Bits()
        return (Ordinal if self.kind == "level" else Categorical)(len(self.labels))

    def show(self, value: float) -> str:
        """Return a cell as a person reads it."""
        return f"{value:.4g}" if self.labels is None else self.labels[int(value)]


class Table(NamedTuple):
    """What a file holds.

    Attributes:
      x: rows `[N, D]`, float32, NaN where a cell is empty.
      columns: what each is.
      lines: of the file, where each row stands.
      cells: as they are written.
    """

    x: np.ndarray
    columns: tuple[Column, ...]
    lines: np.ndarray
    cells: list[list[str]]


def read_csv(path: pathlib.Path, kinds: Mapping[str, str]) -> Table:
    """Read a table whose first line names its columns.

    Args:
      path: the file; an empty cell is missing.
      kinds: the kind of columns by their names, where it should not be what the cells look like.

    Raises:
      TableError: the file is no table that can be modelled; says line and column.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    if not rows:
        raise TableError(f"{path} must have a first line that names the columns, got none")
    names = rows.pop(0)[1]
    num_told = sum(any(row) for _, row in rows)
    if num_told < _FEWEST_ROWS:
        raise TableError(
            f"{path} must have {_FEWEST_ROWS} rows or more with a cell that is filled, "
            f"got {num_told}"
        )
    if len(set(names)) != len(names):
        raise TableError(f"{path}, line 1: columns must have names of their own, got {names}")
    for line, row in rows:
        if len(row) != len(names):
            raise TableError(f"{path}, line {line}: {len(names)} cells expected, got {len(row)}")
    unknown = [name for name in kinds if name not in names]
    if unknown:
        raise TableError(f"{path} has no column {unknown[0]!r}; its columns are {names}")
    lines, cells = [line for line, _ in rows], [row for _, row in rows]
    parts = [
        _column(name, [row[i] for row in cells], lines, kinds.get(name))
        for i, name in enumerate(names)
    ]
    x = np.stack([values for _, values in parts], axis=1).astype(np.float32)
    return Table(x, tuple(column for column, _ in parts), np.array(lines), cells)


def wine() -> Table:
    """Return scikit-learn's wines: a class of three and thirteen measurements."""
    source = sklearn.datasets.load_wine()
    names = [str(name) for name in source.feature_names]
    columns = [Column("cultivar", "category", ("A", "B", "C"))]
    columns += [Column(name, "positive", None) for name in names]
    x = np.concatenate([source.target[:, None], source.data], axis=1).astype(np.float32)
    cells = [[column.show(cell) for column, cell in zip(columns, row, strict=True)] for row in x]
    return Table(x, tuple(columns), np.arange(len(x)) + 2, cells)


def _column(
    name: str, cells: Sequence[str], lines: Sequence[int], kind: str | None
) -> tuple[Column, np.ndarray]:
    """Return a column and its values `[N]`, NaN where a cell is empty."""
    full, first = sorted({cell for cell in cells if cell}), _first_line(cells, lines)
    num_filled = sum(bool(cell) for cell in cells)
    if num_filled < _FEWEST_CELLS:
        raise TableError(
            f"lines {lines[0]} to {lines[-1]}, column {name!r}: {num_filled} cells are filled, at "
            f"least {_FEWEST_CELLS} must be; leave the column out"
        )
    if len(full) < 2:
        raise TableError(
            f"line {first} and all behind it, column {name!r}: every cell that is filled holds "
            f"{full[0]!r}; leave the column out"
        )
    numbers = [_number(cell) for cell in cells]
    are_numbers = all(n is not None for n, cell in zip(numbers, cells, strict=True) if cell)
    if kind is None:
        _check_numbers(name, cells, numbers, lines)
        kind = _looks_like(full, are_numbers)
    if kind not in ("category", "level"):
        values = _reals(name, cells, numbers, lines, kind)
        turn = _turn_of(name, cells, values, lines, kind) if kind in _TURNS else None
        return Column(name, kind, None, turn), values
    if len(full) > _MOST_CATEGORIES:
        raise TableError(
            f"line {first}, column {name!r}: {len(full)} values that differ are too many for "
            f"categories (at most {_MOST_CATEGORIES}); leave the column out"
        )
    labels = tuple(sorted(full, key=float) if are_numbers else full)
    symbols = [labels.index(cell) if cell else math.nan for cell in cells]
    return Column(name, kind, labels), np.array(symbols)


def _first_line(cells: Sequence[str], lines: Sequence[int]) -> int:
    return next((line for line, cell in zip(lines, cells, strict=True) if cell), lines[0])


def _check_numbers(
    name: str, cells: Sequence[str], numbers: Sequence[float | None], lines: Sequence[int]
) -> None:
    """Refuse a text among numbers that are too many for categories, as that for an empty cell."""
    texts = [i for i, cell in enumerate(cells) if cell and numbers[i] is None]
    if texts and len(set(numbers)) > _MOST_CATEGORIES:
        raise TableError(
            f"line {lines[texts[0]]}, column {name!r}: {cells[texts[0]]!r} is no number, where "
            "others are; leave the cell empty where nothing is known"
        )


def _looks_like(full: Sequence[str], are_numbers: bool) -> str:
    if not are_numbers:
        return "category"
    values = np.array([float(cell) for cell in full])
    if len(full) <= _MOST_LEVELS and np.isfinite(values).all() and (values % 1 == 0).all():
        return "level"
    return "positive" if values.min() > 0 else "real"


def _reals(
    name: str,
    cells: Sequence[str],
    numbers: Sequence[float | None],
    lines: Sequence[int],
    kind: str,
) -> np.ndarray:
    for line, cell, number in zip(lines, cells, numbers, strict=True):
        is_low = number is not None and number <= 0 and (kind == "positive" or number < 0)
        is_bad = number is None or not math.isfinite(number) or (is_low and kind in _BOUNDS)
        if cell and is_bad:
            wanted = f"a finite number{_BOUNDS.get(kind, '')}"
            raise TableError(f"line {line}, column {name!r}: {cell!r} is not {wanted}")
    return np.array([math.nan if number is None else number for number in numbers], np.float64)


def _turn_of(
    name: str, cells: Sequence[str], values: np.ndarray, lines: Sequence[int], kind: str
) -> tuple[float, float]:
    """Return the ends of the turn that angles are counted on: from zero, or around it."""
    length = _TURNS[kind]
    ends = (-length / 2, length / 2) if np.nanmin(values) < 0 else (0.0, length)
    slack = 1e-6 * length  # of the last digit written
    is_off = (values < ends[0] - slack) | (values > ends[1] + slack)
    if is_off.any():
        place = int(np.argmax(is_off))
        raise TableError(
            f"line {lines[place]}, column {name!r}: {cells[place]!r} is not on the turn from "
            f"{ends[0]:.6g} to {ends[1]:.6g} {kind}"
        )
    np.clip(values, *ends, out=values)
    return ends


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
