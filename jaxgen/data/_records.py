"""Records of any kind that are read one by one, stacked into batches."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.data._errors import DataFormatError
from jaxgen.data._source import Source

_NUM_DIGESTED = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Records(Source):
    """Records that are read one at a time, decoded and stacked.

    So a random-access source of Grain becomes one of batches: files of array-record
    (`grain.sources.ArrayRecordDataSource`), or a `grain.MapDataset`. What reading or decoding a
    record raises makes it a corrupt one: DataFormatError with its index, which `SkipCorrupt` passes
    over.

    Attributes:
      source: anything with `len` that gives a record for an integer in [0, N); also several for
        integers by `__getitems__`, where it has that.
      decode_fn: `decode_fn(record) -> example`, a pytree of arrays or numbers, of the same shapes
        for every record; None where the records are examples.
      fingerprint: a digest of N and of some decoded examples.

    Raises:
      ValueError: `source` holds nothing.
    """

    source: Any
    decode_fn: Callable[[Any], Any] | None = None
    fingerprint: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Digest some examples."""
        check_count("len(source)", len(self.source))
        sha256 = hashlib.sha256(str(len(self)).encode())
        for row in np.unique(np.linspace(0, len(self) - 1, _NUM_DIGESTED).astype(np.int64)):
            sha256.update(self._content(int(row)))
        object.__setattr__(self, "fingerprint", sha256.hexdigest())

    def __len__(self) -> int:
        """Return N."""
        return len(self.source)

    def _read(self, rows: np.ndarray) -> Any:
        indices = rows.tolist()
        records = self._records(indices)
        examples = [self._decoded(i, r) for i, r in zip(indices, records, strict=True)]
        first = _kind(examples[0])
        for i, example in zip(indices, examples, strict=True):
            if _kind(example) != first:
                raise ValueError(
                    f"decode_fn must give examples of one shape, got {first} of record "
                    f"{indices[0]} and {_kind(example)} of record {i}"
                )
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)

    def _records(self, indices: list[int]) -> list[Any]:
        if hasattr(self.source, "__getitems__"):
            try:
                return list(self.source.__getitems__(indices))
            except Exception:  # one by one, it turns out which record it is
                pass
        return [self._record(i) for i in indices]

    def _record(self, index: int) -> Any:
        return _attempt(index, "unreadable", self.source.__getitem__, index)

    def _decoded(self, index: int, record: Any) -> Any:
        if self.decode_fn is None:
            return record
        return _attempt(index, "cannot be decoded", self.decode_fn, record)

    def _content(self, index: int) -> bytes:
        try:
            example = self._read(np.array([index]))
        except DataFormatError:
            return b"corrupt"
        return b"".join(leaf.tobytes() for leaf in jax.tree.leaves(example))


def _kind(example: Any) -> Any:
    """Return the shapes and dtypes of an example."""
    return jax.tree.map(lambda leaf: f"{np.asarray(leaf).dtype} {np.shape(leaf)}", example)


def _attempt(index: int, what: str, fn: Callable[[Any], Any], argument: Any) -> Any:
    """Call a function of a record; whatever it raises says that the record is corrupt."""
    try:
        return fn(argument)
    except MemoryError:
        raise
    except Exception as error:  # every format has its own
        problem = f"{what}: {type(error).__name__}: {error}"
        raise DataFormatError(f"record {index}", problem) from error
