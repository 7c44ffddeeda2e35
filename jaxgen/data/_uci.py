"""Tables of real numbers from the UCI repository, as density models are compared on them."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core._checks import check_count, check_in_range, check_one_of
from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import Parts
from jaxgen.data._errors import DataFormatError

_WINE = (
    "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f"
)
_PARKINSONS = (
    "https://raw.githubusercontent.com/shikashyam/ParkinsonsTelemonitoring/"
    "deb237cac5ac21f2254f96077e53ec90f401a4c5"
)
_WINE_COLUMNS = (
    "fixed acidity",
    "volatile acidity",
    "citric acid",
    "residual sugar",
    "chlorides",
    "free sulfur dioxide",
    "total sulfur dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
    "quality",
)
_PARKINSONS_COLUMNS = (
    *("subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS"),
    *("Jitter(%)", "Jitter(Abs)", "Jitter:RAP", "Jitter:PPQ5", "Jitter:DDP"),
    *("Shimmer", "Shimmer(dB)", "Shimmer:APQ3", "Shimmer:APQ5", "Shimmer:APQ11", "Shimmer:DDA"),
    *("NHR", "HNR", "RPDE", "DFA", "PPE"),
)


class UCITable(NamedTuple):
    """A table as its file has it, and what the protocol leaves out.

    Attributes:
      file: the file.
      num_rows: N.
      columns: the names of all columns.
      dropped: names of those that are left out.
      separator: between two numbers of a line.
      has_header: whether the first line holds the names.
    """

    file: KnownFile
    num_rows: int
    columns: tuple[str, ...]
    dropped: frozenset[str]
    separator: str = ","
    has_header: bool = False


TABLES = {
    "red_wine": UCITable(
        KnownFile(
            "uci",
            "winequality-red.csv",
            "c9614512e980f1cbd221c796daa97f00c4898c3cd1716863abac60f6cd1a522e",
            84_028,
            (f"{_WINE}/winequality-red.csv",),
        ),
        1_599,
        _WINE_COLUMNS,
        frozenset({"quality"}),
    ),
    "white_wine": UCITable(
        KnownFile(
            "uci",
            "winequality-white.csv",
            "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27",
            264_255,
            (f"{_WINE}/winequality-white.csv",),
        ),
        4_898,
        _WINE_COLUMNS,
        frozenset({"quality"}),
    ),
    "parkinsons": UCITable(
        KnownFile(
            "uci",
            "parkinsons_updrs.data",
            "52229b3075c2109a2c144f5584d88cc5ea99022a9a9eaa6d978b2e8e7c6bc501",
            906_868,
            (f"{_PARKINSONS}/parkinsons_updrs.data",),
        ),
        5_875,
        _PARKINSONS_COLUMNS,
        frozenset({"subject#", "age", "sex", "Jitter(%)", "Jitter:RAP", "Shimmer", "Shimmer:APQ3"}),
        separator="\t",
        has_header=True,
    ),
}


class Table(NamedTuple):
    """Rows of real numbers.

    Attributes:
      name: the table's name, as results record it.
      columns: a name for each column.
      x: the numbers in the units of the file, float64 `[N, D]`.
    """

    name: str
    columns: tuple[str, ...]
    x: np.ndarray

    def fold(self, index: int, *, num_folds: int = 10, seed: int = 0) -> Parts:
        """Return one of several folds whose test parts are the whole table.

        Rows are shuffled: in the order of a file, neighbors come from one bottle or one patient.
        The part after that of the test is for validation, the first after the last.

        Args:
          index: which fold, counted from 0.
          num_folds: K, at least 3; the parts differ by at most one row.
          seed: of the order of the rows, which depends on no library's random numbers.
        """
        check_count("num_folds", num_folds, minimum=3)
        check_in_range("index", index, 0, num_folds - 1)
        check_count("seed", seed, minimum=0)
        parts = np.array_split(_shuffled(len(self.x), seed), num_folds)
        test, valid = parts[index], parts[(index + 1) % num_folds]
        others = {index, (index + 1) % num_folds}
        train = np.concatenate([part for k, part in enumerate(parts) if k not in others])
        return Parts(self.x[train], self.x[valid], self.x[test])


def uci(name: str) -> Table:
    """Load a table of the UCI repository by the protocol of Uria, Murray & Larochelle (2014).

    The wines (Cortez et al. 2009) leave out their quality, which takes few values. Parkinsons
    telemonitoring (Tsanas et al. 2009) leaves out subject, age and sex, and then, while two columns
    correlate by more than 0.98, the first of them. Numbers are those of the file; whoever reports
    log-likelihoods of standardized ones, as is the custom, says so.

    Measured values are rounded, and many occur twice: a density that is free to stand on them has
    no bound.

    Args:
      name: red_wine (1,599 rows of 11), white_wine (4,898 of 11) or parkinsons (5,875 of 15).

    Raises:
      ValueError: another name.
      DataNotFoundError: the file is neither here nor to be had; it says how to place it.
      DataFormatError: the file is not what it should be.
    """
    check_one_of("name", name, tuple(TABLES))
    table = TABLES[name]
    (path,) = files.find([table.file])
    x = files.load(table.file, path, functools.partial(parse_numbers, table=table))
    kept = [i for i, column in enumerate(table.columns) if column not in table.dropped]
    return Table(name, tuple(table.columns[i] for i in kept), np.ascontiguousarray(x[:, kept]))


def parse_numbers(
    content: bytes, path: str | os.PathLike[str] | Path, table: UCITable
) -> np.ndarray:
    """Read lines of numbers.

    Returns:
      float64 `[N, D]`, all columns of the file.

    Raises:
      DataFormatError: a line with too few or too many numbers, something that is no finite number,
        another header, or a line missing or too many; with the line, the column and the byte.
    """
    lines = content.removesuffix(b"\n").split(b"\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    first = 0
    if table.has_header:
        _check_header(lines[0], path, table)
        first = 1
    num_found = len(lines) - first
    if num_found != table.num_rows:
        problem = f"file has {num_found} rows, expected {table.num_rows}"
        raise DataFormatError(path, problem)
    rows = [
        _numbers(line, path, table, number, int(starts[number]))
        for number, line in enumerate(lines)
        if number >= first
    ]
    return np.array(rows)


def _check_header(line: bytes, path: str | os.PathLike[str], table: UCITable) -> None:
    found = line.decode("utf-8", "replace").rstrip("\r").split(table.separator)
    if tuple(found) != table.columns:
        problem = f"line 1 has the names {found}, expected {list(table.columns)}"
        raise DataFormatError(path, problem, 0)


def _numbers(
    line: bytes, path: str | os.PathLike[str], table: UCITable, number: int, offset: int
) -> list[float]:
    fields: Sequence[bytes] = line.rstrip(b"\r").split(table.separator.encode())
    if len(fields) != len(table.columns):
        problem = f"line {number + 1} has {len(fields)} numbers, expected {len(table.columns)}"
        raise DataFormatError(path, problem, offset)
    values = []
    for field, column in zip(fields, table.columns, strict=True):
        value = _as_number(field)
        if not np.isfinite(value):
            problem = f"line {number + 1} has {field!r} as {column}, expected a number"
            raise DataFormatError(path, problem, offset)
        values.append(value)
        offset += len(field) + 1
    return values


def _as_number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return float("nan")


def _shuffled(num_rows: int, seed: int) -> np.ndarray:
    """Return a fixed order of the rows, by the SHA-256 digests of seed and index."""
    digests = [hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(num_rows)]
    return np.array(sorted(range(num_rows), key=digests.__getitem__))
