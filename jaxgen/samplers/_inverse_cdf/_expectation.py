"""Expectations under a tabulated density, by quadrature over its panels."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, offset
from jaxgen.samplers._inverse_cdf._panels import Panels, legendre_transform


class QuadratureEstimate(NamedTuple):
    """An integral with its error.

    Attributes:
      value: the integral, `[...]`.
      error: an estimate of `|value − exact|`, same shape; infinite where the integral diverges or
        meets what is not finite.
    """

    value: Array
    error: Array


class Nodes(NamedTuple):
    """Where a density is known, on P panels with n nodes each.

    Attributes:
      x: the points, `[P, n]`; those without mass are replaced by the one with the most.
      z: their coordinates, `[P, n]`.
      half: half the width of each panel in z, `[P]`.
      density: over z, normalized, zero where there is no mass, `[P, n]`.
    """

    x: Array
    z: Array
    half: Array
    density: Array


@jax.jit
def density_nodes(panels: Panels, coordinate: Coordinate, support: Array) -> Nodes:
    """Return the Gauss nodes of the panels; only the density has a gradient."""
    edges, coordinate, support = lax.stop_gradient((panels.edges, coordinate, support))
    nodes = gauss_legendre(-1, 1, panels.series.shape[0]).nodes
    half = (edges[1:] - edges[:-1]) / 2
    z = (edges[:-1] + half)[:, None] + half[:, None] * np.asarray(nodes, edges.dtype)[None]
    basis = np.polynomial.legendre.legvander(nodes, nodes.size - 1).T
    density = panels.series.T @ np.asarray(basis, edges.dtype)
    is_upper = z > 0
    away = offset(coordinate, z, is_upper)
    if any(coordinate.is_finite):  # nearer to an end than floats can be there is not at it
        tiny = jnp.finfo(z.dtype).tiny
        is_above = is_upper if all(coordinate.is_finite) else coordinate.is_finite[1]
        away = jnp.where(jnp.abs(away) < tiny, jnp.where(is_above, -tiny, tiny), away)
    anchors = coordinate.anchors
    x = jnp.clip(jnp.where(is_upper, anchors[1], anchors[0]) + away, support[0], support[1])
    # A node without mass must not bring in what f is there, as 0 · ∞.
    mass = lax.stop_gradient(density * half[:, None])
    x = jnp.where(mass > 0, x, x.ravel()[jnp.argmax(mass)])
    return Nodes(x, z, half, jnp.where(mass > 0, density, 0))


@jax.jit
def integrate_values(nodes: Nodes, values: Array, relative_error: Array) -> QuadratureEstimate:
    """Integrate values at the nodes, `[P n, ...]`; each counts as right to `relative_error`."""
    shape, dtype = values.shape[1:], nodes.z.dtype
    num_values = math.prod(shape)
    values = values.reshape(*nodes.z.shape, num_values)
    weights = np.asarray(gauss_legendre(-1, 1, nodes.z.shape[1]).weights, dtype)
    masses = nodes.density * nodes.half[:, None] * weights[None]
    terms = masses[:, :, None] * values
    error = _error(nodes, lax.stop_gradient(nodes.density[:, :, None] * values))
    error = error + relative_error * jnp.sum(jnp.abs(terms), axis=(0, 1))
    error = lax.stop_gradient(jnp.where(jnp.isnan(error), jnp.inf, error))
    return QuadratureEstimate(jnp.sum(terms, axis=(0, 1)).reshape(shape), error.reshape(shape))


def _error(nodes: Nodes, heights: Array) -> Array:
    """Return what the series leave unresolved, `[F]`, and the mass beyond the last panels.

    Beyond them f g is taken to go on as it does in them; where it rises the integral is infinite.
    """
    z, half = nodes.z, nodes.half
    series = jnp.einsum("pnf,nk->pkf", heights, legendre_transform(z.shape[1], z.dtype))
    unresolved = jnp.sum(jnp.abs(series[:, -2:]).sum(1) * 2 * half[:, None], axis=0)
    occupied = jnp.any(nodes.density > 0, axis=1)
    first, last = jnp.argmax(occupied), half.size - 1 - jnp.argmax(occupied[::-1])
    missing = jnp.zeros(heights.shape[2:], z.dtype)
    for panel, outer, inner in ((first, 0, -1), (last, -1, 0)):
        ends = jnp.abs(jnp.stack([heights[panel, outer], heights[panel, inner]]))
        rate = jnp.log(ends[1] / ends[0]) / jnp.abs(z[panel, inner] - z[panel, outer])
        beyond = jnp.where(rate > 0, ends[0] / rate, jnp.inf)
        missing = missing + jnp.where(ends[0] > 0, beyond, 0)
    return unresolved + missing
