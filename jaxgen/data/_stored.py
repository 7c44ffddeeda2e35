"""The files behind a source: found, digested, mapped into memory, and seen to stay as they are."""

import functools
import hashlib
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.data._errors import DataChangedError, DataFormatError, DataNotFoundError

_NUM_PIECES, _PIECE = 16, 4096
_MAX_MAPPED = 256  # each keeps a file open, of which a process may have about a thousand


class StoredFile(NamedTuple):
    """A file as it was found.

    Attributes:
      path: where it is.
      num_bytes: its size.
      modified_ns: when it was last written.
    """

    path: Path
    num_bytes: int
    modified_ns: int


def find(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[StoredFile]:
    """Find one file, or several in the order given.

    Raises:
      DataNotFoundError: no path is given, one leads nowhere, or is a folder.
      DataFormatError: an empty file.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not paths:
        raise DataNotFoundError("paths must name at least one file, got none")
    return [_find(Path(path).expanduser()) for path in paths]


def check_unchanged(file: StoredFile) -> None:
    """Raise DataChangedError unless a file is as it was found."""
    try:
        now = _status(file.path)
    except FileNotFoundError as error:
        raise DataChangedError(f"{file.path}: the file is gone since it was opened") from error
    if now != file:
        raise DataChangedError(
            f"{file.path}: the file has changed since it was opened ({file.num_bytes} bytes then, "
            f"{now.num_bytes} now); open the source anew"
        )


def mapped(file: StoredFile) -> mmap.mmap:
    """Map an unchanged file into memory, to be read; DataChangedError if it is another one."""
    # Bytes that are missing from a mapped file end the process, so it is looked at every time.
    check_unchanged(file)
    return _mapped(file)


def digest(files: Iterable[StoredFile]) -> str:
    """Return a digest of files' sizes and of pieces of each, of all of a small one.

    Names and times are left out: a copy of the data has the digest of the data.
    """
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(file.num_bytes.to_bytes(8, "little"))
        with file.path.open("rb") as opened:
            last = max(file.num_bytes - _PIECE, 0)
            for start in np.unique(np.linspace(0, last, _NUM_PIECES).astype(np.int64)):
                opened.seek(start)
                sha256.update(opened.read(_PIECE))
    return sha256.hexdigest()


def locate(rows: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which file rows `[B]` are in, and where they stand there.

    Args:
      rows: of all files in a sequence.
      ends: for each file, the rows in it and before it.

    >>> locate(np.array([0, 2, 3]), np.array([2, 2, 4]))
    (array([0, 2, 2]), array([0, 0, 1]))
    """
    file = np.searchsorted(ends, rows, side="right")
    return file, rows - np.append(0, ends)[file]


def _find(path: Path) -> StoredFile:
    try:
        file = _status(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataNotFoundError(f"{path}: there is no such file") from error
    if path.is_dir():
        raise DataNotFoundError(
            f"{path}: is a folder; name its files, as by sorted(Path({str(path)!r}).glob('*.npy'))"
        )
    if not file.num_bytes:
        raise DataFormatError(path, "file is empty", 0)
    return file


def _status(path: Path) -> StoredFile:
    status = path.stat()
    return StoredFile(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=_MAX_MAPPED)
def _mapped(file: StoredFile) -> mmap.mmap:
    with file.path.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
