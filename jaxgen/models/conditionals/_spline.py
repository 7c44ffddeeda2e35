"""A normal carried by a monotone rational-quadratic spline: quantile and density in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.core._types import Array
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

    def _knots(self, outputs: Array) -> tuple[Array, Array, Array]:
        """Return x and y of the edges, and the slopes there, `[..., N + 1]` each."""
        n = self.num_bins
        x, y = self._edges(outputs[..., :n]), self._edges(outputs[..., n : 2 * n])
        # softplus(0.5413…) = 1: outputs of zero leave the normal as it is.
        raw = jax.nn.softplus(outputs[..., 2 * n :] + np.log(np.expm1(1 - _SMALLEST)))
        padding = [(0, 0)] * (outputs.ndim - 1) + [(1, 1)]
        return x, y, jnp.pad(_SMALLEST + raw, padding, constant_values=1.0)

    def _edges(self, raw: Array) -> Array:
        share = _SMALLEST / self.num_bins + (1 - _SMALLEST) * jax.nn.softmax(raw, axis=-1)
        inner = self.range_max * (2 * jnp.cumsum(share[..., :-1], axis=-1) - 1)
        ends = jnp.full_like(raw[..., :1], self.range_max)
        return jnp.concatenate([-ends, inner, ends], axis=-1)

    def _bin(self, outputs: Array, at: Array, *, of_y: bool) -> tuple[Array, ...]:
        """Return x, y, width, height and both slopes of the bin of a point, `[...]` each."""
        x, y, slopes = self._knots(outputs)
        edges = (y if of_y else x)[..., 1:-1]
        index = jnp.sum((edges <= at[..., None]).astype(jnp.int32), axis=-1)[..., None]

        def take(values: Array, step: int) -> Array:
            return jnp.take_along_axis(values, index + step, axis=-1)[..., 0]

        x0, y0 = take(x, 0), take(y, 0)
        return x0, y0, take(x, 1) - x0, take(y, 1) - y0, take(slopes, 0), take(slopes, 1)

    def _forward(self, outputs: Array, z: Array) -> tuple[Array, Array]:
        """Return g(z) and log g'(z)."""
        is_inside = jnp.abs(z) < self.range_max
        inner = jnp.where(is_inside, z, 0.0)
        x0, y0, width, height, d0, d1 = self._bin(outputs, inner, of_y=False)
        s = (inner - x0) / width
        mean = height / width
        denominator = mean + (d0 + d1 - 2 * mean) * s * (1 - s)
        y = y0 + height * (mean * s**2 + d0 * s * (1 - s)) / denominator
        slope = d1 * s**2 + 2 * mean * s * (1 - s) + d0 * (1 - s) ** 2
        log_slope = 2 * jnp.log(mean) + jnp.log(slope) - 2 * jnp.log(denominator)
        return jnp.where(is_inside, y, z), jnp.where(is_inside, log_slope, 0.0)

    def _inverse(self, outputs: Array, y: Array) -> Array:
        """Return g⁻¹(y), the root of a quadratic."""
        is_inside = jnp.abs(y) < self.range_max
        inner = jnp.where(is_inside, y, 0.0)
        x0, y0, width, height, d0, d1 = self._bin(outputs, inner, of_y=True)
        mean = height / width
        rise = inner - y0
        bend = d0 + d1 - 2 * mean
        a = height * (mean - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -mean * rise
        root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0.0))
        return jnp.where(is_inside, x0 + width * 2 * c / (-b - root), y)
