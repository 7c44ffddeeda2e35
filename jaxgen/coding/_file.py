"""The file around a code: what made it, what it holds, and checks that tell damage at once."""

import hashlib
import struct
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core._types import Params

# magic, version, method, rows, D, V, CRC-32 of the symbols, fingerprint of the parameters; then a
# digest of that and of the code, by which damage shows before anything is decoded
_HEADER = struct.Struct("<4sHHIIII8s")
_DIGEST_BYTES = 8
_MAGIC, _VERSION = b"jxgC", 4
METHODS = ("chain", "bits_back", "portable", "digits")

HEADER_BYTES = _HEADER.size + _DIGEST_BYTES
"""Length of the header in front of the code."""
MAX_ROWS = 2**32 - 1
ROWS_A_BYTE = 64
"""A code has a byte for so many rows at least, so that what a header asks for is bounded."""


class CodeError(ValueError):
    """A compressed file that cannot be read back: damaged, cut short, or of another model."""


class Header(NamedTuple):
    """What a file says of its symbols.

    Attributes:
      method: one of `METHODS`.
      num_rows: N.
      num_dims: D.
      num_symbols: V.
      checksum: CRC-32 of the symbols.
      fingerprint: of the parameters.
    """

    method: str
    num_rows: int
    num_dims: int
    num_symbols: int
    checksum: int
    fingerprint: bytes


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
    return header + digest(header, code) + code


def read(
    methods: tuple[str, ...], params: Params, num_dims: int, num_symbols: int, data: bytes
) -> tuple[Header, bytes]:
    """Return the header and the code of a file that a model can read.

    Raises:
      CodeError: it is no such file, is cut short or damaged, or belongs to another model.
    """
    header, code = parse(data)
    if header.method not in methods:
        known = " and ".join(methods)
        raise CodeError(f"data was encoded by {header.method}, the model's contract has {known}")
    if (header.num_dims, header.num_symbols) != (num_dims, num_symbols):
        raise CodeError(
            f"data holds {header.num_dims} coordinates of {header.num_symbols} symbols, "
            f"the model has {num_dims} of {num_symbols}"
        )
    if header.fingerprint != fingerprint(params):
        raise CodeError("data was encoded with other parameters than those given")
    if len(code) < header.num_rows // ROWS_A_BYTE:
        raise CodeError(
            f"data is damaged: {header.num_rows} rows have {header.num_rows // ROWS_A_BYTE} bytes "
            f"of code at least, these {len(code)}"
        )
    return header, code


def padded(code: bytes, num_rows: int) -> bytes:
    """Return a code with words of zero behind it, where it has fewer bytes than rows must have."""
    return code + bytes(2 * max(0, -(-(num_rows // ROWS_A_BYTE - len(code)) // 2)))


def parse(data: bytes) -> tuple[Header, bytes]:
    """Return the header and the code of a file.

    Raises:
      CodeError: it is no such file, or is cut short or damaged.
    """
    data = bytes(data)
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise CodeError(
            f"data must start with a header of {HEADER_BYTES} bytes that {_MAGIC!r} opens"
        )
    _, version, method, *fields = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise CodeError(f"data has format version {version}, this code reads {_VERSION}")
    code = data[HEADER_BYTES:]
    if data[_HEADER.size : HEADER_BYTES] != digest(data[: _HEADER.size], code):
        raise CodeError("data is damaged, cut short or goes on after its end")
    if method >= len(METHODS):
        raise CodeError(f"data has method {method}, this code knows {len(METHODS)}")
    return Header(METHODS[method], *fields), code


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
    """Return eight bytes of a digest of the parameters.

    That of the same arrays is not computed again, if they are JAX's, which nobody writes to.
    """
    global _last_known
    leaves, structure = jax.tree.flatten(params)
    arrays, known_structure, known = _last_known
    is_same = structure == known_structure and all(
        array() is leaf for array, leaf in zip(arrays, leaves, strict=True)
    )
    if is_same and known:
        return known
    digest = _digest_of(params)
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        _last_known = _Known(tuple(map(weakref.ref, leaves)), structure, digest)
    return digest


class _Known(NamedTuple):
    """Arrays whose digest is known, in a tree of a structure; they are not kept alive."""

    arrays: tuple[Callable[[], Any], ...]
    structure: Any
    digest: bytes


_last_known = _Known((), jax.tree.structure(()), b"")


def _digest_of(params: Params) -> bytes:
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


def digest(header: bytes, code: bytes) -> bytes:
    """Return what stands behind the header."""
    return hashlib.sha256(header + code).digest()[:_DIGEST_BYTES]
