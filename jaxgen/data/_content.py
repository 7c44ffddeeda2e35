"""Known public files: their places, their checksums, and their compression."""

import hashlib
import lzma
import os
import zlib
from typing import NamedTuple

from jaxgen.data._errors import DataFormatError

GZIP_MAGIC = b"\x1f\x8b"
XZ_MAGIC = b"\xfd7zXZ\x00"
_PIECE = 1 << 16
_GZIP_OVERHEAD = 1024  # and a hundredth: more than gzip adds to what it cannot compress


class KnownFile(NamedTuple):
    """A public file and what it must hold.

    Attributes:
      folder: the folder of its data set.
      name: its name without `.gz`.
      sha256: of the uncompressed content, in hexadecimal.
      num_bytes: of the uncompressed content.
      urls: mirrors, https, gzipped or not, in the order they are tried.
      is_unordered: whether `sha256` is that of the lines sorted by their bytes, because copies
        differ in the order of lines alone.
      is_archive: whether `sha256` and `num_bytes` are of the file as it comes, compressed or not.
    """

    folder: str
    name: str
    sha256: str
    num_bytes: int
    urls: tuple[str, ...]
    is_unordered: bool = False
    is_archive: bool = False

    @property
    def max_bytes(self) -> int:
        """Return what no copy of the file exceeds, gzipped or not."""
        return self.num_bytes + self.num_bytes // 100 + _GZIP_OVERHEAD


def check_sha256(file: KnownFile, content: bytes, path: str | os.PathLike[str]) -> None:
    """Raise DataFormatError unless the uncompressed content is the known file's."""
    if file.is_unordered:
        content = b"".join(sorted(content.splitlines(keepends=True)))
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataFormatError(path, f"content has sha256 {digest}, expected {file.sha256}")


def content_of(file: KnownFile, data: bytes, path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds: uncompressed, but for an archive."""
    return data if file.is_archive else uncompress(data, path, file.max_bytes)


def uncompress(data: bytes, path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Uncompress gzip data of one member or several, or xz data; leave any other data as it is.

    Args:
      data: the bytes of a file.
      path: what errors call the file.
      max_bytes: what compressed data may hold; of more, no more than that is ever in memory.

    Raises:
      DataFormatError: a stream that is cut short, corrupt or holds more than `max_bytes`; its
        offset counts compressed bytes.
    """
    if data.startswith(XZ_MAGIC):
        return _uncompress_xz(data, path, max_bytes)
    if not data.startswith(GZIP_MAGIC):
        return data
    inflater, pieces, left = zlib.decompressobj(wbits=31), [], max_bytes
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        try:
            while piece:
                if inflater.eof:
                    inflater = zlib.decompressobj(wbits=31)
                pieces.append(inflater.decompress(piece, left + 1))
                left -= len(pieces[-1])
                if left < 0:
                    problem = f"gzip data hold more than the {max_bytes} bytes expected"
                    raise DataFormatError(path, problem, start)
                piece = inflater.unconsumed_tail or inflater.unused_data
        except zlib.error as error:
            problem = f"corrupt gzip data ({error}) in the {_PIECE} compressed bytes"
            raise DataFormatError(path, problem, start) from error
    if not inflater.eof:
        raise DataFormatError(path, "gzip stream cut short: the compressed file ends", len(data))
    return b"".join(pieces)


def _uncompress_xz(data: bytes, path: str | os.PathLike[str], max_bytes: int) -> bytes:
    inflater = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        content = inflater.decompress(data, max_bytes + 1)
    except lzma.LZMAError as error:
        raise DataFormatError(path, f"corrupt xz data ({error})", 0) from error
    if len(content) > max_bytes:
        raise DataFormatError(path, f"xz data hold more than the {max_bytes} bytes expected", 0)
    if not inflater.eof:
        raise DataFormatError(path, "xz stream cut short: the compressed file ends", len(data))
    return content
