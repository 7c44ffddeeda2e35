"""The coordinate in which every one-dimensional density is a few smooth bumps on the real line.

A density on a support is moved to z in (−∞, ∞) by an increasing map x(z) that keeps the distance to
each end exact: near a finite end the distance is e^{−|z|}, so a pole x^{−½} is an exponential tail;
on the whole line x = c + s·sinh(z), so a Cauchy tail is one too. Quadrature then needs no weights.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array, LogProbFn, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coordinate:
    """An increasing map x(z) from the real line onto the support.

    Attributes:
      anchors: the points that offsets are measured from, `[2]`: both ends of a bounded support,
        twice the finite end of a half-line, twice the center of the map on the whole line.
      scale: the unit of x: the width of a finite support, the unit of the sinh map, or 1.
      is_finite: whether the lower and the upper end of the support are finite (static).
    """

    anchors: Array
    scale: Array
    is_finite: tuple[bool, bool] = dataclasses.field(metadata={"static": True})


LogDensityFn = Callable[[Coordinate, Array], Array]
"""log g(z) = log p(x(z)) + log dx/dz, unnormalized, for an array of z."""


def from_support(lower: Array, upper: Array, is_finite: tuple[bool, bool]) -> Coordinate:
    """Return the coordinate of a support; on the whole line centered at 0 with unit scale."""
    if is_finite == (True, True):
        return Coordinate(jnp.stack([lower, upper]), upper - lower, is_finite)
    end = lower if is_finite[0] else upper if is_finite[1] else jnp.zeros_like(lower)
    return Coordinate(jnp.stack([end, end]), jnp.ones_like(lower), is_finite)


def offset(coordinate: Coordinate, z: Array, is_upper: Array) -> Array:
    """Return x(z) less the first anchor, or where `is_upper` the second, without cancellation."""
    if coordinate.is_finite == (True, True):
        return coordinate.scale * jnp.where(is_upper, -jax.nn.sigmoid(-z), jax.nn.sigmoid(z))
    if coordinate.is_finite == (True, False):
        return jnp.exp(z)
    if coordinate.is_finite == (False, True):
        return -jnp.exp(-z)
    return coordinate.scale * jnp.sinh(z)


def locate_offset(coordinate: Coordinate, offset: Array, is_upper: Array) -> Array:
    """Return the z of a point given by its offset from an anchor; the inverse of `offset`."""
    if coordinate.is_finite == (True, True):
        near = jnp.clip(jnp.abs(offset), 0.0, coordinate.scale)
        z = jnp.log(near) - jnp.log(coordinate.scale - near)
        return jnp.where(is_upper, -z, z)
    if coordinate.is_finite == (True, False):
        return jnp.log(jnp.maximum(offset, 0.0))
    if coordinate.is_finite == (False, True):
        return -jnp.log(jnp.maximum(-offset, 0.0))
    return jnp.arcsinh(offset / coordinate.scale)


def log_slope(coordinate: Coordinate, z: Array) -> Array:
    """Return log dx/dz."""
    if coordinate.is_finite == (True, True):
        return jnp.log(coordinate.scale) - jax.nn.softplus(z) - jax.nn.softplus(-z)
    if coordinate.is_finite == (True, False):
        return z
    if coordinate.is_finite == (False, True):
        return -z
    return jnp.log(coordinate.scale) + jnp.abs(z) + jnp.log1p(jnp.exp(-2 * jnp.abs(z))) - np.log(2)


def reach(coordinate: Coordinate) -> Array:
    """Return the largest `|z|` at which x(z) and its offsets are neither infinite nor zero."""
    dtype = coordinate.scale.dtype
    limit = 0.98 * np.log(float(jnp.finfo(dtype).max))
    return jnp.asarray(limit, dtype) - jnp.abs(jnp.log(coordinate.scale))


def log_density_fn(log_prob_fn: LogProbFn, params: Params) -> LogDensityFn:
    """Return the log-density over z, right even where neighboring x are no longer distinct.

    x(z) is rounded before the user's function sees it. Next to a finite end that is not zero, or
    for a scale of 1e-8 of the location, the rounding is no longer small against the shape; the
    slope of log p at the rounded point corrects it: exactly for a power law at an end, to second
    order elsewhere.
    """

    def at_point(coordinate: Coordinate, z: Array) -> Array:
        is_upper = z > 0
        anchor = jnp.where(is_upper, coordinate.anchors[1], coordinate.anchors[0])
        exact = offset(coordinate, z, is_upper)
        is_end = any(coordinate.is_finite)
        nearest = 8 * jnp.finfo(z.dtype).eps * jnp.abs(anchor) if is_end else jnp.zeros_like(z)
        x = anchor + jnp.sign(exact) * jnp.maximum(jnp.abs(exact), nearest)
        rounded = x - anchor
        log_prob, slope = jax.value_and_grad(lambda y: log_prob_fn(params, y).astype(y.dtype))(x)
        differs = exact != rounded
        ratio = jnp.where(differs, exact / jnp.where(rounded == 0, 1, rounded), 1)
        step = rounded * jnp.log(ratio) if is_end else exact - rounded
        correction = jnp.where(differs & jnp.isfinite(slope), slope * step, 0)
        return (
            log_prob + jnp.where(jnp.isfinite(correction), correction, 0) + log_slope(coordinate, z)
        )

    def log_density(coordinate: Coordinate, z: Array) -> Array:
        return jax.vmap(at_point, (None, 0))(coordinate, z.ravel()).reshape(z.shape)

    return log_density
