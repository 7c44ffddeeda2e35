"""A normal carried by a monotone rational-quadratic spline: quantile and density in closed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.core._types import Array
from jaxgen.models._rational_quadratic import Bin, find_bin, slope_above
from jaxgen.models.conditionals._reals import Reals, nearer_tail

_SMALLEST = 1e-3  # of a width or height, in parts of an even one, and of a slope


@dataclasses.dataclass(frozen=True)
class Spline(Reals):
    r"""A standard normal behind a monotone rational-quadratic spline (Durkan et al. 2019).

    .. math:: p_z(z) = \phi(g(z))\, g'(z)

    On [−B, B] g goes through N bins with a slope at each edge, beyond it is the identity, and all
    is in closed form, both ways. The outputs are N widths, N heights and N − 1 slopes; zeros give
    the normal itself.

    Attributes:
      support: the ends (a, b) of what values can be.
      num_bins: N.
      range_max: B, in the units of the column.
    """

    num_bins: int = 8
    range_max: float = 4.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_count("num_bins", self.num_bins, minimum=2)
        check_in_range("range_max", self.range_max, 0.0, float("inf"), open_lower=True)

    @property
    def num_outputs(self) -> int:
        """Return 3 N − 1."""
        return 3 * self.num_bins - 1

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return zeros, the normal of each coordinate's mean and deviation, `[D, P]`."""
        return np.zeros((x.shape[1], self.num_outputs))

    def _log_density(self, outputs: Array, z: Array) -> Array:
        y, log_slope = self._forward(outputs, z)
        return log_slope - 0.5 * y**2 - 0.5 * np.log(2 * np.pi)

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        return jax.scipy.special.log_ndtr(sign * self._forward(outputs, z)[0])

    def _solve(self, outputs: Array, u: Array) -> Array:
        sign, log_tail = nearer_tail(u)
        return self._inverse(outputs, sign * jax.scipy.special.ndtri(jnp.exp(log_tail)))

    def _forward(self, outputs: Array, z: Array) -> tuple[Array, Array]:
        """Return g(z) and log g'(z)."""
        return self._bin(outputs, z, of_y=False).forward(z, self.range_max)

    def _inverse(self, outputs: Array, y: Array) -> Array:
        """Return g⁻¹(y)."""
        return self._bin(outputs, y, of_y=True).inverse(y, self.range_max)[0]

    def _bin(self, outputs: Array, at: Array, *, of_y: bool) -> Bin:
        n, outputs = self.num_bins, jnp.moveaxis(outputs, -1, 0)
        widths, heights = self._sizes(outputs[:n]), self._sizes(outputs[n : 2 * n])
        # Zeros stand for slopes of 1: the normal as it is, and the ends.
        slopes = jnp.pad(outputs[2 * n :], [(1, 1)] + [(0, 0)] * (outputs.ndim - 1))
        slope_fn = functools.partial(slope_above, smallest=_SMALLEST)
        return find_bin(at, widths, heights, slopes, slope_fn, self.range_max, of_y=of_y)

    def _sizes(self, raw: Array) -> Array:
        share = _SMALLEST / self.num_bins + (1 - _SMALLEST) * jax.nn.softmax(raw, axis=0)
        return 2 * self.range_max * share
