"""Lossless codes from autoregressive models, as long as the negative log-likelihood in bits."""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import constriction
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core._checks import check_integer_array, check_shape
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._types import Array, Params

# magic, version, rows, D, V, CRC-32 of the symbols, fingerprint of the parameters; then a digest of
# that and of the code, by which damage shows before anything is decoded
_HEADER = struct.Struct("<4sIIIII8s")
_DIGEST_BYTES = 8
_MAGIC, _VERSION = b"jxgC", 2
_MAX_ROWS = 1024  # rows coded side by side; part of the format, as batch shape can change rounding

_MAX_COUNT = 2**32 - 1
_READ_AHEAD_BITS = 96.0  # more than the coder holds when it has read the last word

HEADER_BYTES = _HEADER.size + _DIGEST_BYTES
"""Length of the header in front of the code."""


class CodeError(ValueError):
    """A compressed file that cannot be read back: damaged, cut short, or of another model."""


def encode(
    model: AutoregressiveModel, params: Params, x: ArrayLike, *, context: Any = None
) -> bytes:
    r"""Compress symbols to :math:`-\sum \log_2 p(x)` bits, a header, and at most a few words.

    Range coding (Pasco 1976; Martin 1979), coordinate by coordinate for all rows side by side, with
    the conditionals that the cached `step` gives: exactly those the decoder will compute.

    Args:
      model: an autoregressive model over D coordinates of V symbols.
      params: parameters of the model.
      x: integers in [0, V), `[N, D]`.
      context: what the model is conditioned on, for each row or a scalar for all; it is not part of
        the file.

    Returns:
      The file's content: `HEADER_BYTES`, then the code, which is empty for one symbol alone (V = 1)
      or no rows.

    Raises:
      TypeError: `x` does not hold integers.
      ValueError: a symbol lies outside [0, V), a shape does not fit, or the model gives NaN.
    """
    x = np.asarray(x)
    x = x.astype(np.uint8) if x.dtype == bool else x
    check_integer_array("x", x)
    check_shape("x", x, (None, model.num_dims))
    if len(x) > _MAX_COUNT:
        raise ValueError(f"x must have at most {_MAX_COUNT} rows, got {len(x)}")
    _check_context(context, len(x))
    if x.size and not (x.min() >= 0 and x.max() < model.num_symbols):
        raise ValueError(
            f"x must hold symbols in [0, {model.num_symbols}), got [{x.min()}, {x.max()}]"
        )
    symbols = np.ascontiguousarray(x, np.int32)
    coder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    for rows in _chunks(model, len(x)):

        def put(index: int, probabilities: np.ndarray, rows: slice = rows) -> np.ndarray:
            column = np.ascontiguousarray(symbols[rows, index])
            coder.encode(column, family, probabilities)
            return column

        _walk(model, params, _of(context, rows), rows.stop - rows.start, put)
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        *x.shape,
        model.num_symbols,
        zlib.crc32(symbols.data),
        _fingerprint(params),
    )
    code = coder.get_compressed().astype("<u4").tobytes()
    return header + _digest(header, code) + code


def decode(
    model: AutoregressiveModel, params: Params, data: bytes, *, context: Any = None
) -> np.ndarray:
    """Read back what `encode` wrote with the same parameters.

    The conditionals must come out bit for bit as they did in `encode`: same parameters, same kind
    of device, same version of XLA. Where they do not, the checksum of the symbols tells.

    Args:
      model: the autoregressive model that encoded.
      params: parameters of the model.
      data: the file's content.
      context: what it was given when it encoded.

    Returns:
      Symbols, int32 `[N, D]`.

    Raises:
      CodeError: the data is no such file, is cut short or damaged, or belongs to another model.
      ValueError: `context` has another number of rows than the data.
    """
    num_rows, checksum, words = _open(model, params, data)
    _check_context(context, num_rows)
    coder = constriction.stream.queue.RangeDecoder(words)
    family = constriction.stream.model.Categorical(perfect=False)
    bits_left = _READ_AHEAD_BITS
    parts: list[np.ndarray] = []  # not all at once: what the header says need not be there

    def get(index: int, probabilities: np.ndarray) -> np.ndarray:
        nonlocal bits_left
        has_words = not coder.maybe_exhausted()
        column = coder.decode(family, probabilities)
        if not has_words:
            bits_left -= _least_bits(np.take_along_axis(probabilities, column[:, None], axis=1))
        if bits_left < 0:
            raise CodeError("data is damaged: the code ends before the rows of its header do")
        parts[-1][:, index] = column
        return column

    for rows in _chunks(model, num_rows):
        size = rows.stop - rows.start
        parts.append(np.zeros((size, model.num_dims), np.int32))
        try:
            _walk(model, params, _of(context, rows), size, get)
        except AssertionError as error:  # how the coder says that no symbol fits
            raise CodeError(f"data is damaged: {error}") from error
    symbols = np.concatenate(parts) if parts else _without_code(model, num_rows)
    if zlib.crc32(symbols.data) != checksum:
        raise CodeError(
            "data decodes to symbols with another checksum: this device rounds the model's "
            "probabilities otherwise than the one that encoded, or the context is another"
        )
    return symbols


def claimed_bits(log_prob: np.ndarray) -> float:
    """Return the bits that log-probabilities in nats claim for the data: −Σ log₂ p."""
    return float(-np.sum(np.asarray(log_prob, np.float64)) / math.log(2))


@partial(jax.jit, static_argnums=2)
def _init_cache(model: AutoregressiveModel, params: Params, num_rows: int, context: Any) -> Any:
    return model.init_cache(params, num_rows, context=context)


@jax.jit
def _step(
    model: AutoregressiveModel, params: Params, cache: Any, index: Array, previous: Array
) -> tuple[Array, Any]:
    return model.step(params, cache, index, previous)


def _walk(
    model: AutoregressiveModel,
    params: Params,
    context: Any,
    num_rows: int,
    symbols_fn: Callable[[int, np.ndarray], np.ndarray],
) -> None:
    """Go through the coordinates, exchanging conditionals `[num_rows, V]` for symbols."""
    cache = _init_cache(model, params, num_rows, context)
    previous = np.zeros(num_rows, np.int32)
    for index in range(model.num_dims):
        logits, cache = _step(model, params, cache, jnp.int32(index), previous)
        probabilities = np.asarray(jax.nn.softmax(logits.astype(jnp.float32), axis=-1))
        if not np.isfinite(probabilities).all():
            raise ValueError(f"model gives NaN probabilities at coordinate {index}")
        previous = symbols_fn(index, probabilities)


def _open(model: AutoregressiveModel, params: Params, data: bytes) -> tuple[int, int, np.ndarray]:
    """Return the number of rows, their checksum and the words of the code."""
    data = bytes(data)
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise CodeError(
            f"data must start with a header of {HEADER_BYTES} bytes that {_MAGIC!r} opens"
        )
    _, version, num_rows, num_dims, num_symbols, checksum, fingerprint = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise CodeError(f"data has format version {version}, this code reads {_VERSION}")
    code = data[HEADER_BYTES:]
    if data[_HEADER.size : HEADER_BYTES] != _digest(data[: _HEADER.size], code):
        raise CodeError("data is damaged, cut short or goes on after its end")
    if (num_dims, num_symbols) != (model.num_dims, model.num_symbols):
        raise CodeError(
            f"data holds {num_dims} coordinates of {num_symbols} symbols, "
            f"the model has {model.num_dims} of {model.num_symbols}"
        )
    if fingerprint != _fingerprint(params):
        raise CodeError("data was encoded with other parameters than those given")
    if len(code) % 4:
        raise CodeError(f"data must hold whole 4-byte words, got {len(code)} bytes")
    return num_rows, checksum, np.frombuffer(code, "<u4").astype(np.uint32)


def _least_bits(chances: np.ndarray) -> float:
    """Return a bound from below on what the coder spends on symbols of these probabilities.

    It rounds to multiples of 2⁻²⁴, and sums of float32 are off by a few parts in a million.
    """
    at_most = np.minimum(chances.astype(np.float64) * (1 + 2**-18) + 2**-22, 1)
    return float(-np.sum(np.log2(at_most)))


def _check_context(context: Any, num_rows: int) -> None:
    for leaf in jax.tree.leaves(context):
        if np.ndim(leaf) and np.shape(leaf)[0] != num_rows:
            raise ValueError(
                f"context must be a scalar or have {num_rows} rows, got shape {np.shape(leaf)}"
            )


def _of(context: Any, rows: slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) else leaf, context)


def _chunks(model: AutoregressiveModel, num_rows: int) -> Iterator[slice]:
    """Yield the rows coded side by side; none where there is nothing to code."""
    if model.num_symbols == 1 or model.num_dims == 0:
        return
    for start in range(0, num_rows, _MAX_ROWS):
        yield slice(start, min(start + _MAX_ROWS, num_rows))


def _without_code(model: AutoregressiveModel, num_rows: int) -> np.ndarray:
    try:
        return np.zeros((num_rows, model.num_dims), np.int32)
    except MemoryError as error:
        raise CodeError(f"data holds {num_rows} rows, which memory does not") from error


def _digest(header: bytes, code: bytes) -> bytes:
    return hashlib.sha256(header + code).digest()[:_DIGEST_BYTES]


def _fingerprint(params: Params) -> bytes:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()[:8]
