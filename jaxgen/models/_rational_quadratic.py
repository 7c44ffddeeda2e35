"""Monotone rational-quadratic splines on [−B, B], linear beyond (Durkan et al. 2019)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array

_Arrays = tuple[Array, Array, Array, Array]


class Bin(NamedTuple):
    """The bin of a point, or beside it beyond the ends; `[...]` each.

    Attributes:
      x: where it begins.
      y: what the spline is there.
      width: of the bin.
      height: what the spline rises by.
      slope: at the beginning.
      next_slope: at the end.
    """

    x: Array
    y: Array
    width: Array
    height: Array
    slope: Array
    next_slope: Array

    def forward(self, x: Array, range_max: float) -> tuple[Array, Array]:
        """Return y, and the logarithm of the slope there."""
        share = jnp.clip((x - self.x) / self.width, 0.0, 1.0)
        mean, bend = self._shape()
        both = share * (1.0 - share)
        rise = self.height * (mean * share**2 + self.slope * both)
        log_slope = self._log_slope(share)
        start = self.y + (x - jnp.clip(x, -range_max, range_max)) * jnp.exp(log_slope)
        below = mean + bend * both
        # One quotient comes last because XLA computes sums and products anew for each of their
        # uses, and quotients once: else a flow's step would compute all steps before it again.
        return (start * below + rise) / below, log_slope

    def inverse(self, y: Array, range_max: float) -> tuple[Array, Array]:
        """Return x, and the logarithm of the slope there."""
        part = jnp.clip((y - self.y) / self.height, 0.0, 1.0)
        mean, bend = self._shape()
        b = self.slope - bend * part
        root = jnp.clip(_root(mean - b, b, -mean * part), 0.0, 1.0)
        share = jnp.where(part < 1.0, root, 1.0)  # exact at the end, where all beyond is
        log_slope = self._log_slope(share)
        beyond = y - jnp.clip(y, -range_max, range_max)
        return self.x + self.width * share + beyond * jnp.exp(-log_slope), log_slope

    def _shape(self) -> tuple[Array, Array]:
        mean = self.height / self.width
        return mean, self.slope + self.next_slope - 2.0 * mean

    def _log_slope(self, share: Array) -> Array:
        mean, bend = self._shape()
        both = share * (1.0 - share)
        ratio = mean / (mean + bend * both)
        ends = self.next_slope * share**2 + self.slope * (1.0 - share) ** 2
        return jnp.log(ratio**2 * (ends + 2.0 * mean * both))


def find_bin(
    at: Array,
    widths: Array,
    heights: Array,
    slopes: Array,
    slope_fn: Callable[[Array], Array],
    range_max: float,
    *,
    of_y: bool,
) -> Bin:
    """Return the bin of a point.

    Args:
      at: the point, `[...]`, a y if `of_y`, else an x.
      widths: of the N bins, `[N, ...]`, which sum to 2 B.
      heights: likewise.
      slopes: at the N + 1 edges, unconstrained, `[N + 1, ...]`.
      slope_fn: what makes them slopes; the two of the bin alone are computed.
      range_max: B.
      of_y: whether `at` is a y.
    """
    shape = jnp.broadcast_shapes(at.shape, widths.shape[1:])
    at = jnp.broadcast_to(at, shape)
    widths, heights, slopes = (
        jnp.broadcast_to(a, (len(a), *shape)) for a in (widths, heights, slopes)
    )
    found = _pick(at, widths, heights, slopes, range_max, of_y)
    return found._replace(slope=slope_fn(found.slope), next_slope=slope_fn(found.next_slope))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _pick(
    at: Array, widths: Array, heights: Array, slopes: Array, range_max: float, of_y: bool
) -> Bin:
    """Return the bin of each point, its slopes still unconstrained."""
    return _search(at, widths, heights, slopes, range_max, of_y)[0]


@_pick.defjvp
def _pick_jvp(range_max: float, of_y: bool, primals: _Arrays, tangents: _Arrays) -> tuple[Bin, Bin]:
    """Differentiate with one mask over all bins, where a chain of choices would need one a bin."""
    found, index = _search(*primals, range_max, of_y)
    _, widths, heights, slopes = tangents

    def total(values: Array, is_chosen: Callable[[Array, Array], Array], index: Array) -> Array:
        bins = jnp.arange(len(values)).reshape((-1,) + (1,) * index.ndim)
        return jnp.sum(jnp.where(is_chosen(bins, index[None]), values, 0.0), axis=0)

    return found, Bin(
        total(widths, jnp.less, index),
        total(heights, jnp.less, index),
        total(widths, jnp.equal, index),
        total(heights, jnp.equal, index),
        total(slopes, jnp.equal, index),
        total(slopes, jnp.equal, index + 1),
    )


def _search(
    at: Array, widths: Array, heights: Array, slopes: Array, range_max: float, of_y: bool
) -> tuple[Bin, Array]:
    """Return the bin of each point, and which it is."""
    x = y = jnp.full_like(at, -range_max)
    found, index = Bin(x, y, widths[0], heights[0], slopes[0], slopes[1]), jnp.zeros(at.shape, int)
    for i in range(1, len(widths)):
        x, y = x + widths[i - 1], y + heights[i - 1]
        is_here = at >= (y if of_y else x)
        new = Bin(x, y, widths[i], heights[i], slopes[i], slopes[i + 1])
        found = Bin(*(jnp.where(is_here, a, b) for a, b in zip(new, found, strict=True)))
        index = jnp.where(is_here, i, index)
    return found, index


def slope_above(raw: Array, smallest: float) -> Array:
    """Return a slope above `smallest` of an unconstrained number; 0 stands for 1."""
    return smallest + jax.nn.softplus(raw + np.log(np.expm1(1.0 - smallest)))


def _root(a: Array, b: Array, c: Array) -> Array:
    """Return the root in [0, 1] of a z² + b z + c, where nothing cancels."""
    square = b**2 - 4.0 * a * c
    is_positive = square > 0
    sqrt = jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1.0)), 0.0)
    is_first = b >= 0
    numerator = jnp.where(is_first, 2.0 * c, sqrt - b)
    return numerator / jnp.where(is_first, -b - sqrt, 2.0 * a)
