"""A compressed file as parts with counts and digests of their own, which memory need not hold."""

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import jaxgen as jg
from jaxgen._cli._listing import MOST_BYTES
from jaxgen.coding import CodeError
from jaxgen.data import Colors, GrayLevels

_MAGIC, _MAGIC_LISTED = b"jxgP", b"jxgL"
# With a listing there stand its bytes and a digest of these and of it, before the first part.
_LISTING = struct.Struct("<Q")
# Whether a part is the last; its symbols, as the last row of the code is padded; bytes of the code;
# a digest of these, the code, and the digest before it, so that parts stand in their order.
HEADER = struct.Struct("<?QQ")
_DIGEST_BYTES = 8
MOST_SYMBOLS = 2**20
"""Of a part: what is in memory at a time."""
_TEXT_ROW = 2048  # symbols: rows are coded side by side, and each begins without context


class Part(NamedTuple):
    """A part of a file.

    Attributes:
      num_symbols: how many symbols it holds.
      code: what `jg.encode` made of them.
    """

    num_symbols: int
    code: bytes


def write(file: BinaryIO, parts: Iterable[Part], listing: bytes = b"") -> None:
    """Write parts, one at least, and before them a listing of what they hold, if there is one."""
    digest, iterator = _MAGIC, iter(parts)
    file.write(_MAGIC_LISTED if listing else _MAGIC)
    if listing:
        header = _LISTING.pack(len(listing))
        digest = digest_of(_MAGIC_LISTED, header, listing)
        file.writelines((header, digest, listing))
    part: Part | None = next(iterator)
    while part is not None:
        following = next(iterator, None)
        header = HEADER.pack(following is None, part.num_symbols, len(part.code))
        digest = digest_of(digest, header, part.code)
        file.writelines((header, digest, part.code))
        part = following


def read(file: BinaryIO, name: object) -> Iterator[Part]:
    """Yield the parts of a file, each checked by its digest before.

    Raises:
      CodeError: the file, called by its name, is damaged, cut short, or none.
    """
    _, digest, left = _begin(file, name)
    is_last = False
    while not is_last:
        header, expected = file.read(HEADER.size), file.read(_DIGEST_BYTES)
        left -= len(header) + len(expected)
        if len(header) + len(expected) < HEADER.size + _DIGEST_BYTES:
            raise CodeError(f"{name}: damaged, it ends before its last part does")
        is_last, num_symbols, size = HEADER.unpack(header)
        if not (0 < num_symbols <= MOST_SYMBOLS and size <= left):
            raise CodeError(f"{name}: damaged, a part is larger than the file or than parts are")
        code = file.read(size)
        left -= size
        digest = digest_of(digest, header, code)
        if digest != expected:
            raise CodeError(f"{name}: damaged, a part's digest is that of another")
        yield Part(num_symbols, code)
    if left:
        raise CodeError(f"{name}: damaged, it goes on behind its last part")


def read_listing(file: BinaryIO, name: object) -> bytes:
    """Return the listing of a file, empty where it has none; errors are those of `read`."""
    return _begin(file, name)[0]


def _begin(file: BinaryIO, name: object) -> tuple[bytes, bytes, int]:
    """Read up to the first part; return the listing, the digest so far, and how much is left."""
    left = file.seek(0, io.SEEK_END) - len(_MAGIC)
    file.seek(0)
    magic = file.read(len(_MAGIC))
    if not is_compressed(magic):
        raise CodeError(f"{name}: not a file that compress wrote")
    if magic == _MAGIC:
        return b"", _MAGIC, left
    header, expected = file.read(_LISTING.size), file.read(_DIGEST_BYTES)
    left -= len(header) + len(expected)
    if len(expected) < _DIGEST_BYTES:
        raise CodeError(f"{name}: damaged, it ends before its listing does")
    (size,) = _LISTING.unpack(header)
    if not 0 < size <= min(left, MOST_BYTES):
        raise CodeError(f"{name}: damaged, its listing is larger than the file or than any is")
    listing = file.read(size)
    digest = digest_of(magic, header, listing)
    if digest != expected:
        raise CodeError(f"{name}: damaged, its listing's digest is that of another")
    return listing, digest, left - size


def encode(bundle: jg.Bundle, symbols: np.ndarray, *, is_portable: bool) -> Part:
    """Return the part that holds symbols `[N]`: whole data points, but for text."""
    num_dims = bundle.model.num_dims
    if _slides(bundle):
        num_dims = -(-len(symbols) // max(1, len(symbols) // _TEXT_ROW))
    x = np.pad(symbols, (0, -len(symbols) % num_dims)).reshape(-1, num_dims)
    model = _of_rows(bundle, num_dims)
    return Part(len(symbols), jg.encode(model, bundle.params, x, is_portable=is_portable))


def decode(bundle: jg.Bundle, part: Part, name: object) -> np.ndarray:
    """Return the symbols of a part, int32 `[N]`.

    Raises:
      CodeError: the part is damaged, or of another bundle.
    """
    info = jg.coding.inspect(part.code)
    if not 0 <= info.num_rows * info.num_dims - part.num_symbols < info.num_dims:
        raise CodeError(f"{name}: damaged, its header says {part.num_symbols} symbols")
    model = _of_rows(bundle, info.num_dims)
    return jg.decode(model, bundle.params, part.code).ravel()[: part.num_symbols]


def _slides(bundle: jg.Bundle) -> bool:
    """Return whether the model's data points are windows, which may follow each other."""
    return not isinstance(bundle.vocabulary, GrayLevels | Colors)


def _of_rows(bundle: jg.Bundle, num_dims: int) -> Any:
    return jg.models.SlidingWindow(bundle.model, num_dims) if _slides(bundle) else bundle.model


def is_compressed(content: bytes) -> bool:
    """Return whether a file that begins so is one that `compress` wrote."""
    return content.startswith((_MAGIC, _MAGIC_LISTED))


def digest_of(before: bytes, header: bytes, code: bytes) -> bytes:
    """Return the digest of a part behind one with the digest `before`."""
    return hashlib.blake2b(before + header + code, digest_size=_DIGEST_BYTES).digest()
