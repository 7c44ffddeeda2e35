r"""Normal latents as integers: buckets of equal mass under a reference, and any normal over them.

Bucket b of :math:`2^{14}` reaches from the reference's quantile of :math:`b\,2^{-14}` to the next.
The share of a bucket under another normal is a difference of its CDF, which is a table of integers,
joined by lines: the shares of all buckets sum to the whole by construction, none is negative, and
no compiler can round them in two ways.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxgen.coding import _ans as ans
from jaxgen.coding._ans import PRECISION, FindFn, Interval
from jaxgen.core._types import Array

BUCKET_BITS = 14
"""log2 of the buckets that a latent falls into."""

_NUM_BUCKETS = 2**BUCKET_BITS
_POSITION_BITS = 20  # behind the point, of positions in units of the reference's scale
_FARTHEST = 11.0  # such units: D = Q − P then has 24 bits, which a float32 holds
# The CDF between −8 and 8 scales, in cells of 1/128, each of which has 2¹² positions.
_REACH, _CELLS_A_SCALE, _CELL_BITS = 8, 128, 12


def _edges() -> np.ndarray:
    """Return where the buckets begin, as positions of 20 bits behind the point."""
    shares = np.arange(_NUM_BUCKETS + 1) / _NUM_BUCKETS
    quantiles = np.clip(special.ndtri(shares), -_FARTHEST, _FARTHEST)
    return np.round(quantiles * 2**_POSITION_BITS).astype(np.int32)


def _cdf() -> np.ndarray:
    """Return the normal CDF at the ends of all cells and one beyond, of 24 bits."""
    cells = np.arange(-_REACH * _CELLS_A_SCALE, _REACH * _CELLS_A_SCALE + 2)
    cdf = np.round(special.ndtr(cells / _CELLS_A_SCALE) * 2**PRECISION).astype(np.int32)
    cdf[0], cdf[-2:] = 0, 2**PRECISION
    return cdf


_EDGES, _CDF = _edges(), _cdf()


class Normals(NamedTuple):
    """Independent normals over buckets.

    Attributes:
      position: of the mean from the reference's, in its scales, 20 bits behind the point, int32
        `[N]`.
      rate: cells of the CDF's table per position, float32 `[N]`.
      least: 1 if every bucket owns a slot, 0 if improbable ones own none; int32 scalar.
    """

    position: Array
    rate: Array
    least: Array


def normals(mean: Array, scale: Array, reference: tuple[Array, Array], least: int) -> Normals:
    """Return normals `[N]` in the units of a reference's means and scales `[N]`."""
    location, unit = reference
    position = jnp.clip((mean - location) / unit, -_FARTHEST, _FARTHEST) * 2**_POSITION_BITS
    cells = 2.0 ** (_CELL_BITS - _POSITION_BITS) * _CELLS_A_SCALE
    return Normals(
        jnp.round(position).astype(jnp.int32),
        jnp.clip(cells * unit / scale, 2.0**-30, 2.0**30).astype(jnp.float32),
        jnp.int32(least),
    )


def centers(reference: tuple[Array, Array], buckets: Array) -> Array:
    """Return the values, `[..., N]`, that buckets `[..., N]` stand for: their medians."""
    location, unit = reference
    medians = special.ndtri((np.arange(_NUM_BUCKETS) + 0.5) / _NUM_BUCKETS)
    lead = (None,) * (buckets.ndim - 1)
    return location[lead] + unit[lead] * jnp.asarray(medians, jnp.float32)[buckets]


def interval(family: Normals, buckets: Array) -> Interval:
    """Return the intervals of buckets `[N]`."""
    start, end = (_cumulative(*family, buckets + i) for i in (0, 1))
    return start.astype(jnp.uint32), (end - start).astype(jnp.uint32)


def find(family: Normals) -> FindFn:
    """Return what finds the i-th bucket by bisection."""

    def find_fn(i: Array, slot: Array) -> tuple[Array, Interval]:
        one = Normals(family.position[i], family.rate[i], family.least)
        bucket = ans.first_beyond(
            slot.astype(jnp.int32), lambda bucket: _cumulative(*one, bucket + 1), _NUM_BUCKETS
        )
        return bucket, interval(one, bucket)

    return find_fn


def _cumulative(position: Array, rate: Array, least: Array, edge: Array) -> Array:
    """Return the slots below an edge: a monotone function of it, in integers.

    The product is the only rounded operation, and is not followed by a sum that a compiler could
    join it with.
    """
    distance = (jnp.asarray(_EDGES)[edge] - position).astype(jnp.float32)
    limit = float(_REACH * _CELLS_A_SCALE << _CELL_BITS)
    at = jnp.floor(jnp.clip(distance * rate, -limit, limit)).astype(jnp.int32) + int(limit)
    cell, rest = at >> _CELL_BITS, at & (2**_CELL_BITS - 1)
    below, above = jnp.asarray(_CDF)[cell], jnp.asarray(_CDF)[cell + 1]
    slots = below + ((above - below) * rest >> _CELL_BITS)
    slots = jnp.where(edge == 0, 0, jnp.where(edge == _NUM_BUCKETS, 2**PRECISION, slots))
    # What is left of the whole when each bucket has had its slot.
    return slots - least * ((slots >> (PRECISION - BUCKET_BITS)) - edge)
