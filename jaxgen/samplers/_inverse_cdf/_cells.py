"""Polynomial cells of a quantile function, found by the bits of a floating-point number.

A tail holds v in (0, ½]. Its cells are octaves of v cut into equal parts, so the exponent and the
leading mantissa bits of v are the cell's index: nothing is searched, and every octave of a tail is
resolved alike. Where one polynomial does not do (a gap between modes, a kink), the cell points to
64 cells of its own, indexed by the next six bits, and these to others.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, locate_offset, log_slope, offset
from jaxgen.samplers._inverse_cdf._panels import Integral, Panels, find_quantile, mass_below

CHILD_BITS = 6
_NUM_CHILDREN = 2**CHILD_BITS
# Where a cell is tested, as parts of its width; fewer places for tables built under a trace.
_CHECKS = {8: (0.01, 0.12, 0.37, 0.5, 0.63, 0.88, 0.99), 4: (0.1, 0.4, 0.9)}


class Shape(NamedTuple):
    """The static shape of a table.

    Attributes:
      num_octaves: octaves of v, down from ½.
      mantissa_bits: leading bits that cut an octave.
      degree: of the polynomial on a cell.
      num_levels: how often a cell may be cut into 64.
      num_parents: cells that may be cut, for each tail and level.
    """

    num_octaves: int
    mantissa_bits: int
    degree: int
    num_levels: int
    num_parents: int


class Cells(NamedTuple):
    """Cells of both tails, the lower tail's C first.

    With t in [−½, ½) the position of v in its cell, x − anchor = offset + Σ_k slopes_k t^k.

    Attributes:
      anchors: what offsets are measured from in each tail, `[2]`.
      is_upper: which anchor of the coordinate each tail uses, booleans `[2]`.
      center: x at the middle of each cell, `[2 C]`.
      offset: x less the tail's anchor at the middle of each cell, `[2 C]`.
      slopes: coefficients of t, t², …, `[degree, 2 C]`.
      child: index of the first of 64 finer cells, or 0, int32 `[2 C]`.
    """

    anchors: Array
    is_upper: Array
    center: Array
    offset: Array
    slopes: Array
    child: Array


class _Rows(NamedTuple):
    # Cells while they are built, one row a tail: left end and width in v, coefficients, how many
    # times too large the error is, and the first child.
    left: Array
    width: Array
    coefficients: Array
    excess: Array
    child: Array


def build_cells(
    integral: Integral, coordinate: Coordinate, shape: Shape, dtype: str, is_eager: bool
) -> tuple[Cells, Array, int]:
    """Fit the quantile function of both tails.

    Returns the cells, points v `[2, N]` that test every cell, and the number of levels in use.

    Eagerly, cutting stops when every cell is accurate enough; under a trace all levels are built.
    """
    is_upper = nearer_end(integral)
    rows = _fit(
        integral, coordinate, is_upper, *_root_cells(shape, integral.error.dtype), shape, dtype
    )
    num_levels = 0
    while num_levels < shape.num_levels and not (is_eager and not bool(jnp.any(rows.excess > 1))):
        rows = _cut(integral, coordinate, is_upper, rows, shape, dtype)
        num_levels += 1
    size = rows.left.shape[1]
    anchors = coordinate.anchors[is_upper.astype(jnp.int32)][:, None]
    first = jnp.asarray([[0], [size]], jnp.int32)
    largest = float(jnp.finfo(dtype).max) / 4

    def flat(x: Array) -> Array:
        return jnp.clip(x, -largest, largest).astype(dtype).reshape(*x.shape[:-2], 2 * size)

    coefficients = jnp.moveaxis(rows.coefficients, -1, 0)
    child = jnp.where(rows.child > 0, rows.child + first, 0).ravel()
    center = flat(anchors + coefficients[0])
    cells = Cells(
        anchors[:, 0].astype(dtype),
        is_upper,
        center,
        flat(coefficients[0]),
        flat(coefficients[1:]),
        child,
    )
    checks = _checks(rows.left.dtype)
    v = rows.left[:, :, None] + rows.width[:, :, None] * checks[None, None]
    return cells, v.reshape(2, -1), num_levels


def _root_cells(shape: Shape, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return left end and width in v of every octave's parts, the same for both tails, `[2, C]`."""
    octave = np.repeat(np.arange(-shape.num_octaves, 0) - 1.0, 2**shape.mantissa_bits)
    part = np.tile(np.arange(2**shape.mantissa_bits), shape.num_octaves) / 2**shape.mantissa_bits
    left, width = 2.0**octave * (1 + part), 2.0 ** (octave - shape.mantissa_bits)
    return jnp.asarray(np.stack([left] * 2), dtype), jnp.asarray(np.stack([width] * 2), dtype)


@jax.jit
def nearer_end(integral: Integral) -> Array:
    """Return for each tail whether its far quantiles are nearer to the upper end, booleans `[2]`.

    Only the distance to an end can express quantiles at a pole there; but where the tail dies long
    before its end (a steep truncated density), the other end is the better anchor.
    """
    far = jnp.full((2, 1), 2.0**-30, integral.error.dtype)
    z = jax.vmap(partial(find_quantile, num_steps=1))(lax.stop_gradient(integral.tails), far)
    return jnp.stack([z[0, 0] > 0, z[1, 0] < 0])


def _cut(
    integral: Integral,
    coordinate: Coordinate,
    is_upper: Array,
    rows: _Rows,
    shape: Shape,
    dtype: str,
) -> _Rows:
    """Give the worst cells of each tail 64 children."""
    size = rows.left.shape[1]
    worst, parent = lax.top_k(rows.excess, shape.num_parents)
    tail = jnp.arange(2)[:, None]
    parts = jnp.asarray(np.arange(_NUM_CHILDREN) / _NUM_CHILDREN, rows.left.dtype)[None, None]
    width = rows.width[tail, parent][:, :, None]
    left = (rows.left[tail, parent][:, :, None] + width * parts).reshape(2, -1)
    width = jnp.broadcast_to(width / _NUM_CHILDREN, (*parent.shape, _NUM_CHILDREN)).reshape(2, -1)
    new = _fit(integral, coordinate, is_upper, left, width, shape, dtype)
    # A cell that is good already keeps its polynomial: its children are built but not pointed to.
    used = jnp.repeat(worst > 1, _NUM_CHILDREN, axis=1)
    new = new._replace(excess=jnp.where(used, new.excess, 0))
    first = size + _NUM_CHILDREN * jnp.arange(shape.num_parents, dtype=jnp.int32)[None]
    child = rows.child.at[tail, parent].set(jnp.where(worst > 1, first, 0))
    excess = jnp.where(child > 0, 0, rows.excess)
    rows = rows._replace(child=child, excess=excess)
    return jax.tree.map(lambda old, add: jnp.concatenate([old, add], 1), rows, new)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _fit(
    integral: Integral,
    coordinate: Coordinate,
    is_upper: Array,
    left: Array,
    width: Array,
    shape: Shape,
    dtype: str,
) -> _Rows:
    """Interpolate the quantile function at Chebyshev-Lobatto nodes of cells, and test between."""
    num_nodes = shape.degree + 1
    nodes = (1 - np.cos(np.pi * np.arange(num_nodes) / shape.degree)) / 2
    interpolate = jnp.asarray(np.linalg.inv(np.vander(nodes - 0.5, increasing=True)).T, left.dtype)
    v = left[:, :, None] + width[:, :, None] * jnp.asarray(nodes, left.dtype)[None, None]
    num_steps = 40 if left.dtype == jnp.float64 else 1
    z = jax.vmap(partial(find_quantile, num_steps=num_steps))(integral.tails, v.reshape(2, -1))
    z = z * jnp.asarray([[1], [-1]], z.dtype)
    offsets = offset(coordinate, z, is_upper[:, None]).reshape(v.shape)
    coefficients = offsets @ interpolate
    checks = _checks(left.dtype)
    v = left[:, :, None] + width[:, :, None] * checks[None, None]
    powers = (checks[:, None] - 0.5) ** jnp.arange(num_nodes)[None]
    error, excess = _test(integral, coordinate, is_upper, coefficients @ powers.T, v, dtype)
    # A chord stays between the quantiles at the cell's ends, which no polynomial across a gap does.
    first, last = offsets[..., 0], offsets[..., -1]
    chord = jnp.stack([first + (last - first) / 2, last - first], -1)
    chord = jnp.pad(chord, ((0, 0), (0, 0), (0, num_nodes - 2)))
    strays = ~(error < width / 4)
    coefficients = jnp.where(strays[..., None], chord, coefficients)
    excess = jnp.where(strays, width / _tolerance(left, dtype), excess)
    return _Rows(left, width, coefficients, excess, jnp.zeros(left.shape, jnp.int32))


def _checks(dtype: jnp.dtype) -> Array:
    return jnp.asarray(_CHECKS[dtype.itemsize], dtype)


def _test(
    integral: Integral, coordinate: Coordinate, is_upper: Array, fitted: Array, v: Array, dtype: str
) -> tuple[Array, Array]:
    """Return the error in v of fitted offsets `[2, C, n]`, and how many times too large it is."""
    integral, fitted = lax.stop_gradient((integral, fitted))
    reached, slope = tail_mass(integral.tails, coordinate, is_upper, fitted.reshape(2, -1))
    error = jnp.abs(reached.reshape(v.shape) - v)
    rounding = 4 * jnp.finfo(v.dtype).eps * jnp.abs(fitted) * slope.reshape(v.shape)
    tolerance = _tolerance(v, dtype) + rounding  # finer cells do not help against rounding
    return jnp.max(error, axis=2), jnp.max(error / tolerance, axis=2)


def tail_mass(
    tails: Panels, coordinate: Coordinate, is_upper: Array, offsets: Array
) -> tuple[Array, Array]:
    """Return the mass beyond points in each tail, and the density over x there, both `[2, N]`.

    Args:
      tails: panels from either end.
      coordinate: the map.
      is_upper: which anchor the offsets of each tail are from, `[2]`.
      offsets: of the points, `[2, N]`.
    """
    z = locate_offset(coordinate, offsets, is_upper[:, None])
    mass, density = jax.vmap(mass_below)(tails, z * jnp.asarray([[1], [-1]], z.dtype))
    return mass, density * jnp.exp(-log_slope(coordinate, z))


@partial(jax.jit, static_argnames=("shape", "num_levels"))
def measure(
    cells: Cells,
    v: Array,
    integral: Integral,
    coordinate: Coordinate,
    shape: Shape,
    num_levels: int,
) -> tuple[Array, Array]:
    """Measure the largest u-error of a finished table, and its largest excess over rounding's.

    The points v, `[2, N]`, are evaluated as `sample` does, in the dtype of the table; F is taken
    in the dtype of the integral.

    Returns:
      max `|F(x(v)) − v|`, and the same less 2.5 times the u-error of a correctly rounded x; both
      with the estimated error of F. Each point counts as x or as its offset, whichever is closer.
    """
    cells, integral = lax.stop_gradient((cells, integral))
    wide = integral.error.dtype
    v = v.astype(cells.center.dtype)
    tail = jnp.broadcast_to(jnp.asarray([[False], [True]]), v.shape)
    anchors = coordinate.anchors[cells.is_upper.astype(jnp.int32)][:, None]
    offsets = evaluate(cells, cells.offset, tail, v, shape, num_levels)
    x = evaluate(cells, cells.center, tail, v, shape, num_levels)
    spacing = jnp.abs(jnp.nextafter(x, jnp.full_like(x, jnp.inf)) - x).astype(wide)
    mass, slope = tail_mass(integral.tails, coordinate, cells.is_upper, offsets.astype(wide))
    as_offset = mass - v.astype(wide)
    # x is another rounding of the same quantile, so a step from the offset gives its error.
    away = x.astype(wide) - anchors - offsets.astype(wide)
    as_x = as_offset + jnp.asarray([[1], [-1]], wide) * slope * away
    error = jnp.minimum(jnp.abs(as_offset), jnp.abs(as_x))
    excess = jnp.max(error - 2.5 * slope * spacing / 2)
    return jnp.max(error) + integral.error, excess + integral.error


def _tolerance(v: Array, dtype: str) -> Array:
    """Return the error in v that a cell may have: absolute, and relative in the tail."""
    if dtype == "float64":
        return jnp.where(v > 2.0**-42, jnp.minimum(2e-13, 5e-9 * v), 1e-6 * v)
    return jnp.minimum(5e-8, 2e-6 * v)


def evaluate(
    cells: Cells, center: Array, is_upper: Array, v: Array, shape: Shape, num_levels: int
) -> Array:
    """Return `center` of the cell of v plus its polynomial; v is clipped to the octaves there are.

    Args:
      cells: the cells.
      center: `cells.center` for x itself, `cells.offset` for its offset from the anchor.
      is_upper: which tail, booleans of any shape.
      v: mass beyond the point, in (0, ½], floats of the cells' dtype, same shape.
      shape: of the table, static.
      num_levels: levels of children in use, static.
    """
    index, t = _find_cell(cells.child, is_upper, v, shape, num_levels)
    total = _take(cells.slopes[-1], index)
    for slopes in cells.slopes[-2::-1]:
        total = total * t + _take(slopes, index)
    return _take(center, index) + total * t


def _find_cell(
    child: Array, is_upper: Array, v: Array, shape: Shape, num_levels: int
) -> tuple[Array, Array]:
    """Find the index of the cell that holds v, and where v is in it, t in [−½, ½)."""
    word, total_bits, bias = _FORMATS[v.dtype.name]
    first = (bias - 1 - shape.num_octaves) << total_bits
    last = ((bias - 1) << total_bits) - 1
    v = jnp.clip(v, 2.0 ** (-1 - shape.num_octaves), 0.5)
    bits = jnp.minimum(lax.bitcast_convert_type(lax.stop_gradient(v), word), last)
    key = bits - first
    rest = jnp.asarray(total_bits - shape.mantissa_bits, word)  # bits of v that are within its cell
    index = (key >> rest).astype(jnp.int32) + jnp.where(is_upper, child.shape[0] // 2, 0)
    for _ in range(num_levels):
        finer = rest - CHILD_BITS
        first_child = _take(child, index)
        step = ((key >> finer) & (_NUM_CHILDREN - 1)).astype(jnp.int32)
        index = jnp.where(first_child > 0, first_child + step, index)
        rest = jnp.where(first_child > 0, finer, rest)
    start = lax.bitcast_convert_type((bits >> rest) << rest, v.dtype)
    # The reciprocal of the cell's width is a power of two, put together from its exponent.
    exponent = 2 * bias - (bits >> total_bits) + total_bits - rest
    scale = lax.bitcast_convert_type(exponent << total_bits, v.dtype)
    return index, (v - start) * scale - 0.5


_FORMATS = {  # the integer type, the bits of the mantissa, and the exponent's bias
    "float32": (jnp.int32, 23, 127),
    "float64": (jnp.int64, 52, 1023),
}


def _take(array: Array, index: Array) -> Array:
    return array.at[index].get(mode="promise_in_bounds")
