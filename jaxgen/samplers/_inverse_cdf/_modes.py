"""Find where a one-dimensional density has its mass, with few hints and with fixed shapes.

Peaks of any width are found by zooming: every local maximum of the log-density on a grid has a
bracket, and each round cuts it eightfold. A peak 1e-8 wide is far below any grid, but its
log-density slopes toward it from afar. A piece of mass that nothing slopes toward is seen when a
point of the grid hits it: the grid is as fine as `inverse_cdf` promises. Around points that the
user names the density is looked at on a ladder of distances, each half of the last.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._arrays import namespace, put, repeat, top_k
from jaxgen.samplers._inverse_cdf._coordinate import (
    Coordinate,
    LogDensityFn,
    locate_point,
    reach,
)

_SCANNED = 20.0  # up to this |z| the grid is even: to distances of 2e8 units


class Search(NamedTuple):
    """How hard to look; all static.

    Attributes:
      num_points: points of the grid over all of the line.
      num_scanned: points of the grid where it is fine.
      num_modes: local maxima that are followed.
      num_rounds: rounds of zooming, each by a factor of 8.
      num_halvings: how often a distance from a mode, or an edge's bracket, is halved.
      num_edges: places where the density begins or ends inside the support.
      num_panels: panels that the mass may be cut into.
      depth: nats below the peak that still count.
    """

    num_points: int
    num_scanned: int
    num_modes: int
    num_rounds: int
    num_halvings: int
    num_edges: int
    num_panels: int
    depth: float


class Location(NamedTuple):
    """Where the mass is.

    Attributes:
      coordinate: the map; on the whole line centered on the highest mode with its scale.
      edges: ends of panels in z that cover the mass, increasing, `[P + 1]`; the last is repeated.
      peak: the largest log g seen, a scalar.
      has_nan: whether the log-density was NaN somewhere.
      has_jump: whether the density starts or stops abruptly inside its support.
    """

    coordinate: Coordinate
    edges: Array
    peak: Array
    has_nan: Array
    has_jump: Array


def locate(
    log_density: LogDensityFn, coordinate: Coordinate, named: Array, search: Search
) -> Location:
    """Find the modes, the scale of each, and panels around them.

    Args:
      log_density: log g over arrays of z.
      coordinate: the map of the support.
      named: points x that the user names, `[N]`.
      search: sizes.
    """
    xp = namespace(coordinate)
    places = locate_point(coordinate, named)
    seeds, has_nan = places, xp.zeros((), bool)
    if not any(coordinate.is_finite):
        rough = search._replace(num_scanned=0)  # what this misses the next look may find
        modes, _, has_nan = _find_modes(log_density, coordinate, places, rough)
        coordinate, modes = _recenter(log_density, coordinate, modes, search)
        places = locate_point(coordinate, named)
        seeds = xp.concatenate([places, modes])
    modes, is_mode, is_nan = _find_modes(log_density, coordinate, seeds, search)
    has_nan = has_nan | is_nan
    # Around a named point only up to the middle between it and its neighbors.
    end = xp.full(min(places.size, 1), xp.inf, places.dtype)
    gaps = xp.diff(places) / 2
    room = xp.minimum(xp.concatenate([end, gaps]), xp.concatenate([gaps, end]))
    sites = xp.concatenate([modes, places])
    room = xp.concatenate([xp.where(is_mode, xp.inf, -1), xp.where(xp.isfinite(places), room, -1)])
    points, values = _surround(log_density, coordinate, sites, room, search)
    has_nan = has_nan | _any_nan(coordinate, points, values)
    is_outside, values = values == -xp.inf, _clean(values)
    peak = xp.max(values)
    # An edge is of interest where the mass is, not where squares of x overflow.
    crossing = (is_outside[1:] != is_outside[:-1]) & (points[1:] < xp.inf)
    crossing = crossing & (xp.maximum(values[1:], values[:-1]) > peak - 1000)
    brackets = (points, is_outside, crossing)
    starts, start_values = _find_edges(log_density, coordinate, brackets, search)
    near = values >= peak - search.depth
    near = near | put(xp.roll(near, 1), 0, False) | put(xp.roll(near, -1), -1, False)
    last = xp.max(xp.where(near & (points < xp.inf), points, -xp.inf))
    starts = xp.where(start_values > peak - search.depth, starts, xp.inf)
    edges = xp.concatenate([xp.where(near, points, xp.inf), starts])
    # Where there are more than fit, the mass beyond the last shows in the error of the integral.
    edges = xp.minimum(xp.sort(edges), last)[: search.num_panels + 1]
    has_jump = xp.any(start_values > peak - 30)
    return Location(coordinate, edges, peak, has_nan, has_jump)


def _any_nan(coordinate: Coordinate, z: Array, values: Array) -> Array:
    # Far out, where x^8 overflows, a NaN is what honest densities give: −x⁴ + x² is −∞ + ∞.
    xp = namespace(values)
    return xp.any(xp.isnan(values) & (xp.abs(z) < reach(coordinate) / 8))


def _clean(values: Array) -> Array:
    # A pole that a point happens to hit, or a NaN reported elsewhere, must not attract the search.
    xp = namespace(values)
    return xp.where(xp.isfinite(values), values, -xp.inf)


def _find_modes(
    log_density: LogDensityFn, coordinate: Coordinate, places: Array, search: Search
) -> tuple[Array, Array, Array]:
    """Return positions of the highest local maxima, `[M]`, which are real, and if any was NaN.

    Looked at are a grid, and at every scale the surroundings of the places given.
    """
    xp = namespace(coordinate)
    steps = xp.asarray(np.linspace(-1, 1, search.num_points), coordinate.scale.dtype)
    scan = xp.asarray(np.linspace(-_SCANNED, _SCANNED, search.num_scanned), steps.dtype)
    grid = reach(coordinate) * (0.02 * steps + 0.98 * steps**3)
    around = (places[:, None] + _ladder(steps.dtype, search)[None]).ravel()
    around = xp.where(xp.isfinite(around), around, 0)  # an end of the support is named
    limit = reach(coordinate)
    grid = xp.clip(xp.sort(xp.concatenate([grid, scan, around])), -limit, limit)
    values = log_density(coordinate, grid)
    modes, is_mode = _zoom(log_density, coordinate, grid, _clean(values), search)
    return modes, is_mode, _any_nan(coordinate, grid, values)


def _zoom(
    log_density: LogDensityFn, coordinate: Coordinate, grid: Array, values: Array, search: Search
) -> tuple[Array, Array]:
    """Return positions of the highest local maxima, `[M]`, and which of them are real."""
    xp = namespace(grid)
    inner = (values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])
    heights, index = top_k(xp.where(inner, values[1:-1], -xp.inf), search.num_modes)
    # A density without an inner maximum has one point to start from.
    is_mode = put(heights > -xp.inf, 0, True)
    index = xp.where(heights > -xp.inf, index, xp.argmax(values[1:-1]))
    fractions = xp.asarray(np.linspace(0, 1, 17), grid.dtype)
    rows = np.arange(search.num_modes)

    def cut(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = bracket
        points = lower[:, None] + (upper - lower)[:, None] * fractions[None]
        best = xp.argmax(_clean(log_density(coordinate, points)), axis=1)
        return points[rows, xp.maximum(best - 1, 0)], points[rows, xp.minimum(best + 1, 16)]

    lower, upper = repeat(search.num_rounds, cut, (grid[index], grid[index + 2]))
    return lower + (upper - lower) / 2, is_mode


def _recenter(
    log_density: LogDensityFn, coordinate: Coordinate, modes: Array, search: Search
) -> tuple[Coordinate, Array]:
    """Move the center of the sinh map to the highest mode, and its unit to that mode's width."""
    xp = namespace(modes)
    heights = _clean(log_density(coordinate, modes))
    mode = modes[xp.argmax(heights)]
    # A density that grows without end has no mode to go to; it is found out when it is integrated.
    mode = xp.where(xp.abs(mode) < reach(coordinate) / 2, mode, 0)
    distances = _distances(modes.dtype, search)
    sides = xp.stack([mode - distances, mode + distances])
    drops = xp.max(heights) - log_density(coordinate, sides)
    wide = xp.all(~(drops < 0.5), axis=0)
    is_found = xp.max(heights) > -xp.inf
    width = xp.where(is_found, xp.min(xp.where(wide, distances, 4.0)), 1)
    mode = xp.where(is_found, mode, 0)
    x = coordinate.anchors[0] + coordinate.scale * xp.sinh(xp.append(modes, mode))
    center = x[-1].astype(np.float32).astype(x.dtype)  # a table in float32 then stores it exactly
    scale = width * xp.cosh(mode) * coordinate.scale
    offsets = x[:-1] - center
    moved = Coordinate(xp.stack([center, center]), scale, coordinate.is_finite)
    return moved, xp.arcsinh(offsets / scale)


def _distances(dtype: jnp.dtype, search: Search) -> np.ndarray:
    return np.asarray(4.0 * 0.5 ** np.arange(search.num_halvings), dtype)


def _ladder(dtype: jnp.dtype, search: Search) -> np.ndarray:
    """Return distances to either side, increasing, with zero in the middle."""
    distances = _distances(dtype, search)
    return np.concatenate([-distances, np.zeros(1, dtype), distances[::-1]])


def _surround(
    log_density: LogDensityFn, coordinate: Coordinate, sites: Array, room: Array, search: Search
) -> tuple[Array, Array]:
    """Return points around every site where log g changes, and over the line, and log g there.

    `room` says how far from each site to look; where it is negative, not at all.
    """
    xp = namespace(sites)
    ladder = _ladder(sites.dtype, search)
    near = sites[:, None] + ladder[None]
    # Two units apart: panels of that width are cut further where the density asks for it.
    steps = 2.0 * np.arange(int(np.log(float(jnp.finfo(sites.dtype).max)) / 2))
    whole = xp.asarray(np.concatenate([-steps[:0:-1], steps]), sites.dtype)
    limit = reach(coordinate)
    points = xp.clip(xp.concatenate([near.ravel(), whole]), -limit, limit)
    points = xp.where(xp.isnan(points), limit, points)
    values = log_density(coordinate, points)
    heights = values[: near.size].reshape(near.shape)
    # Steps over which log g stays the same tell nothing.
    changes = ~(xp.abs(heights[:, 1:] - heights[:, :-1]) <= 0.02)
    changes = changes & ~((heights[:, 1:] == -xp.inf) & (heights[:, :-1] == -xp.inf))
    none = np.zeros((sites.size, 1), bool)
    tells = xp.concatenate([changes, none], 1) | xp.concatenate([none, changes], 1)
    tells = put(tells, (slice(None), search.num_halvings), True)
    tells = tells & (np.abs(ladder)[None] <= room[:, None])
    keep = xp.concatenate([tells.ravel(), np.ones(whole.shape, bool)])
    points, values = xp.where(keep, points, xp.inf), xp.where(keep, values, -xp.inf)
    order = xp.argsort(points)
    return points[order], values[order]


def _find_edges(
    log_density: LogDensityFn,
    coordinate: Coordinate,
    brackets: tuple[Array, Array, Array],
    search: Search,
) -> tuple[Array, Array]:
    """Find where log g turns −inf, to the last bit: positions on the finite side, and values.

    Where there are fewer such places than looked for, values are −inf. `brackets` are points,
    which of them are outside, and between which to look.
    """
    points, is_outside, crossing = brackets
    xp = namespace(points)
    # The widest brackets first: those around named points are closed already.
    gaps = xp.where(crossing, points[1:] - points[:-1], 0)
    gaps, index = top_k(gaps, search.num_edges)
    first = xp.where(is_outside[index], points[index + 1], points[index])
    second = xp.where(is_outside[index], points[index], points[index + 1])

    def halve(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        within, without = bracket
        middle = within + (without - within) / 2
        finite = log_density(coordinate, middle) > -xp.inf
        return xp.where(finite, middle, within), xp.where(finite, without, middle)

    num_rounds = search.num_halvings + 8 if xp is jnp or xp.any(crossing) else 0
    within, _ = repeat(num_rounds, halve, (first, second))
    return within, xp.where(gaps > 0, _clean(log_density(coordinate, within)), -xp.inf)
