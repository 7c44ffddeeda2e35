"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file to be written, and its folder if missing; it appears at the end, whole.

    Raises:
      OSError: it cannot be written; the old file stays, as it does if anything else is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file, and its folder if missing; readers see the old content or the new one.

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    with writing(path) as file:
        file.write(content)
