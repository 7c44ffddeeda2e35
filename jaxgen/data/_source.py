"""Data that are read when they are asked for, a batch at once."""

import abc
import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np


class Source(abc.ABC):
    """Examples that can be read in any order; a subclass says how many, and reads a batch.

    `source[3]` is an example, `source[np.array([3, 1])]` a batch of two, with a leading axis, and
    `source[100:]` a part, of which nothing is read yet.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return N."""

    @abc.abstractmethod
    def _read(self, rows: np.ndarray) -> Any:
        """Return the examples of rows int64 `[B]` in [0, N): a pytree of arrays `[B, ...]`."""

    def __getitem__(self, index: Any) -> Any:
        """Return an example, a batch or a part.

        Args:
          index: an integer, integers `[B]`, or a slice; negative ones count from the end.

        Returns:
          A pytree of NumPy arrays, without or with a leading axis; a `Subset` for a slice.

        Raises:
          TypeError: an index that is none of these.
          IndexError: one out of range.
          DataFormatError: an example is corrupt.
          DataChangedError: a file is not what it was when the source was opened.
        """
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        rows = _checked_rows(index, len(self))
        if rows.ndim:
            return self._read(rows)
        return jax.tree.map(lambda leaf: leaf[0], self._read(rows[None]))


@dataclasses.dataclass(frozen=True, eq=False)
class Subset(Source):
    """Some examples of a source, in an order of their own; none is copied.

    With slices of one permutation, data are split at random into what is trained on and what is
    held out.

    Attributes:
      source: anything with `len` that gives a batch for integers `[B]`.
      rows: which of its examples, and in which order: a range or integers `[M]`.
      fingerprint: a digest of the source's fingerprint and of `rows`; None where it has none.

    Raises:
      TypeError: rows that are no integers `[M]`.
      IndexError: a row that the source does not have.

    >>> small = Subset(np.array([3, 1, 4, 1, 5]), range(2, 5))
    >>> len(small), small[0], small[np.array([-1, 1])]
    (3, np.int64(4), array([5, 1]))
    """

    source: Any
    rows: range | np.ndarray
    fingerprint: str | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the rows."""
        if isinstance(self.rows, range):
            if len(self.rows):
                _checked_rows([self.rows[0], self.rows[-1]], len(self.source))
            content = repr(self.rows).encode()
        else:
            rows = _checked_rows(self.rows, len(self.source))
            if rows.ndim != 1:
                raise TypeError(f"rows must be a range or integers [M], got {self.rows!r}")
            object.__setattr__(self, "rows", rows)
            content = rows.tobytes()
        whole = getattr(self.source, "fingerprint", None)
        part = None if whole is None else hashlib.sha256(whole.encode() + content).hexdigest()
        object.__setattr__(self, "fingerprint", part)

    def __len__(self) -> int:
        """Return M."""
        return len(self.rows)

    def _read(self, rows: np.ndarray) -> Any:
        if isinstance(self.rows, range):
            return self.source[self.rows.start + self.rows.step * rows]
        return self.source[self.rows[rows]]


def _checked_rows(index: Any, size: int) -> np.ndarray:
    """Return an index, or indices `[B]`, as int64 in [0, size)."""
    rows = np.asarray(index)
    if rows.ndim > 1 or not (np.issubdtype(rows.dtype, np.integer) or rows.size == 0):
        raise TypeError(
            f"an index must be an integer, a slice or integers [B], got {rows.dtype} of shape "
            f"{rows.shape}"
        )
    rows = rows.astype(np.int64)
    outside = (rows < -size) | (rows >= size)
    if outside.any():
        raise IndexError(f"index {rows[outside][0]} is out of range for {size} examples")
    return np.where(rows < 0, rows + size, rows)
