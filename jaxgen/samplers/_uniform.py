"""Points in the unit cube: independent, antithetic, stratified and quasi-random.

Every design has the signature `(key, num_samples, num_dims) -> [num_samples, num_dims]`; every
point of a randomized design is uniform by itself, so whatever maps uniforms to samples can be
driven by any. Coordinates are odd multiples of 2^-24 in float32 and of 2^-53 in float64: strictly
inside (0, 1), and with u also 1 − u is a float. (Strata are rounded, Sobol points unscrambled.)
"""

import functools
import math
from collections.abc import Callable
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_count, check_in_range, check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._random_bits import random_bits, random_rows

UniformsFn = Callable[[Key, int, int], Array]
"""`(key, num_samples, num_dims) -> [num_samples, num_dims]`: any design of this module."""

MAX_SOBOL_DIMS = 1111
"""Dimensions of the Sobol sequence: those whose primitive polynomials have degree 13 or less."""

_NUM_BITS = 32


def iid_uniforms(key: Key, num_samples: int, num_dims: int = 1) -> Array:
    """Draw independent uniforms.

    Args:
      key: a typed key.
      num_samples: N.
      num_dims: D.

    Returns:
      Uniforms in (0, 1), `[N, D]`.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or a count is not a positive integer.
    """
    _check(key, num_samples, num_dims)
    return _open_uniform(_random_bits(key, (num_samples, num_dims)))


def uniform_rows(key: Key, num_rows: int, row_size: int) -> Array:
    """Draw the numbers of `iid_uniforms`, `[R, N]` row by row, for consumers that take rows apart.

    Long rows keep the processor's vector units busy, and each can be shared out among devices.
    """
    wide = jnp.result_type(float) == jnp.float64
    return _open_uniform(random_rows(key, num_rows, row_size, jnp.uint64 if wide else jnp.uint32))


def antithetic_uniforms(key: Key, num_samples: int, num_dims: int = 1) -> Array:
    """Draw uniforms whose second half mirrors the first: row i + N/2 is 1 − row i, exactly.

    The mean of any monotone function varies less than with independent uniforms, and that of a
    linear one not at all (Hammersley and Morton 1956).

    Args:
      key: a typed key.
      num_samples: N, even.
      num_dims: D.

    Returns:
      Uniforms in (0, 1), `[N, D]`.

    Raises:
      TypeError, ValueError: `key` is not one typed key, a count is not a positive integer, or
        `num_samples` is odd.
    """
    _check(key, num_samples, num_dims)
    if num_samples % 2:
        raise ValueError(f"num_samples must be even to make antithetic pairs, got {num_samples}")
    u = _open_uniform(_random_bits(key, (num_samples // 2, num_dims)))
    return jnp.concatenate([u, 1 - u])


def stratified_uniforms(key: Key, num_samples: int, num_dims: int = 1) -> Array:
    """Draw one uniform in each of N equal strata of every coordinate.

    The first coordinate is in increasing order; each further one is shuffled on its own, which
    makes the design a Latin hypercube (McKay, Beckman and Conover 1979).

    Args:
      key: a typed key.
      num_samples: N.
      num_dims: D.

    Returns:
      Uniforms in (0, 1), `[N, D]`, each strictly inside its stratum for N up to 2^22 in float32 and
      2^51 in float64: its place there has the bits that N leaves, so that none is rounded into the
      next. Beyond, strata share numbers.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or a count is not a positive integer.
    """
    _check(key, num_samples, num_dims)
    jitter_key, order_key = jax.random.split(key)
    order_keys = jax.random.split(order_key, num_dims)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, num_samples), out_axes=1)(order_keys)
    strata = shuffled.at[:, 0].set(jnp.arange(num_samples))
    return _within_strata(strata, _random_bits(jitter_key, (num_samples, num_dims)))


def sobol(num_samples: int, num_dims: int = 1) -> Array:
    """Return the first points of the Sobol sequence in Gray-code order, unscrambled.

    Point n is the exclusive or of direction numbers v_k over the ones of n's Gray code, read as a
    binary fraction (Sobol 1967; Antonov and Saleev 1979). Direction numbers are those of Joe and
    Kuo (2008), as in SciPy, whose points these equal bit for bit: in float64 always, in float32
    as long as `num_samples` is at most 2^24. The first point is the origin, so the points lie in
    [0, 1) and must not be fed to an unbounded quantile: use `scrambled_sobol` there.

    Args:
      num_samples: N.
      num_dims: D.

    Returns:
      Points in [0, 1), `[N, D]`.

    Raises:
      TypeError, ValueError: a count is not a positive integer, or `num_dims` is above 1,111.

    >>> sobol(4, 2).tolist()
    [[0.0, 0.0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
    """
    _check_sobol(num_samples, num_dims)
    columns = jnp.asarray(_gray_columns(num_dims))
    integers = _xor_points(columns, jnp.zeros(num_dims, jnp.uint32), num_samples)
    if _mantissa_bits() < _NUM_BITS:
        integers = integers >> (_NUM_BITS - 24) << (_NUM_BITS - 24)  # rounding could reach 1
    return integers.astype(jnp.result_type(float)) * 2.0**-_NUM_BITS


def scrambled_sobol(key: Key, num_samples: int, num_dims: int = 1) -> Array:
    """Draw Sobol points scrambled by a random linear map of their bits and a random digital shift.

    Each point is uniform by itself, so averages are unbiased; together they keep the sequence's
    equidistribution: with N a power of two, every coordinate has one point in each of N equal
    strata (Matoušek 1998), up to N = 2^23 in float32, whose numbers have no room for more, and 2^32
    in float64. The error of a smooth average falls about as 1/N.

    Args:
      key: a typed key.
      num_samples: N.
      num_dims: D.

    Returns:
      Uniforms in (0, 1), `[N, D]`.

    Raises:
      TypeError, ValueError: `key` is not one typed key, a count is not a positive integer, or
        `num_dims` is above 1,111.
    """
    check_key(key)
    _check_sobol(num_samples, num_dims)
    matrix_key, shift_key = jax.random.split(key)
    columns = _scramble(matrix_key, jnp.asarray(_gray_columns(num_dims)))
    shift = jax.random.bits(shift_key, (num_dims,), jnp.uint32)
    integers = _xor_points(columns, shift, num_samples)
    if jnp.result_type(float) == jnp.float64:
        integers = integers.astype(jnp.uint64) << _NUM_BITS
    return _open_uniform(integers)


def open_uniforms(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw uniforms whose distance from 0 and from 1 is never 0, where a quantile may be infinite.

    Args:
      key: a typed key.
      shape: of the result.

    Returns:
      Those of `jax.random.uniform`, 2^-23 apart in float32, each raised by half of that.
    """
    u = jax.random.uniform(key, shape)
    return u + jnp.finfo(u.dtype).epsneg


def dense_near_zero(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw independent uniforms that resolve small values as floats can, for rare events.

    They are (k + ½) / 2^32 in float32, and / 2^64 in float64, rounded to the dtype: an event of
    probability p happens with a relative error of 2^-33 / p, where the coarser lattice of
    `iid_uniforms` gives 2^-24 / p.

    Args:
      key: a typed key.
      shape: shape of the result.

    Returns:
      Uniforms strictly inside (0, 1), of shape `shape`.

    Raises:
      TypeError, ValueError: `key` is not one typed key.
    """
    check_key(key)
    dtype = jnp.result_type(float)
    bits = _random_bits(key, shape)
    u = (bits.astype(dtype) + 0.5) * 2.0 ** -(8 * bits.dtype.itemsize)
    return jnp.minimum(u, 1 - jnp.finfo(dtype).epsneg)


def _check(key: Key, num_samples: int, num_dims: int) -> None:
    check_key(key)
    check_count("num_samples", num_samples)
    check_count("num_dims", num_dims)
    if num_samples * num_dims >= 2**_NUM_BITS:
        raise ValueError(
            f"num_samples * num_dims must be below 2**{_NUM_BITS}, got {num_samples} * {num_dims}"
        )


def _check_sobol(num_samples: int, num_dims: int) -> None:
    check_count("num_samples", num_samples)
    check_count("num_dims", num_dims)
    check_in_range("num_dims", num_dims, 1, MAX_SOBOL_DIMS)
    check_in_range("num_samples", num_samples, 1, 2**_NUM_BITS)


def _mantissa_bits() -> int:
    return jnp.finfo(jnp.result_type(float)).nmant + 1


def _random_bits(key: Key, shape: tuple[int, ...]) -> Array:
    wide = jnp.result_type(float) == jnp.float64
    return random_bits(key, shape, jnp.uint64 if wide else jnp.uint32)


def _open_uniform(bits: Array) -> Array:
    """Map random words to the centers of the cells of (0, 1) that a float tells apart."""
    # One less than the mantissa: the center takes a bit.
    return _cell_centers(bits, jnp.finfo(jnp.result_type(float)).nmant)


@functools.partial(jax.jit, static_argnums=1)
def _cell_centers(bits: Array, num_cells_log2: int) -> Array:
    dtype = jnp.result_type(float)
    if num_cells_log2 == 0:
        return jnp.full(bits.shape, 0.5, dtype)
    cell = (bits >> (bits.dtype.itemsize * 8 - num_cells_log2)).astype(dtype)
    return (cell + 0.5) * 2.0**-num_cells_log2


def _within_strata(strata: Array, bits: Array) -> Array:
    """Map stratum i of N, `[N, ...]`, and a random word to a point strictly between i and i + 1."""
    num_samples = strata.shape[0]
    # As many bits as i leaves, less one: no rounding of (i + u) / N then reaches a stratum's end.
    num_bits = max(_mantissa_bits() - 2 - math.ceil(math.log2(num_samples)), 0)
    u = _cell_centers(bits, num_bits)
    return (strata.astype(u.dtype) + u) / num_samples


@functools.partial(jax.jit, static_argnums=2)
def _xor_points(columns: Array, shift: Array, num_samples: int) -> Array:
    """Combine columns `[32, D]` by the bits of n = 0 … N − 1: `[N, D]`, one xor per number.

    The map from n to the point is linear over bits, so the high and the low half of n give two
    small tables and every point is the xor of one row of each.
    """
    num_bits = max(1, math.ceil(math.log2(num_samples)))
    num_low = num_bits // 2
    low = _span(columns[:num_low], shift)
    high = _span(columns[num_low:num_bits], jnp.zeros_like(shift))
    num_rows = -(-num_samples // low.shape[0])
    points = high[:num_rows, None, :] ^ low[None, :, :]
    return points.reshape(-1, shift.shape[0])[:num_samples]


def _span(columns: Array, shift: Array) -> Array:
    """Return all 2^K xor combinations of K columns `[K, D]` with a shift `[D]`, in binary order."""
    points = shift[None]
    for column in columns:
        points = jnp.concatenate([points, points ^ column[None]])
    return points


@jax.jit
def _scramble(key: Key, columns: Array) -> Array:
    """Multiply each dimension's columns `[32, D]` by its random lower-triangular bit matrix.

    Row r of the matrix, the most significant first, has a one at bit r and random bits above it;
    output bit r is the parity of what row and column share.
    """
    rows = jnp.arange(_NUM_BITS, dtype=jnp.uint32)
    diagonal = jnp.uint32(1) << (_NUM_BITS - 1 - rows)
    more_significant = ~(diagonal | (diagonal - 1))
    random = jax.random.bits(key, (_NUM_BITS, columns.shape[1]), jnp.uint32)
    matrix = (random & more_significant[:, None]) | diagonal[:, None]
    shared = jax.lax.population_count(matrix[:, None, :] & columns[None, :, :])
    return jnp.sum((shared & 1) * diagonal[:, None, None], axis=0, dtype=jnp.uint32)


@functools.cache
def _gray_columns(num_dims: int) -> np.ndarray:
    """Return columns w_k `[32, D]` with point n = xor of w_k over the ones of n.

    Bit k of n's Gray code is n_k xor n_{k+1}, so bit k of n brings in v_k and v_{k−1}.
    """
    directions = _direction_numbers(num_dims)
    return directions ^ np.concatenate([np.zeros_like(directions[:1]), directions[:-1]])


def _direction_numbers(num_dims: int) -> np.ndarray:
    """Return direction numbers v_k as 32-bit fractions, `[32, D]`, uint32, by Sobol's recurrence.

    The initial numbers are kept with the package, their license beside them: SciPy ships them too,
    but under a private name that may move.
    """
    with resources.files("jaxgen.samplers").joinpath("sobol_joe_kuo.npz").open("rb") as file:
        table = np.load(file)
        polynomials = table["polynomials"][:num_dims].astype(np.int64)
        initial = table["initial"][:num_dims].T.astype(np.int64)
    degrees = np.floor(np.log2(polynomials)).astype(np.int64)
    numbers = np.ones((_NUM_BITS, num_dims), np.int64)  # all ones is the van der Corput sequence
    numbers[: len(initial)] = np.where(np.arange(len(initial))[:, None] < degrees, initial, 1)
    columns = np.arange(num_dims)
    for j in range(1, _NUM_BITS):
        value = numbers[np.maximum(j - degrees, 0), columns]
        for k in range(1, min(j, int(degrees.max(initial=0))) + 1):
            is_set = (k <= degrees) & ((polynomials >> np.maximum(degrees - k, 0)) & 1 == 1)
            value = value ^ np.where(is_set, numbers[j - k] << k, 0)
        numbers[j] = np.where((j >= degrees) & (degrees > 0), value, numbers[j])
    return (numbers << np.arange(_NUM_BITS - 1, -1, -1)[:, None]).astype(np.uint32)
