"""Integrate a density over panels, from both ends, and invert the integral.

On each panel the density is a Legendre series through Gauss nodes, so its integral is one too. The
mass below a point is summed from the lower end and the mass above it from the upper end: neither is
one less the other, and both tails keep their relative precision.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
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
    eps = jnp.finfo(location.edges.dtype).eps
    tolerance = 128 * eps if location.edges.dtype == jnp.float64 else 4 * eps
    num_panels = location.edges.size - 1
    num_cuts = max(num_panels // 4, 1)

    def excess(edges: Array) -> Array:
        z = _nodes(edges, num_nodes)
        values = log_density(location.coordinate, z)
        width = edges[1:] - edges[:-1]
        series = jnp.exp(values - location.peak) @ _legendre_transform(num_nodes, edges.dtype)
        mass = series[:, 0] * width
        beyond = jnp.minimum(jnp.cumsum(mass), jnp.cumsum(mass[::-1])[::-1])
        beyond = beyond + 2.0**-64 * jnp.sum(mass)
        allowed = tolerance * beyond + _rounding(z, values, width) * mass
        unresolved = jnp.sum(jnp.abs(series[:, -2:]), axis=1) * width
        return jnp.where(width > 0, unresolved / allowed, 0)

    def cut(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        edges, _, step = state
        worst, index = lax.top_k(excess(edges), num_cuts)
        num_free = jnp.sum(edges == edges[-1]) - 1
        middle = edges[index] + (edges[index + 1] - edges[index]) / 2
        new = jnp.where((worst > 1) & (jnp.arange(num_cuts) < num_free), middle, edges[-1])
        is_done = (worst[0] <= 1) | (num_free == 0)
        return jnp.sort(jnp.concatenate([edges, new]))[: num_panels + 1], is_done, step + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return ~state[1] & (state[2] < num_rounds)

    start = (location.edges, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return lax.while_loop(unfinished, cut, start)[0]


def integrate(
    log_density: LogDensityFn, location: Location, edges: Array, num_nodes: int
) -> Integral:
    """Integrate over given panels; differentiable in whatever `log_density` depends on."""
    dtype = edges.dtype
    width = edges[1:] - edges[:-1]
    z = _nodes(edges, num_nodes)
    empty = lax.stop_gradient(_density(log_density, location, z)) == 0
    # The derivative of log 0 is NaN even times zero: move empty nodes to where there is mass.
    occupied = z.ravel()[jnp.argmax(~empty)]
    density = jnp.where(empty, 0, _density(log_density, location, jnp.where(empty, occupied, z)))
    series = density @ _legendre_transform(num_nodes, dtype)
    mass = series[:, 0] * width
    total = jnp.sum(mass)
    series = (series / total).T
    signs = jnp.asarray((-1.0) ** np.arange(num_nodes), dtype)
    below = jnp.concatenate([jnp.zeros((1,), dtype), jnp.cumsum(mass / total)])
    above = jnp.concatenate([jnp.zeros((1,), dtype), jnp.cumsum(mass[::-1] / total)])
    tails = Panels(
        jnp.stack([edges, -edges[::-1]]),
        jnp.stack([below, above]),
        jnp.stack([series, (series * signs[:, None])[:, ::-1]]),
    )
    unresolved = jnp.sum(jnp.abs(series[-2:]), axis=0) * width
    error = jnp.sum(unresolved) + _missing_mass(log_density, location, edges) / total
    return Integral(tails, jnp.log(total) + location.peak, lax.stop_gradient(error))


def _nodes(edges: Array, num_nodes: int) -> Array:
    """Return the Gauss nodes of each panel, `[P, n]`."""
    nodes = jnp.asarray(gauss_legendre(-1, 1, num_nodes).nodes, edges.dtype)
    half = (edges[1:] - edges[:-1]) / 2
    return (edges[:-1] + half)[:, None] + half[:, None] * nodes[None]


def _rounding(z: Array, values: Array, width: Array) -> Array:
    """Bound the relative error that rounding of z and log g gives the density on each panel."""
    finite = values > -jnp.inf
    highest = jnp.max(values, axis=1)
    lowest = jnp.min(jnp.where(finite, values, highest[:, None]), axis=1)
    slope = jnp.where(width > 0, (highest - lowest) / width, 0)
    size = jnp.max(jnp.where(finite, jnp.abs(values), 0), axis=1)
    return 4 * jnp.finfo(z.dtype).eps * (jnp.abs(z[:, 0]) * slope + size)


def _density(log_density: LogDensityFn, location: Location, z: Array) -> Array:
    values = log_density(location.coordinate, z)
    return jnp.exp(values - location.peak)


def _missing_mass(log_density: LogDensityFn, location: Location, edges: Array) -> Array:
    """Estimate the mass outside the panels if log g goes on as it ends, infinite where it rises."""
    first = jnp.min(jnp.where(edges > edges[0], edges, edges[-1]))
    last = jnp.max(jnp.where(edges < edges[-1], edges, edges[0]))
    ends, inward = jnp.stack([edges[0], edges[-1]]), jnp.stack([first, last])
    values = log_density(location.coordinate, jnp.stack([ends, (ends + inward) / 2]))
    slope = (values[1] - values[0]) / jnp.maximum(jnp.abs(inward - ends) / 2, 1e-30)
    missing = jnp.exp(values[0] - location.peak) / jnp.maximum(slope, 0)
    return jnp.sum(jnp.where(values[0] > location.peak - 200, missing, 0))


def _legendre_transform(num_nodes: int, dtype: jnp.dtype) -> Array:
    """Return the matrix `[n, n]` from values at Gauss nodes to Legendre coefficients."""
    rule = gauss_legendre(-1, 1, num_nodes)
    values = np.polynomial.legendre.legvander(rule.nodes, num_nodes - 1)
    return jnp.asarray(rule.weights[:, None] * values * (np.arange(num_nodes) + 0.5), dtype)


def _sum_series(series: Array, s: Array) -> tuple[Array, Array]:
    """Return the integral of a Legendre series `[n, ...]` from −1 to s, and the series at s."""
    previous, current = jnp.ones_like(s), s
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
    num_panels = panels.edges.shape[0] - 1
    index = jnp.clip(jnp.searchsorted(panels.edges, z, side="right") - 1, 0, num_panels - 1)
    half = (panels.edges[index + 1] - panels.edges[index]) / 2
    inside = jnp.where(half > 0, (z - panels.edges[index]) / jnp.where(half > 0, half, 1) - 1, 1)
    s = jnp.clip(inside, -1, 1)
    integral, density = _sum_series(panels.series[:, index], s)
    return panels.below[index] + half * integral, jnp.where(inside == s, density, 0)


def find_quantile(panels: Panels, mass: Array, num_steps: int) -> Array:
    """Find the z below which the given masses lie, by Newton steps inside a bracket.

    The last step carries the gradient: with z held, dz = (d mass − dF(z)) / g(z), which is implicit
    differentiation of F(z) = mass (Figurnov, Mohamed & Mnih 2018).
    """
    held, target = lax.stop_gradient((panels, mass))
    index, lower, s = _first_guess(held, target)
    upper = lower + 2 / _NUM_PARTS
    half = (held.edges[index + 1] - held.edges[index]) / 2
    series, below = held.series[:, index], held.below[index]

    def newton(s: Array) -> Array:
        integral, density = _sum_series(series, s)
        slope = jnp.where(half * density > 0, half * density, jnp.inf)
        return jnp.clip(s + (target - below - half * integral) / slope, lower, upper)

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        s, _, step = state
        new = newton(s)
        return new, jnp.max(jnp.abs(new - s)), step + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[1] > 1e-9) & (state[2] < num_steps)

    s = newton(s)
    if num_steps > 1:  # next to a zero of the density steps only halve the error
        s = lax.while_loop(unfinished, again, (s, jnp.ones((), s.dtype), jnp.asarray(1)))[0]
    integral, density = _sum_series(panels.series[:, index], s)
    density = lax.stop_gradient(density)
    change = (mass - panels.below[index] - half * integral) / jnp.where(
        density > 0, density, jnp.inf
    )
    # Its value is one more Newton step, kept inside the panel; its derivative is left alone.
    room = jnp.clip(change, -half * (1 + s), half * (1 - s)) - change
    return held.edges[index] + half * (1 + s) + change + lax.stop_gradient(room)


def _first_guess(panels: Panels, mass: Array) -> tuple[Array, Array, Array]:
    """Return the panel's index, the lower end in s of a bracket, and a cubic's guess of s in it."""
    points = np.linspace(-1, 1, _NUM_PARTS + 1)
    num_nodes = panels.series.shape[0]
    dtype = mass.dtype
    basis = jnp.asarray(np.stack([_sum_basis(num_nodes, s) for s in points[:-1]], 1), dtype)
    values = jnp.asarray(np.polynomial.legendre.legvander(points, num_nodes - 1).T, dtype)
    half = (panels.edges[1:] - panels.edges[:-1]) / 2
    table = lax.cummax(
        (panels.below[:-1, None] + half[:, None] * (panels.series.T @ basis)).ravel()
    )
    density = half[:, None] * (panels.series.T @ values)
    position = jnp.clip(jnp.searchsorted(table, mass, side="right") - 1, 0, table.size - 1)
    index, part = position // _NUM_PARTS, position % _NUM_PARTS
    rise = jnp.append(table, panels.below[-1])[position + 1] - table[position]
    safe = jnp.where(rise > 0, rise, 1)
    fraction = jnp.where(rise > 0, jnp.clip((mass - table[position]) / safe, 0, 1), 0.5)
    # Hermite's cubic for s as a function of the mass: unit rise, slopes 1/density at either end.
    width = 2 / _NUM_PARTS
    first, last = (rise / jnp.maximum(density[index, part + k] * width, rise / 3) for k in (0, 1))
    rest = 1 - fraction
    cubic = fraction**2 * (3 - 2 * fraction) + fraction * rest * (first * rest - last * fraction)
    guess = jnp.where(rise > 0, jnp.clip(cubic, 0, 1), fraction)
    lower = jnp.asarray(points, dtype)[part]
    return index, lower, lower + width * guess


def _sum_basis(num_nodes: int, s: float) -> np.ndarray:
    """Return the integrals of the first Legendre polynomials from −1 to s, `[n]`."""
    values = np.polynomial.legendre.legvander(np.asarray(s), num_nodes)[0]
    orders = np.arange(1, num_nodes)
    return np.concatenate([[1 + s], (values[2:] - values[:-2]) / (2 * orders + 1)])
