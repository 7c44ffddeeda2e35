"""Known public files: their places, their checksums, and gzip."""

import hashlib
import os
import zlib
from typing import NamedTuple

from jaxgen.data._errors import DataFormatError

GZIP_MAGIC = b"\x1f\x8b"
_PIECE = 1 << 16


class KnownFile(NamedTuple):
    """A public file and what it must hold.

    Attributes:
      folder: the folder of its data set.
      name: its name without `.gz`.
      sha256: of the uncompressed content, in hexadecimal.
      urls: mirrors, https, gzipped or not, in the order they are tried.
    """

    folder: str
    name: str
    sha256: str
    urls: tuple[str, ...]


def check_sha256(file: KnownFile, content: bytes, path: str | os.PathLike[str]) -> None:
    """Raise DataFormatError unless the uncompressed content is the known file's."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataFormatError(path, f"content has sha256 {digest}, expected {file.sha256}")


def uncompress(data: bytes, path: str | os.PathLike[str]) -> bytes:
    """Uncompress gzip data of one member or several; leave any other data as it is.

    Args:
      data: the bytes of a file.
      path: what errors call the file.

    Raises:
      DataFormatError: a stream that is cut short or corrupt; its offset counts compressed bytes.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    inflater, pieces = zlib.decompressobj(wbits=31), []
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        try:
            while piece:
                if inflater.eof:
                    inflater = zlib.decompressobj(wbits=31)
                pieces.append(inflater.decompress(piece))
                piece = inflater.unused_data
        except zlib.error as error:
            problem = f"corrupt gzip data ({error}) in the {_PIECE} compressed bytes"
            raise DataFormatError(path, problem, start) from error
    if not inflater.eof:
        raise DataFormatError(path, "gzip stream cut short: the compressed file ends", len(data))
    return b"".join(pieces)
