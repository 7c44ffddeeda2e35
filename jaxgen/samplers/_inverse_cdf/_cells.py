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

from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._arrays import (
    bitcast,
    hold,
    namespace,
    over_tails,
    put,
    take,
    top_k,
)
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
    # Cells while they are built, one row a tail: left end and width in v, coefficients, the error
    # in v where it is too large or else 0, and the first child.
    left: Array
    width: Array
    coefficients: Array
    error: Array
    child: Array


class Errors(NamedTuple):
    """The largest u-errors |F(x(v)) − v| of a table, each with the estimated error of F.

    Attributes:
      u_error: each point counts as x or as its offset from the anchor, whichever is closer.
      excess: the same less 2.5 times the u-error of a correctly rounded x.
      x_error: of x itself, with its rounding; at most 1.
    """

    u_error: Array
    excess: Array
    x_error: Array


def build_cells(
    integral: Integral, coordinate: Coordinate, shape: Shape, dtype: str
) -> tuple[Cells, Array, int]:
    """Fit the quantile function of both tails.

    Returns the cells, points v `[2, N]` that test every cell, and the number of levels in use.

    In NumPy, cutting stops when every cell is accurate enough; under a trace all levels are built.
    """
    xp = namespace(integral)
    is_upper = nearer_end(integral)
    rows = _fit(integral, coordinate, is_upper, *_root_cells(shape, integral), shape, dtype)
    num_levels = 0
    while num_levels < shape.num_levels and (xp is jnp or xp.any(rows.error > 0)):
        rows = _cut(integral, coordinate, is_upper, rows, shape, dtype)
        num_levels += 1
    size = rows.left.shape[1]
    anchors = coordinate.anchors[is_upper.astype(np.int32)][:, None]
    largest = float(np.finfo(dtype).max) / 4

    def flat(x: Array) -> Array:
        return xp.clip(x, -largest, largest).astype(dtype).reshape(*x.shape[:-2], 2 * size)

    coefficients = xp.moveaxis(rows.coefficients, -1, 0)
    first = np.asarray([[0], [size]], np.int32)
    cells = Cells(
        anchors[:, 0].astype(dtype),
        is_upper,
        flat(anchors + coefficients[0]),
        flat(coefficients[0]),
        flat(coefficients[1:]),
        xp.where(rows.child > 0, rows.child + first, 0).ravel(),
    )
    checks = _checks(rows.left.dtype)
    v = rows.left[:, :, None] + rows.width[:, :, None] * checks[None, None]
    return cells, v.reshape(2, -1), num_levels


def _root_cells(shape: Shape, integral: Integral) -> tuple[Array, Array]:
    """Return left end and width in v of every octave's parts, the same for both tails, `[2, C]`."""
    xp, dtype = namespace(integral), integral.error.dtype
    octave = np.repeat(np.arange(-shape.num_octaves, 0) - 1.0, 2**shape.mantissa_bits)
    part = np.tile(np.arange(2**shape.mantissa_bits), shape.num_octaves) / 2**shape.mantissa_bits
    left, width = 2.0**octave * (1 + part), 2.0 ** (octave - shape.mantissa_bits)
    return xp.asarray(np.stack([left] * 2), dtype), xp.asarray(np.stack([width] * 2), dtype)


def nearer_end(integral: Integral) -> Array:
    """Return for each tail whether its far quantiles are nearer to the upper end, booleans `[2]`.

    Only the distance to an end can express quantiles at a pole there; but where the tail dies long
    before its end (a steep truncated density), the other end is the better anchor.
    """
    xp = namespace(integral)
    middle = xp.zeros((2, 1), integral.error.dtype)
    beyond = over_tails(lambda *args: mass_below(*args)[0], hold(integral.tails), middle)[:, 0]
    return (beyond < 2.0**-30) == np.asarray([True, False])


def _cut(
    integral: Integral,
    coordinate: Coordinate,
    is_upper: Array,
    rows: _Rows,
    shape: Shape,
    dtype: str,
) -> _Rows:
    """Give the worst cells of each tail 64 children."""
    xp = namespace(rows)
    size = rows.left.shape[1]
    worst, parent = top_k(rows.error, shape.num_parents)
    tail = np.arange(2)[:, None]
    parts = np.asarray(np.arange(_NUM_CHILDREN) / _NUM_CHILDREN, rows.left.dtype)[None, None]
    width = rows.width[tail, parent][:, :, None]
    left = (rows.left[tail, parent][:, :, None] + width * parts).reshape(2, -1)
    width = xp.broadcast_to(width / _NUM_CHILDREN, (*parent.shape, _NUM_CHILDREN)).reshape(2, -1)
    new = _fit(integral, coordinate, is_upper, left, width, shape, dtype)
    # A cell that is good already keeps its polynomial: its children are built but not pointed to.
    used = xp.repeat(worst > 0, _NUM_CHILDREN, axis=1)
    new = new._replace(error=xp.where(used, new.error, 0))
    first = size + _NUM_CHILDREN * np.arange(shape.num_parents, dtype=np.int32)[None]
    child = put(rows.child, (tail, parent), xp.where(worst > 0, first, 0))
    rows = rows._replace(child=child, error=xp.where(child > 0, 0, rows.error))
    return jax.tree.map(lambda old, add: xp.concatenate([old, add], 1), rows, new)


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
    xp = namespace(left)
    num_nodes = shape.degree + 1
    nodes = (1 - np.cos(np.pi * np.arange(num_nodes) / shape.degree)) / 2
    interpolate = np.asarray(np.linalg.inv(np.vander(nodes - 0.5, increasing=True)).T, left.dtype)
    v = left[:, :, None] + width[:, :, None] * np.asarray(nodes, left.dtype)[None, None]
    num_steps = 40 if left.dtype == np.float64 else 1
    quantile = partial(find_quantile, num_steps=num_steps)
    z = over_tails(quantile, integral.tails, v.reshape(2, -1)) * np.asarray([[1], [-1]], left.dtype)
    offsets = offset(coordinate, z, is_upper[:, None]).reshape(v.shape)
    coefficients = offsets @ interpolate
    checks = _checks(left.dtype)
    v = left[:, :, None] + width[:, :, None] * checks[None, None]
    powers = (checks[:, None] - 0.5) ** np.arange(num_nodes)[None]
    powers = powers.astype(left.dtype)
    error, is_good = _test(integral, coordinate, is_upper, coefficients @ powers.T, v, dtype)
    # A chord stays between the quantiles at the cell's ends, which no polynomial across a gap does.
    first, last = offsets[..., 0], offsets[..., -1]
    chord = xp.stack([first + (last - first) / 2, last - first], -1)
    chord = xp.pad(chord, ((0, 0), (0, 0), (0, num_nodes - 2)))
    strays = ~(error < width / 4)
    coefficients = xp.where(strays[..., None], chord, coefficients)
    error = xp.where(strays, width, xp.where(is_good, 0, error))
    return _Rows(left, width, coefficients, error, xp.zeros(left.shape, np.int32))


def _checks(dtype: np.dtype) -> np.ndarray:
    return np.asarray(_CHECKS[dtype.itemsize], dtype)


def _test(
    integral: Integral, coordinate: Coordinate, is_upper: Array, fitted: Array, v: Array, dtype: str
) -> tuple[Array, Array]:
    """Return the error in v of fitted offsets `[2, C, n]`, and whether it is small enough."""
    xp = namespace(fitted)
    integral, fitted = hold((integral, fitted))
    reached, slope = tail_mass(integral.tails, coordinate, is_upper, fitted.reshape(2, -1))
    error = xp.abs(reached.reshape(v.shape) - v)
    rounding = 4 * np.finfo(v.dtype).eps * xp.abs(fitted) * slope.reshape(v.shape)
    tolerance = _tolerance(v, dtype) + rounding  # finer cells do not help against rounding
    return xp.max(error, axis=2), xp.all(error <= tolerance, axis=2)


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
    mass, density = over_tails(mass_below, tails, z * np.asarray([[1], [-1]], z.dtype))
    return mass, density * namespace(z).exp(-log_slope(coordinate, z))


def measure(
    cells: Cells,
    v: Array,
    integral: Integral,
    coordinate: Coordinate,
    shape: Shape,
    num_levels: int,
) -> Errors:
    """Measure the largest u-errors of a finished table.

    The points v, `[2, N]`, are evaluated as `sample` does, in the dtype of the table; F is taken
    in the dtype of the integral.
    """
    xp = namespace(integral)
    cells, integral = hold((cells, integral))
    wide = integral.error.dtype
    v = v.astype(cells.center.dtype)
    tail = xp.broadcast_to(np.asarray([[False], [True]]), v.shape)
    anchors = coordinate.anchors[cells.is_upper.astype(np.int32)][:, None]
    offsets = evaluate(cells, cells.offset, tail, v, shape, num_levels)
    x = evaluate(cells, cells.center, tail, v, shape, num_levels)
    spacing = xp.abs(xp.nextafter(x, xp.full_like(x, xp.inf)) - x).astype(wide)
    exact = x.astype(wide) - anchors
    # Where x falls off an edge, the slope that its rounding has is that beside it.
    beside = [exact - 2 * spacing, exact + 2 * spacing]
    places = xp.concatenate([offsets.astype(wide), exact, *beside], axis=1)
    mass, slope = tail_mass(integral.tails, coordinate, cells.is_upper, places)
    as_offset, as_x, *_ = (m - v.astype(wide) for m in xp.split(mass, 4, axis=1))
    slope = xp.where(xp.isfinite(slope), slope, 0)  # not so beyond an end of the support
    slope = xp.max(xp.stack(xp.split(slope, 4, axis=1)), axis=0)
    error = xp.minimum(xp.abs(as_offset), xp.abs(as_x))
    excess = xp.max(error - 2.5 * slope * spacing / 2)
    of_x = xp.minimum(xp.max(xp.abs(as_x)), 1)
    return Errors(*(e + integral.error for e in (xp.max(error), excess, of_x)))


def _tolerance(v: Array, dtype: str) -> Array:
    """Return the error in v that a cell may have: absolute, and relative in the tail."""
    xp = namespace(v)
    if dtype == "float64":
        return xp.where(v > 2.0**-42, xp.minimum(2e-13, 5e-9 * v), 1e-6 * v)
    return xp.minimum(5e-8, 2e-6 * v)


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
    total = take(cells.slopes[-1], index)
    for slopes in cells.slopes[-2::-1]:
        total = total * t + take(slopes, index)
    return take(center, index) + total * t


def _find_cell(
    child: Array, is_upper: Array, v: Array, shape: Shape, num_levels: int
) -> tuple[Array, Array]:
    """Find the index of the cell that holds v, and where v is in it, t in [−½, ½)."""
    xp = namespace(v)
    word, total_bits, bias = _FORMATS[v.dtype.name]
    first = (bias - 1 - shape.num_octaves) << total_bits
    last = ((bias - 1) << total_bits) - 1
    v = xp.clip(v, 2.0 ** (-1 - shape.num_octaves), 0.5)
    bits = xp.minimum(bitcast(hold(v), word), last)
    key = bits - first
    rest = xp.asarray(total_bits - shape.mantissa_bits, word)  # bits of v that are within its cell
    index = (key >> rest).astype(np.int32) + xp.where(is_upper, child.shape[0] // 2, 0)
    for _ in range(num_levels):
        finer = rest - CHILD_BITS
        first_child = take(child, index)
        step = ((key >> finer) & (_NUM_CHILDREN - 1)).astype(np.int32)
        index = xp.where(first_child > 0, first_child + step, index)
        rest = xp.where(first_child > 0, finer, rest)
    start = bitcast((bits >> rest) << rest, v.dtype)
    # The reciprocal of the cell's width is a power of two, put together from its exponent.
    exponent = 2 * bias - (bits >> total_bits) + total_bits - rest
    scale = bitcast(exponent << total_bits, v.dtype)
    return index, (v - start) * scale - 0.5


_FORMATS = {  # the integer type, the bits of the mantissa, and the exponent's bias
    "float32": (np.int32, 23, 127),
    "float64": (np.int64, 52, 1023),
}
