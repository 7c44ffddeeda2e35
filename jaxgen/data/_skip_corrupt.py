"""What becomes of an example that cannot be read."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.data._errors import DataFormatError
from jaxgen.data._source import Source


@dataclasses.dataclass(frozen=True, eq=False)
class SkipCorrupt(Source):
    """A source in whose batches the next good example stands for a corrupt one.

    Without it, a corrupt example raises DataFormatError, and training ends there. Which example
    replaces which depends on the files alone, so batches stay a function of their indices: a
    training that has ended at a corrupt example can go on with the source wrapped, as the
    fingerprint is the source's. The first corrupt example found is warned of.

    Wrap the parts, not the whole, where a part is held out: the next good one is of the same part.

    Attributes:
      source: anything with `len` that gives a batch for integers `[B]`, and raises DataFormatError
        where an example is corrupt. A file that has changed or is gone stays an error.
      max_corrupt: how many corrupt examples may be found; another one raises.
      corrupt: those found so far, by index, and what is wrong with each.
      fingerprint: the source's; None where it has none.

    Raises:
      ValueError: `max_corrupt` below 1.
    """

    source: Any
    max_corrupt: int = 100
    corrupt: dict[int, str] = dataclasses.field(init=False, repr=False, default_factory=dict)
    fingerprint: str | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the limit."""
        check_count("max_corrupt", self.max_corrupt)
        object.__setattr__(self, "fingerprint", getattr(self.source, "fingerprint", None))

    def __len__(self) -> int:
        """Return N, corrupt examples included."""
        return len(self.source)

    def _read(self, rows: np.ndarray) -> Any:
        try:
            return self.source[self._replaced(rows)]
        except DataFormatError:
            for row in np.unique(rows):
                self._find_good(row)
        return self.source[self._replaced(rows)]

    def _replaced(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows to read, as far as is known."""
        known = np.array([self._next(int(row)) if row in self.corrupt else row for row in rows])
        return known.astype(np.int64)

    def _next(self, row: int) -> int:
        while row in self.corrupt:
            row = (row + 1) % len(self)
        return row

    def _find_good(self, row: int) -> None:
        """Read an example by itself, and those after it until one is good."""
        while True:
            row = self._next(int(row))
            try:
                self.source[np.array([row])]
            except DataFormatError as error:
                self._note(row, error)
            else:
                return

    def _note(self, row: int, error: DataFormatError) -> None:
        self.corrupt[row] = str(error)
        if len(self.corrupt) > min(self.max_corrupt, len(self) - 1):
            raise DataFormatError(
                error.path,
                f"{len(self.corrupt)} of {len(self)} examples are corrupt, more than "
                f"max_corrupt={self.max_corrupt} or all; the last is {row}: {error}",
            ) from error
        if len(self.corrupt) == 1:
            warnings.warn(
                f"example {row} is corrupt and left out, the next good one stands for it: {error}; "
                "`corrupt` of the source lists all that are found",
                RuntimeWarning,
                stacklevel=2,
            )
