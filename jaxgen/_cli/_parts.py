"""A compressed file as parts with counts and digests of their own, which memory need not hold."""

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

import jaxgen as jg
from jaxgen.coding import CodeError

_MAGIC = b"jxgP"
# Whether a part is the last; its symbols, as the last row of the code is padded; bytes of the code;
# a digest of these, the code, and the digest before it, so that parts stand in their order.
HEADER = struct.Struct("<?QQ")
_DIGEST_BYTES = 8
MOST_SYMBOLS = 2**20
"""Of a part: what is in memory at a time."""


class Part(NamedTuple):
    """A part of a file.

    Attributes:
      num_symbols: how many symbols it holds.
      code: what `jg.encode` made of them.
    """

    num_symbols: int
    code: bytes


def write(file: BinaryIO, parts: Iterable[Part]) -> None:
    """Write parts, one at least."""
    file.write(_MAGIC)
    digest, iterator = _MAGIC, iter(parts)
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
    left = file.seek(0, io.SEEK_END) - len(_MAGIC)
    file.seek(0)
    if not is_compressed(file.read(len(_MAGIC))):
        raise CodeError(f"{name}: not a file that compress wrote")
    digest, is_last = _MAGIC, False
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


def decode(bundle: jg.Bundle, part: Part, name: object) -> np.ndarray:
    """Return the symbols of a part, int32 `[N]`.

    Raises:
      CodeError: the part is damaged, or of another bundle.
    """
    info = jg.coding.inspect(part.code)
    if not 0 <= info.num_rows * info.num_dims - part.num_symbols < info.num_dims:
        raise CodeError(f"{name}: damaged, its header says {part.num_symbols} symbols")
    return jg.decode(bundle.model, bundle.params, part.code).ravel()[: part.num_symbols]


def is_compressed(content: bytes) -> bool:
    """Return whether a file that begins so is one that `compress` wrote."""
    return content.startswith(_MAGIC)


def digest_of(before: bytes, header: bytes, code: bytes) -> bytes:
    """Return the digest of a part behind one with the digest `before`."""
    return hashlib.blake2b(before + header + code, digest_size=_DIGEST_BYTES).digest()
