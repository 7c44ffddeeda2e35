"""Integrate a density over panels, from both ends, and invert the integral.

On each panel the density is a Legendre series through Gauss nodes, so its integral is one too. The
mass below a point is summed from the lower end and the mass above it from the upper end: neither is
one less the other, and both tails keep their relative precision.
"""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._arrays import (
    hold,
    namespace,
    repeat_until_done,
    running_max,
    top_k,
)
from jaxgen.samplers._inverse_cdf._coordinate import LogDensityFn
from jaxgen.samplers._inverse_cdf._modes import Location

_NUM_PARTS = 8  # where a search for a quantile starts: parts of a panel


class Panels(NamedTuple):
    """The integral of a density from one end of the line.

    Attributes:
      edges: increasing, `[P + 1]`.
      below: mass below each edge as a fraction of the whole, `[P + 1]`.
      series: Legendre coefficients of the density on each panel, as fractions, `[n, P]`.
    """

    edges: Array
    below: Array
    series: Array


class Integral(NamedTuple):
    """A density integrated.

    Attributes:
      tails: panels seen from the lower and, mirrored, from the upper end; leading axis 2.
      log_normalizer: log of the mass, a scalar.
      error: estimated error of the mass below any point, as a fraction; infinite when the mass is.
    """

    tails: Panels
    log_normalizer: Array
    error: Array


def refine(log_density: LogDensityFn, location: Location, num_nodes: int, num_rounds: int) -> Array:
    """Cut panels in half until the series converges on each, relative to the mass beyond it."""
    xp = namespace(location.edges)
    eps = np.finfo(location.edges.dtype).eps
    tolerance = 128 * eps if location.edges.dtype == np.float64 else 4 * eps
    num_panels = location.edges.size - 1
    num_cuts = num_panels // 4

    def excess(edges: Array) -> Array:
        z = _nodes(edges, num_nodes)
        values = log_density(location.coordinate, z)
        width = edges[1:] - edges[:-1]
        series = _exp(values, location.peak) @ legendre_transform(num_nodes, edges.dtype)
        mass = series[:, 0] * width
        beyond = xp.minimum(xp.cumsum(mass), xp.cumsum(mass[::-1])[::-1])
        beyond = beyond + 2.0**-64 * xp.sum(mass)
        allowed = tolerance * beyond + _rounding(z, values, width) * mass
        unresolved = xp.sum(xp.abs(series[:, -2:]), axis=1) * width
        return xp.where(width > 0, unresolved / allowed, 0)

    def cut(edges: Array) -> tuple[Array, Array]:
        worst, index = top_k(excess(edges), num_cuts)
        num_free = xp.sum(edges == edges[-1]) - 1
        middle = edges[index] + (edges[index + 1] - edges[index]) / 2
        new = xp.where((worst > 1) & (np.arange(num_cuts) < num_free), middle, edges[-1])
        is_done = (worst[0] <= 1) | (num_free == 0)
        return xp.sort(xp.concatenate([edges, new]))[: num_panels + 1], is_done

    return repeat_until_done(num_rounds, cut, location.edges)


def integrate(
    log_density: LogDensityFn, location: Location, edges: Array, num_nodes: int
) -> Integral:
    """Integrate over given panels; differentiable in whatever `log_density` depends on."""
    xp = namespace(edges)
    dtype = edges.dtype
    width = edges[1:] - edges[:-1]
    z = _nodes(edges, num_nodes)
    density = _density(log_density, location, z)
    if xp is jnp:
        # The derivative of log 0 is NaN even times zero: move empty nodes to where there is mass.
        empty = hold(density) == 0
        occupied = z.ravel()[xp.argmax(~empty)]
        moved = _density(log_density, location, xp.where(empty, occupied, z))
        density = xp.where(empty, 0, moved)
    series = density @ legendre_transform(num_nodes, dtype)
    mass = series[:, 0] * width
    total = xp.sum(mass)
    series = (series / total).T
    signs = np.asarray((-1.0) ** np.arange(num_nodes), dtype)
    zero = xp.zeros((1,), dtype)
    below = xp.concatenate([zero, xp.cumsum(mass / total)])
    above = xp.concatenate([zero, xp.cumsum(mass[::-1] / total)])
    tails = Panels(
        xp.stack([edges, -edges[::-1]]),
        xp.stack([below, above]),
        xp.stack([series, (series * signs[:, None])[:, ::-1]]),
    )
    unresolved = xp.sum(xp.abs(series[-2:]), axis=0) * width
    error = xp.sum(unresolved) + _missing_mass(log_density, location, edges) / total
    return Integral(tails, xp.log(total) + location.peak, hold(error))


def _nodes(edges: Array, num_nodes: int) -> Array:
    """Return the Gauss nodes of each panel, `[P, n]`."""
    nodes = _legendre_nodes(num_nodes).astype(edges.dtype)
    half = (edges[1:] - edges[:-1]) / 2
    return (edges[:-1] + half)[:, None] + half[:, None] * nodes[None]


def _rounding(z: Array, values: Array, width: Array) -> Array:
    """Bound the relative error that rounding of z and log g gives the density on each panel."""
    xp = namespace(values)
    finite = values > -xp.inf
    highest = xp.max(values, axis=1)
    lowest = xp.min(xp.where(finite, values, highest[:, None]), axis=1)
    slope = xp.where(width > 0, (highest - lowest) / width, 0)
    size = xp.max(xp.where(finite, xp.abs(values), 0), axis=1)
    return 4 * np.finfo(z.dtype).eps * (xp.abs(z[:, 0]) * slope + size)


def _density(log_density: LogDensityFn, location: Location, z: Array) -> Array:
    return _exp(log_density(location.coordinate, z), location.peak)


def _exp(values: Array, peak: Array) -> Array:
    xp = namespace(values)
    # A pole itself, a point of no mass, is as high as the highest place seen.
    return xp.exp(xp.where(values == xp.inf, peak, values) - peak)


def _missing_mass(log_density: LogDensityFn, location: Location, edges: Array) -> Array:
    """Estimate the mass outside the panels if log g goes on as it ends, infinite where it rises."""
    xp = namespace(edges)
    first = xp.min(xp.where(edges > edges[0], edges, xp.inf))
    last = xp.max(xp.where(edges < edges[-1], edges, -xp.inf))
    ends, inward = xp.stack([edges[0], edges[-1]]), xp.stack([first, last])
    values = log_density(location.coordinate, xp.stack([ends, (ends + inward) / 2]))
    slope = (values[1] - values[0]) / xp.maximum(xp.abs(inward - ends) / 2, 1e-30)
    missing = xp.exp(values[0] - location.peak) / xp.maximum(slope, 0)
    return xp.sum(xp.where(values[0] > location.peak - 200, missing, 0))


@cache
def _legendre_nodes(num_nodes: int) -> np.ndarray:
    return gauss_legendre(-1, 1, num_nodes).nodes


@cache
def legendre_transform(num_nodes: int, dtype: np.dtype) -> np.ndarray:
    """Return the matrix `[n, n]` from values at Gauss nodes to Legendre coefficients."""
    rule = gauss_legendre(-1, 1, num_nodes)
    values = np.polynomial.legendre.legvander(rule.nodes, num_nodes - 1)
    return np.asarray(rule.weights[:, None] * values * (np.arange(num_nodes) + 0.5), dtype)


def _sum_series(series: Array, s: Array) -> tuple[Array, Array]:
    """Return the integral of a Legendre series `[n, ...]` from −1 to s, and the series at s."""
    previous, current = 0 * s + 1, s
    integral, density = series[0] * (1 + s), series[0] + series[1] * s
    for k in range(1, series.shape[0]):
        following = ((2 * k + 1) * s * current - k * previous) / (k + 1)
        integral = integral + series[k] * (following - previous) / (2 * k + 1)
        if k + 1 < series.shape[0]:
            density = density + series[k + 1] * following
        previous, current = current, following
    return integral, density


def mass_below(panels: Panels, z: Array) -> tuple[Array, Array]:
    """Return the fraction of the mass below each z of a vector, and the density there."""
    xp = namespace(panels, z)
    num_panels = panels.edges.shape[0] - 1
    index = xp.clip(xp.searchsorted(panels.edges, z, side="right") - 1, 0, num_panels - 1)
    half = (panels.edges[index + 1] - panels.edges[index]) / 2
    inside = xp.where(half > 0, (z - panels.edges[index]) / xp.where(half > 0, half, 1) - 1, 1)
    s = xp.clip(inside, -1, 1)
    integral, density = _sum_series(panels.series[:, index], s)
    return panels.below[index] + half * integral, xp.where(inside == s, density, 0)


def find_quantile(panels: Panels, mass: Array, num_steps: int) -> Array:
    """Find the z below which the given masses lie, by Newton steps inside a bracket.

    The last step carries the gradient: with z held, dz = (d mass − dF(z)) / g(z), which is implicit
    differentiation of F(z) = mass (Figurnov, Mohamed & Mnih 2018).
    """
    xp = namespace(panels, mass)
    fixed, target = hold((panels, mass))
    index, lower, s = _first_guess(fixed, target)
    upper = lower + 2 / _NUM_PARTS
    half = (fixed.edges[index + 1] - fixed.edges[index]) / 2
    series, below = fixed.series[:, index], fixed.below[index]

    def newton(s: Array) -> tuple[Array, Array]:
        integral, density = _sum_series(series, s)
        slope = half * density
        change = (target - below - half * integral) / xp.where(slope > 0, slope, xp.inf)
        new = xp.clip(s + change, lower, upper)
        return new, xp.max(xp.abs(new - s)) <= 1e-9

    # Next to a zero of the density steps only halve the error.
    s = newton(s)[0] if num_steps == 1 else repeat_until_done(num_steps, newton, s)
    integral, density = _sum_series(panels.series[:, index], s)
    density = hold(density)
    change = (mass - panels.below[index] - half * integral) / xp.where(density > 0, density, xp.inf)
    # Its value is one more Newton step, kept inside the panel; its derivative is left alone.
    room = xp.clip(change, -half * (1 + s), half * (1 - s)) - change
    return fixed.edges[index] + half * (1 + s) + change + hold(room)


def _first_guess(panels: Panels, mass: Array) -> tuple[Array, Array, Array]:
    """Return the panel's index, the lower end in s of a bracket, and a cubic's guess of s in it."""
    xp = namespace(panels, mass)
    points = np.linspace(-1, 1, _NUM_PARTS + 1)
    num_nodes = panels.series.shape[0]
    dtype = mass.dtype
    basis = np.asarray(np.stack([_sum_basis(num_nodes, s) for s in points[:-1]], 1), dtype)
    values = np.asarray(np.polynomial.legendre.legvander(points, num_nodes - 1).T, dtype)
    half = (panels.edges[1:] - panels.edges[:-1]) / 2
    table = running_max(
        (panels.below[:-1, None] + half[:, None] * (panels.series.T @ basis)).ravel()
    )
    density = half[:, None] * (panels.series.T @ values)
    position = xp.clip(xp.searchsorted(table, mass, side="right") - 1, 0, table.size - 1)
    index, part = position // _NUM_PARTS, position % _NUM_PARTS
    rise = xp.append(table, panels.below[-1])[position + 1] - table[position]
    safe = xp.where(rise > 0, rise, 1)
    fraction = xp.where(rise > 0, xp.clip((mass - table[position]) / safe, 0, 1), 0.5)
    # Hermite's cubic for s as a function of the mass: unit rise, slopes 1/density at either end.
    width = 2 / _NUM_PARTS
    first, last = (rise / xp.maximum(density[index, part + k] * width, rise / 3) for k in (0, 1))
    rest = 1 - fraction
    cubic = fraction**2 * (3 - 2 * fraction) + fraction * rest * (first * rest - last * fraction)
    guess = xp.where(rise > 0, xp.clip(cubic, 0, 1), fraction)
    lower = xp.asarray(points, dtype)[part]
    return index, lower, lower + width * guess


def _sum_basis(num_nodes: int, s: float) -> np.ndarray:
    """Return the integrals of the first Legendre polynomials from −1 to s, `[n]`."""
    values = np.polynomial.legendre.legvander(np.asarray(s), num_nodes)[0]
    orders = np.arange(1, num_nodes)
    return np.concatenate([[1 + s], (values[2:] - values[:-2]) / (2 * orders + 1)])
