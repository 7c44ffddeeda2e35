"""The coordinate in which every one-dimensional density is a few smooth bumps on the real line.

A density on a support is moved to z in (−∞, ∞) by an increasing map x(z) that keeps the distance to
each end exact: near a finite end the distance is e^{−|z|}, so a pole x^{−½} is an exponential tail;
on the whole line x = c + s·sinh(z), so a Cauchy tail is one too. Quadrature then needs no weights.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array, LogProbFn, Params
from jaxgen.samplers._inverse_cdf._arrays import namespace, sigmoid
from jaxgen.samplers._log_prob_fn import scalar_log_prob

_BLOCK_SIZE = 2048  # points at which a density is evaluated at once, when it is not traced


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


def from_support(support: Array, is_finite: tuple[bool, bool]) -> Coordinate:
    """Return the coordinate of a support; on the whole line centered at 0 with unit scale."""
    xp = namespace(support)
    if is_finite == (True, True):
        return Coordinate(support, support[1] - support[0], is_finite)
    zero = xp.zeros((), support.dtype)
    end = support[0] if is_finite[0] else support[1] if is_finite[1] else zero
    return Coordinate(xp.stack([end, end]), zero + 1, is_finite)


def offset(coordinate: Coordinate, z: Array, is_upper: Array) -> Array:
    """Return x(z) less the first anchor, or where `is_upper` the second, without cancellation."""
    xp = namespace(z)
    if coordinate.is_finite == (True, True):
        return coordinate.scale * xp.where(is_upper, -sigmoid(-z), sigmoid(z))
    if coordinate.is_finite == (True, False):
        return xp.exp(z)
    if coordinate.is_finite == (False, True):
        return -xp.exp(-z)
    return coordinate.scale * xp.sinh(z)


def locate_offset(coordinate: Coordinate, offset: Array, is_upper: Array) -> Array:
    """Return the z of a point given by its offset from an anchor; the inverse of `offset`."""
    xp = namespace(offset)
    if coordinate.is_finite == (True, True):
        near = xp.clip(xp.abs(offset), 0.0, coordinate.scale)
        z = xp.log(near) - xp.log(coordinate.scale - near)
        return xp.where(is_upper, -z, z)
    if coordinate.is_finite == (True, False):
        return xp.log(xp.maximum(offset, 0.0))
    if coordinate.is_finite == (False, True):
        return -xp.log(xp.maximum(-offset, 0.0))
    return xp.arcsinh(offset / coordinate.scale)


def locate_point(coordinate: Coordinate, x: Array) -> Array:
    """Return the z of points of the support, by their offsets from the nearer anchor."""
    xp = namespace(coordinate, x)
    anchors = coordinate.anchors
    is_upper = xp.abs(x - anchors[1]) < xp.abs(x - anchors[0])
    return locate_offset(coordinate, x - xp.where(is_upper, anchors[1], anchors[0]), is_upper)


def log_slope(coordinate: Coordinate, z: Array) -> Array:
    """Return log dx/dz."""
    xp = namespace(z)
    away = xp.abs(z)
    if coordinate.is_finite == (True, True):
        return xp.log(coordinate.scale) - away - 2 * xp.log1p(xp.exp(-away))
    if coordinate.is_finite == (True, False):
        return z
    if coordinate.is_finite == (False, True):
        return -z
    return xp.log(coordinate.scale) + away + xp.log1p(xp.exp(-2 * away)) - np.log(2)


def reach(coordinate: Coordinate) -> Array:
    """Return the largest `|z|` at which x(z) and its offsets are neither infinite nor zero."""
    xp = namespace(coordinate)
    dtype = coordinate.scale.dtype
    limit = xp.asarray(0.98 * np.log(float(jnp.finfo(dtype).max)), dtype)
    return limit - xp.abs(xp.log(coordinate.scale))


def log_density_fn(log_prob_fn: LogProbFn, params: Params) -> LogDensityFn:
    """Return the log-density over z; for NumPy arrays of z it is one compiled program.

    It is right even where neighboring x are no longer distinct: x(z) is rounded before the user's
    function sees it. Next to a finite end that is not zero, or for a scale of 1e-8 of the location,
    the rounding is no longer small against the shape; the slope of log p at the rounded point
    corrects it: exactly for a power law at an end, to second order elsewhere.
    """

    def log_density(coordinate: Coordinate, z: Array) -> Array:
        if namespace(z) is jnp:
            return _at_points(log_prob_fn, params, coordinate, z.ravel()).reshape(z.shape)
        points = np.pad(z.ravel(), (0, -z.size % _BLOCK_SIZE), mode="edge")
        blocks = points.reshape(-1, _BLOCK_SIZE)
        # One after another into one array: what waits on the device is not gathered there.
        parts = [np.asarray(_compiled(log_prob_fn, params, coordinate, b)) for b in blocks]
        values: Any = np.concatenate(parts)
        return values[: z.size].reshape(z.shape)

    return log_density


def _at_points(log_prob_fn: LogProbFn, params: Params, coordinate: Coordinate, z: Array) -> Array:
    def at_point(z: Array) -> Array:
        is_upper = z > 0
        anchor = jnp.where(is_upper, coordinate.anchors[1], coordinate.anchors[0])
        exact = offset(coordinate, z, is_upper)
        is_end = any(coordinate.is_finite)
        nearest = 8 * jnp.finfo(z.dtype).eps * jnp.abs(anchor) if is_end else jnp.zeros_like(z)
        x = anchor + jnp.sign(exact) * jnp.maximum(jnp.abs(exact), nearest)
        rounded = x - anchor
        log_prob, slope = jax.value_and_grad(partial(scalar_log_prob, log_prob_fn, params))(x)
        differs = exact != rounded
        ratio = jnp.where(differs, exact / jnp.where(rounded == 0, 1, rounded), 1)
        step = rounded * jnp.log(ratio) if is_end else exact - rounded
        correction = jnp.where(differs & jnp.isfinite(slope), slope * step, 0)
        correction = jnp.where(jnp.isfinite(correction), correction, 0)
        return log_prob + correction + log_slope(coordinate, z)

    return jax.vmap(at_point)(z)


_compiled = jax.jit(_at_points, static_argnums=0)
