"""Files that are there whole or not at all."""

import os
import pathlib


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file, and its folder if missing; readers see the old content or the new one.

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
