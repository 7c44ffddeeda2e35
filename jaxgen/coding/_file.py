"""The file around a code: what made it, what it holds, and checks that tell damage at once."""

import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core._types import Params

# magic, version, method, rows, D, V, CRC-32 of the symbols, fingerprint of the parameters; then a
# digest of that and of the code, by which damage shows before anything is decoded
_HEADER = struct.Struct("<4sHHIIII8s")
_DIGEST_BYTES = 8
_MAGIC, _VERSION = b"jxgC", 3
METHODS = ("chain", "bits_back")

HEADER_BYTES = _HEADER.size + _DIGEST_BYTES
"""Length of the header in front of the code."""
MAX_ROWS = 2**32 - 1


class CodeError(ValueError):
    """A compressed file that cannot be read back: damaged, cut short, or of another model."""


class Content(NamedTuple):
    """What a file says of its symbols.

    Attributes:
      num_rows: N.
      checksum: CRC-32 of the symbols.
      code: what stands behind the header.
    """

    num_rows: int
    checksum: int
    code: bytes


def write(method: str, params: Params, symbols: np.ndarray, num_symbols: int, code: bytes) -> bytes:
    """Return the file of a code for int32 symbols `[N, D]`."""
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        METHODS.index(method),
        *symbols.shape,
        num_symbols,
        checksum(symbols),
        fingerprint(params),
    )
    return header + _digest(header, code) + code


def read(method: str, params: Params, num_dims: int, num_symbols: int, data: bytes) -> Content:
    """Return what a file holds.

    Raises:
      CodeError: it is no such file, is cut short or damaged, or belongs to another model.
    """
    data = bytes(data)
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise CodeError(
            f"data must start with a header of {HEADER_BYTES} bytes that {_MAGIC!r} opens"
        )
    _, version, method_index, num_rows, *shape, crc, digest = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise CodeError(f"data has format version {version}, this code reads {_VERSION}")
    code = data[HEADER_BYTES:]
    if data[_HEADER.size : HEADER_BYTES] != _digest(data[: _HEADER.size], code):
        raise CodeError("data is damaged, cut short or goes on after its end")
    if method_index != METHODS.index(method):
        raise CodeError(f"data was encoded with a model of the other contract, not by {method}")
    if shape != [num_dims, num_symbols]:
        raise CodeError(
            f"data holds {shape[0]} coordinates of {shape[1]} symbols, "
            f"the model has {num_dims} of {num_symbols}"
        )
    if digest != fingerprint(params):
        raise CodeError("data was encoded with other parameters than those given")
    return Content(num_rows, crc, code)


def words_of(code: bytes) -> np.ndarray:
    """Return the words of a code, uint16."""
    if len(code) % 2:
        raise CodeError(f"data must hold whole 2-byte words, got {len(code)} bytes")
    return np.frombuffer(code, "<u2").astype(np.uint16)


def check_symbols(symbols: np.ndarray, crc: int) -> None:
    """Raise CodeError unless the symbols are those that were encoded."""
    if checksum(symbols) != crc:
        raise CodeError(
            "data decodes to symbols with another checksum: this device rounds the model's "
            "probabilities otherwise than the one that encoded, or the context is another"
        )


def checksum(symbols: np.ndarray) -> int:
    """Return the CRC-32 of int32 symbols."""
    return zlib.crc32(np.ascontiguousarray(symbols, "<i4").data)


def fingerprint(params: Params) -> bytes:
    """Return eight bytes of a digest of the parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()[:8]


def check_context(context: Any, num_rows: int) -> None:
    """Raise ValueError unless a context is one for all, or has so many rows."""
    for leaf in jax.tree.leaves(context):
        if np.ndim(leaf) and np.shape(leaf)[0] != num_rows:
            raise ValueError(
                f"context must be a scalar or have {num_rows} rows, got shape {np.shape(leaf)}"
            )


def context_rows(context: Any, rows: slice) -> Any:
    """Return the rows of a context that is not one for all."""
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) else leaf, context)


def _digest(header: bytes, code: bytes) -> bytes:
    return hashlib.sha256(header + code).digest()[:_DIGEST_BYTES]
