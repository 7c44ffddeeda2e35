"""Files of either kind: which kind one is, and writing so that nobody sees half of one."""

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgen.data import DataFormatError, DataNotFoundError

IDX_MAGIC = b"\0\0\x08"


def is_images(path: Path) -> bool:
    """Whether a path is of images: a folder, a .png or .npy file, or one that starts as IDX does.

    Raises:
      DataNotFoundError: there is nothing at the path.
    """
    if path.is_dir() or path.suffix.lower() in (".png", ".npy"):
        return path.exists() or _missing(path)
    if not path.is_file():
        return _missing(path)
    return content_of(path).startswith(IDX_MAGIC)


def content_of(path: Path) -> bytes:
    """Return the content of a file, uncompressed where it is gzipped.

    Raises:
      DataNotFoundError: there is no such file.
      DataFormatError: a file without content, or a damaged gzip stream.
    """
    from jaxgen.data._content import uncompress

    if not path.is_file():
        _missing(path)
    content = uncompress(path.read_bytes(), path, _MOST_BYTES)
    if not content:
        raise DataFormatError(path, "file is empty")
    return content


def size_of(path: Path) -> int:
    """Return the bytes of a file.

    Raises:
      DataNotFoundError: there is no such file.
    """
    if not path.is_file():
        _missing(path)
    return path.stat().st_size


def pieces_of(path: Path, num_bytes: int, update: Callable[[int, str], None]) -> Iterator[bytes]:
    """Yield the content of a file so many bytes at a time, uncompressed where it is compressed.

    Args:
      path: the file.
      num_bytes: of a piece.
      update: called with how many bytes of the file have been read.

    Raises:
      DataFormatError: a damaged gzip or xz stream.
    """
    from jaxgen.data._content import GZIP_MAGIC, XZ_MAGIC

    with path.open("rb") as file:
        start = file.read(len(XZ_MAGIC))
        file.seek(0)
        is_gzip, is_xz = start.startswith(GZIP_MAGIC), start == XZ_MAGIC
        content: Any = contextlib.nullcontext(file)
        if is_gzip or is_xz:
            content = (gzip if is_gzip else lzma).open(file)
        try:
            with content as uncompressed:
                while piece := uncompressed.read(num_bytes):
                    yield piece
                    update(file.tell(), "")
        except (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error) as error:
            problem = f"{'gzip' if is_gzip else 'xz'} data are damaged or cut short ({error})"
            raise DataFormatError(path, problem, file.tell()) from error


_MOST_BYTES = 1 << 32


def _missing(path: Path) -> bool:
    raise DataNotFoundError(f"{path}: there is no such file or folder")
