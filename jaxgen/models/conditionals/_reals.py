"""Reals: a density on the line carried to a support, in the units of the data."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_rank
from jaxgen.core._conditional import Conditional
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array

LINE = (-math.inf, math.inf)
_NUM_MEAN_NODES = 64


@dataclasses.dataclass(frozen=True)
class Reals(Conditional):
    r"""Base of all conditionals of reals: a density of z on the line, and a map from x to z.

    .. math:: \log p(x) = \log p_z(z) + \log \tau'(x) - \log s, \qquad z = (\tau(x) - m) / s

    On the line τ is the identity, on a half-line from a it is log(x − a), and on (a, b) the
    log-odds of (x − a) / (b − a). The center m and the logarithm of the unit s are the last two of
    the outputs: statistics of the data, so that the rest is of order one and log p is of the data's
    own units. Values outside the open support give NaN.

    A family writes `num_outputs`, and of outputs without units `_log_density(outputs, z)`,
    `_log_tail(outputs, z, sign)`, the logarithm of P(Z < z) for sign 1 and of P(Z > z) for sign −1,
    and `_solve(outputs, u)`, the z of uniforms, of which no gradient is asked.

    Attributes:
      support: the ends (a, b) of what values can be.
    """

    support: tuple[float, float] = LINE
    num_symbols: None = dataclasses.field(default=None, init=False)
    num_units: int = dataclasses.field(default=2, init=False)

    def __post_init__(self) -> None:
        """Check the support."""
        is_pair = isinstance(self.support, tuple) and len(self.support) == 2
        if not is_pair or not self.support[0] < self.support[1]:
            raise ValueError(f"support must be a tuple (a, b) with a < b, got {self.support!r}")

    @property
    def num_features(self) -> int:
        """Return 1."""
        return 1

    def is_value(self, x: Array) -> Array:
        """Return where values `[...]` lie inside the support."""
        return jnp.isfinite(x) & (x > self.support[0]) & (x < self.support[1])

    def start(self, shape: tuple[int, ...]) -> Array:
        """Return the image of zero, a value inside the support, of a shape."""
        return self._back(jnp.zeros(shape, jnp.result_type(float)))

    def units(self, x: np.ndarray) -> np.ndarray:
        """Return mean and log-deviation of τ(x) for each coordinate of `[N, D]`, `[D, 2]`."""
        check_rank("x", x, 2)
        z = self._forth_numpy(x)
        deviation = z.std(axis=0)
        return np.stack([z.mean(axis=0), np.log(np.where(deviation > 0, deviation, 1.0))], axis=-1)

    def features(self, x: Array, units: Array | None = None) -> Array:
        """Return z, `[...] -> [..., 1]`; NaN outside the support."""
        x = self.as_values("x", x)
        z = self._forth(x)[0]
        if units is not None:
            z = (z - units[..., 0]) * jnp.exp(-units[..., 1])
        return nan_unless(self.is_value(x), z)[..., None]

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return the log-density in nats, `[...]`, of outputs `[..., P + 2]` and values `[...]`."""
        outputs, center, log_unit = self._parts(outputs)
        x = self.as_values("x", x)
        z, log_slope = self._forth(x)
        z = (z - center) * jnp.exp(-log_unit)
        log_prob = self._log_density(outputs, z) + log_slope - log_unit
        return nan_unless(self.is_value(x), log_prob)

    def cdf(self, outputs: Array, x: Array, share: Array | float = 1.0) -> Array:
        """Return the CDF, `[...]`; no value has a share of its own."""
        del share
        outputs, center, log_unit = self._parts(outputs)
        x = self.as_values("x", x)
        z = (self._forth(x)[0] - center) * jnp.exp(-log_unit)
        return nan_unless(self.is_value(x), jnp.exp(self._log_tail(outputs, z, jnp.ones_like(z))))

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms to values, `[...]`; 0 counts as the least number above it, and 1 likewise.

        Gradients are those of the implicit function, in outputs and uniforms.
        """
        outputs, center, log_unit = self._parts(outputs)
        shape = jnp.broadcast_shapes(center.shape, jnp.shape(u))
        outputs = jnp.broadcast_to(outputs, (*shape, outputs.shape[-1]))
        u = jnp.broadcast_to(jnp.asarray(u, center.dtype), shape)
        limits = jnp.finfo(u.dtype)
        u = jnp.clip(u, limits.tiny, 1 - limits.epsneg)
        z = self._implicit(outputs, u, self._solve(*jax.lax.stop_gradient((outputs, u))))
        x = self._back(center + jnp.exp(log_unit) * z).astype(jnp.result_type(float))
        lowest, highest = self._inner_ends(x.dtype)
        return jnp.clip(x, lowest, highest)

    def mean(self, outputs: Array) -> Array:
        """Return the mean, `[...]`, by quadrature over the uniforms: heavy tails are cut."""
        rule = gauss_legendre(0.0, 1.0, _NUM_MEAN_NODES)
        outputs = jnp.asarray(outputs)[..., None, :]
        shape = (1,) * (outputs.ndim - 2) + (-1,)
        u = jnp.asarray(rule.nodes, outputs.dtype).reshape(shape)
        return self.quantile(outputs, u) @ jnp.asarray(rule.weights, outputs.dtype)

    def _inner_ends(self, dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest number inside the support."""
        lower, upper = (np.asarray(end, dtype) for end in self.support)
        return np.nextafter(lower, upper), np.nextafter(upper, lower)

    def _log_density(self, outputs: Array, z: Array) -> Array:
        raise NotImplementedError

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        raise NotImplementedError

    def _solve(self, outputs: Array, u: Array) -> Array:
        raise NotImplementedError

    def _implicit(self, outputs: Array, u: Array, z: Array) -> Array:
        """Return z, with the gradients that solving F(z) = u gives it."""
        z = jax.lax.stop_gradient(z)
        sign, log_target = nearer_tail(u)
        log_tail = self._log_tail(outputs, z, sign)
        # Where the density underflows there is no gradient to speak of, but no infinity either.
        log_slope = jnp.minimum(log_tail - self._log_density(outputs, z), 60.0)
        residual = log_tail - log_target
        step = sign * jnp.exp(jax.lax.stop_gradient(log_slope))
        return z - step * (residual - jax.lax.stop_gradient(residual))

    def _parts(self, outputs: Array) -> tuple[Array, Array, Array]:
        """Return the network's outputs, the center and the log-unit."""
        outputs = jnp.asarray(outputs)
        expected = self.num_outputs + self.num_units
        if outputs.shape[-1] != expected:
            raise ValueError(
                f"outputs must have {expected} numbers a coordinate, {self.num_outputs} and "
                f"{self.num_units} of units, got {outputs.shape[-1]}"
            )
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        return outputs[..., :-2], outputs[..., -2], outputs[..., -1]

    def _forth(self, x: Array) -> tuple[Array, Array]:
        """Return τ(x) and log τ'(x); what is not in the support counts as its inner point."""
        lower, upper = self.support
        x = jnp.where(self.is_value(x), x, jax.lax.stop_gradient(self.start(x.shape)))
        has_lower, has_upper = math.isfinite(lower), math.isfinite(upper)
        if not has_lower and not has_upper:
            return x, jnp.zeros_like(x)
        low = jnp.log(x - lower) if has_lower else jnp.zeros_like(x)
        high = jnp.log(upper - x) if has_upper else jnp.zeros_like(x)
        log_width = math.log(upper - lower) if has_lower and has_upper else 0.0
        return low - high, log_width - low - high

    def _forth_numpy(self, x: np.ndarray) -> np.ndarray:
        lower, upper = self.support
        x = np.asarray(x, np.float64)
        if x.size and not (np.isfinite(x) & (x > lower) & (x < upper)).all():
            raise ValueError(
                f"x must be finite and inside the support {self.support}, got values in "
                f"[{x.min()}, {x.max()}]"
            )
        if not math.isfinite(lower) and not math.isfinite(upper):
            return x
        low = np.log(x - lower) if math.isfinite(lower) else np.zeros_like(x)
        return low - np.log(upper - x) if math.isfinite(upper) else low

    def _back(self, z: Array) -> Array:
        """Return τ⁻¹(z)."""
        lower, upper = self.support
        if math.isfinite(lower) and math.isfinite(upper):
            return lower + (upper - lower) * jax.nn.sigmoid(z)
        if math.isfinite(lower):
            return lower + jnp.exp(z)
        return upper - jnp.exp(-z) if math.isfinite(upper) else z


def nearer_tail(u: Array) -> tuple[Array, Array]:
    """Return which tail is the nearer, 1 or −1, and the logarithm of its probability."""
    is_lower = u < 0.5
    sign = jnp.where(is_lower, 1.0, -1.0).astype(u.dtype)
    return sign, jnp.log(jnp.where(is_lower, u, 1 - u))  # 1 − u is exact from 0.5 on


def invert(
    excess_fn: Callable[[Array], tuple[Array, Array]],
    bracket: tuple[Array, Array],
    guess: Array,
    num_steps: int,
) -> Array:
    """Return the root of an increasing function, by Newton's steps within a bracket that shrinks.

    A step that leaves the bracket halves it instead, as does every third. The last ten go to its
    nearer end: there one end is the root itself, and a concave function's step oversteps it. The
    work is fixed.

    Args:
      excess_fn: gives the function and its slope at points, `[...]` each.
      bracket: points below and above the root, `[...]` each.
      guess: where to begin, `[...]`.
      num_steps: how often the function is asked.
    """

    def refine(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, z = carry
        excess, slope = excess_fn(z)
        low, high = jnp.where(excess < 0, z, low), jnp.where(excess > 0, z, high)
        newton = z - excess / slope
        is_inside = (newton >= low) & (newton <= high) & (i % 3 != 1)
        early = jnp.where(is_inside, newton, low + (high - low) / 2)
        return low, high, jnp.where(i < num_steps - 10, early, jnp.clip(newton, low, high))

    return jax.lax.fori_loop(0, num_steps, refine, (*bracket, guess))[2]
