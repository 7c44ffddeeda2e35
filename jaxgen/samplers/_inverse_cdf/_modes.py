"""Find where a one-dimensional density has its mass, without a hint and with fixed shapes.

Peaks of any width are found by zooming: every local maximum of the log-density on a coarse grid
has a bracket, and each round cuts it eightfold. A peak 1e-8 wide is far below any grid, but its
log-density slopes toward it from afar. What no grid point can see is a spike under a broad bump.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, LogDensityFn, reach


class Search(NamedTuple):
    """How hard to look; all static.

    Attributes:
      num_points: points of the first grid.
      num_modes: local maxima that are followed.
      num_rounds: rounds of zooming, each by a factor of 8.
      num_halvings: how often a distance from a mode, or an edge's bracket, is halved.
      num_edges: places where the density begins or ends inside the support.
      num_panels: panels that the mass may be cut into.
      depth: nats below the peak that still count.
    """

    num_points: int
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


def locate(log_density: LogDensityFn, coordinate: Coordinate, search: Search) -> Location:
    """Find the modes, the scale of each, and panels around them.

    Args:
      log_density: log g over arrays of z.
      coordinate: the map of the support.
      search: sizes.
    """
    steps = jnp.linspace(-1, 1, search.num_points, dtype=coordinate.scale.dtype)
    grid = reach(coordinate) * (0.02 * steps + 0.98 * steps**3)  # finest where x is of order one
    values = log_density(coordinate, grid)
    has_nan = _any_nan(coordinate, grid, values)
    modes, is_mode = _zoom(log_density, coordinate, grid, _clean(values), search)
    if not any(coordinate.is_finite):
        coordinate, modes = _recenter(log_density, coordinate, modes, search)
    points, values = _surround(log_density, coordinate, modes, is_mode, search)
    has_nan |= _any_nan(coordinate, points, values)
    values = _clean(values)
    peak = jnp.max(values)
    starts, start_values = _find_edges(log_density, coordinate, points, values, search)
    near = values >= peak - search.depth
    near |= jnp.roll(near, 1).at[0].set(False) | jnp.roll(near, -1).at[-1].set(False)
    last = jnp.max(jnp.where(near & (points < jnp.inf), points, -jnp.inf))
    starts = jnp.where(start_values > peak - search.depth, starts, jnp.inf)
    edges = jnp.concatenate([jnp.where(near, points, jnp.inf), starts])
    edges = jnp.minimum(jnp.sort(edges), last)[: search.num_panels + 1]
    has_jump = jnp.any(start_values > peak - 30)
    return Location(coordinate, edges, peak, has_nan, has_jump)


def _any_nan(coordinate: Coordinate, z: Array, values: Array) -> Array:
    # Far out, where x^8 overflows, a NaN is what honest densities give: −x⁴ + x² is −∞ + ∞.
    return jnp.any(jnp.isnan(values) & (jnp.abs(z) < reach(coordinate) / 8))


def _clean(values: Array) -> Array:
    # A pole that a point happens to hit, or a NaN reported elsewhere, must not attract the search.
    return jnp.where(jnp.isfinite(values), values, -jnp.inf)


def _zoom(
    log_density: LogDensityFn, coordinate: Coordinate, grid: Array, values: Array, search: Search
) -> tuple[Array, Array]:
    """Return positions of the highest local maxima, `[M]`, and which of them are real."""
    inner = (values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])
    heights, index = lax.top_k(jnp.where(inner, values[1:-1], -jnp.inf), search.num_modes)
    # A density without an inner maximum has one point to start from.
    is_mode = (heights > -jnp.inf).at[0].set(True)
    index = jnp.where(heights > -jnp.inf, index, jnp.argmax(values[1:-1]))
    fractions = jnp.linspace(0, 1, 17, dtype=grid.dtype)

    def cut(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = bracket
        points = lower[:, None] + (upper - lower)[:, None] * fractions[None]
        best = jnp.argmax(_clean(log_density(coordinate, points)), axis=1)
        rows = jnp.arange(search.num_modes)
        return points[rows, jnp.maximum(best - 1, 0)], points[rows, jnp.minimum(best + 1, 16)]

    lower, upper = lax.fori_loop(0, search.num_rounds, cut, (grid[index], grid[index + 2]))
    return lower + (upper - lower) / 2, is_mode


def _recenter(
    log_density: LogDensityFn, coordinate: Coordinate, modes: Array, search: Search
) -> tuple[Coordinate, Array]:
    """Move the center of the sinh map to the highest mode, and its unit to that mode's width."""
    heights = _clean(log_density(coordinate, modes))
    mode = modes[jnp.argmax(heights)]
    # A density that grows without end has no mode to go to; it is found out when it is integrated.
    mode = jnp.where(jnp.abs(mode) < reach(coordinate) / 2, mode, 0)
    distances = _distances(modes.dtype, search)
    sides = jnp.stack([mode - distances, mode + distances])
    drops = jnp.max(heights) - log_density(coordinate, sides)
    wide = jnp.all(~(drops < 0.5), axis=0)
    width = jnp.min(jnp.where(wide, distances, 4.0))
    x = coordinate.anchors[0] + coordinate.scale * jnp.sinh(mode)
    center = x.astype(jnp.float32).astype(x.dtype)  # a table in float32 then stores it exactly
    scale = width * jnp.cosh(mode) * coordinate.scale
    offsets = (coordinate.anchors[0] + coordinate.scale * jnp.sinh(modes)) - center
    moved = Coordinate(jnp.stack([center, center]), scale, coordinate.is_finite)
    return moved, jnp.arcsinh(offsets / scale)


def _distances(dtype: jnp.dtype, search: Search) -> Array:
    return jnp.asarray(4.0 * 0.5 ** np.arange(search.num_halvings), dtype)


def _surround(
    log_density: LogDensityFn, coordinate: Coordinate, modes: Array, is_mode: Array, search: Search
) -> tuple[Array, Array]:
    """Return points at every scale around every mode, and over the line, and log g there."""
    distances = _distances(modes.dtype, search)
    around = jnp.concatenate([jnp.zeros((1,), modes.dtype), -distances, distances])
    near = modes[:, None] + around[None]
    # Two units apart: panels of that width are cut further where the density asks for it.
    steps = 2.0 * np.arange(int(np.log(float(jnp.finfo(modes.dtype).max)) / 2))
    whole = jnp.asarray(np.concatenate([-steps[:0:-1], steps]), modes.dtype)
    limit = reach(coordinate)
    points = jnp.clip(jnp.concatenate([near.ravel(), whole]), -limit, limit)
    values = log_density(coordinate, points)
    heights = values[: near.size].reshape(near.shape)
    tells = ~(heights > heights[:, :1] - 0.02)  # closer to the mode than its width tells nothing
    tells = (tells.at[:, 0].set(True) & is_mode[:, None]).ravel()
    keep = jnp.concatenate([tells, jnp.ones(whole.shape, bool)])
    points, values = jnp.where(keep, points, jnp.inf), jnp.where(keep, values, -jnp.inf)
    order = jnp.argsort(points)
    return points[order], values[order]


def _find_edges(
    log_density: LogDensityFn, coordinate: Coordinate, points: Array, values: Array, search: Search
) -> tuple[Array, Array]:
    """Find where log g turns −inf, to the last bit: positions on the finite side, and values."""
    inside = values > -jnp.inf
    crossing = (inside[1:] != inside[:-1]) & (points[1:] < jnp.inf)
    crosses, index = lax.top_k(crossing.astype(points.dtype), search.num_edges)
    left_inside = inside[index]
    first = jnp.where(left_inside, points[index], points[index + 1])
    second = jnp.where(left_inside, points[index + 1], points[index])

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        within, without = bracket
        middle = within + (without - within) / 2
        finite = log_density(coordinate, middle) > -jnp.inf
        return jnp.where(finite, middle, within), jnp.where(finite, without, middle)

    within, _ = lax.fori_loop(0, search.num_halvings + 8, halve, (first, second))
    real = crosses > 0
    heights = jnp.where(real, _clean(log_density(coordinate, within)), -jnp.inf)
    return jnp.where(real, within, jnp.inf), heights
