"""Random words at the speed of the vector units: threefry unrolled, so that it fuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_NUM_BLOCKS, _SMALLEST_BLOCK = 16, 1024


def random_bits(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.uint32) -> Array:
    """Draw independent uniform words, the same bits as `jax.random.bits` gives.

    On the CPU `jax.random.bits` runs threefry as a rolled loop over whole arrays. Here its twenty
    rounds are written out on a counter, so they compile into the loop that consumes the words.
    Keys of other generators go to `jax.random.bits`.

    Args:
      key: a typed key.
      shape: the shape of the result, fewer than 2^32 words.
      dtype: `uint32`, or `uint64` where 64-bit types are enabled.

    Returns:
      Words of `dtype`, `shape`.

    Raises:
      TypeError: `key` is not a typed key.
      ValueError: more than 2^32 words are asked for, or another dtype.

    Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    dtype, num_words = _check(key, shape, dtype)
    if not _is_threefry(key):
        return jax.random.bits(key, shape, dtype)
    jax.random.bits(key, (0,))  # no work, but it marks the key as used for jax_debug_key_reuse
    return _words(jax.random.key_data(key), jnp.uint32(0), num_words, dtype).reshape(shape)


def random_rows(key: Key, num_rows: int, row_size: int, dtype: jnp.dtype = jnp.uint32) -> Array:
    """Draw the words of `random_bits`, for consumers that take rows apart.

    Each row has counters of its own. Were they numbered through and cut into rows, every device
    of several would make all of them, as no part of the whole is a part of each row.

    Args:
      key: a typed key.
      num_rows: R.
      row_size: N.
      dtype: `uint32`, or `uint64` where 64-bit types are enabled.

    Returns:
      Words of `dtype`, `[R, N]`.

    Raises:
      TypeError: `key` is not a typed key.
      ValueError: 2^32 words or more are asked for, or another dtype.
    """
    dtype, _ = _check(key, (num_rows, row_size), dtype)
    if not _is_threefry(key):
        return jax.random.bits(key, (num_rows * row_size,), dtype).reshape(num_rows, row_size)
    jax.random.bits(key, (0,))  # marks the key as used, as in `random_bits`
    starts = lax.iota(jnp.uint32, num_rows)[:, None] * np.uint32(row_size)
    return _words(jax.random.key_data(key), starts, row_size, dtype)


def stored_random_bits(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.uint32) -> Array:
    """Draw the words of `random_bits`, for consumers that read each of them several times.

    XLA's CPU compiler fuses the generator into whatever consumes it, and a table look-up would run
    it anew for each of its reads. Here the words are written to memory first, a block at a time;
    elsewhere than on a CPU this is `random_bits`.

    Args:
      key: a typed key.
      shape: the shape of the result, fewer than 2^32 words.
      dtype: `uint32`, or `uint64` where 64-bit types are enabled.

    Returns:
      Words of `dtype`, `shape`.

    Raises:
      TypeError: `key` is not a typed key.
      ValueError: more than 2^32 words are asked for, or another dtype.
    """
    dtype, num_words = _check(key, shape, dtype)
    if num_words < _NUM_BLOCKS * _SMALLEST_BLOCK or not _is_threefry(key):
        return random_bits(key, shape, dtype)
    jax.random.bits(key, (0,))  # marks the key as used, as in `random_bits`
    key_data = jax.random.key_data(key)
    words = lax.platform_dependent(
        key_data,
        cpu=functools.partial(_words_in_blocks, num_words=num_words, dtype=dtype),
        default=lambda data: _words(data, jnp.uint32(0), num_words, dtype),
    )
    return words.reshape(shape)


def tail_uniforms(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw uniforms on (0, 1) of 64 random bits, whose small values have all the digits of a float.

    An event of probability p happens with a relative error of 2^-65 / p, and that of rounding.

    Args:
      key: a typed key.
      shape: the shape of the result.

    Returns:
      Uniforms strictly inside (0, 1), of the default float dtype.
    """
    high, low = random_rows(key, 2, math.prod(shape)).reshape(2, *shape)
    dtype = jnp.result_type(float)
    u = (high.astype(dtype) + (low.astype(dtype) + 0.5) * 2.0**-32) * 2.0**-32
    return jnp.minimum(u, 1 - jnp.finfo(dtype).epsneg)


def _check(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[np.dtype, int]:
    """Return the dtype and the number of words, once they are known to be fit."""
    check_key(key)
    dtype, num_words = np.dtype(dtype), math.prod(shape)
    if dtype not in (np.uint32, np.uint64):
        raise ValueError(f"dtype must be uint32 or uint64, got {dtype}")
    if num_words >= 2**32:
        raise ValueError(f"shape must hold fewer than 2**32 words, got {shape}")
    return dtype, num_words


def _is_threefry(key: Key) -> bool:
    return jax.random.key_impl(key) == "threefry2x32"


def _words_in_blocks(key_data: Array, num_words: int, dtype: np.dtype) -> Array:
    size = -(-num_words // _NUM_BLOCKS)
    starts = lax.iota(jnp.uint32, _NUM_BLOCKS) * np.uint32(size)
    blocks = lax.map(lambda start: _words(key_data, start, size, dtype), starts)
    return blocks.reshape(-1)[:num_words]


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _words(key_data: Array, start: Array, num_words: int, dtype: np.dtype) -> Array:
    """Return the words from counter `start` on; of several starts `[R, 1]`, a row for each."""
    shape = (*start.shape[:-1], num_words)
    counter = lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1) + start
    high, low = _threefry(key_data, jnp.zeros_like(counter), counter)
    if dtype == np.uint64:
        return (high.astype(dtype) << np.uint64(32)) | low.astype(dtype)
    return high ^ low


def _threefry(key_data: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Encipher counters (x, y) by twenty rounds of threefry-2x32."""
    schedule = (key_data[0], key_data[1], key_data[0] ^ key_data[1] ^ _PARITY)
    x, y = x + schedule[0], y + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y
