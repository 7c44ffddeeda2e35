"""Angles: mixtures of von Mises densities, on an interval whose ends are one point."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import nan_unless
from jaxgen.core._bessel import log_i0e, mean_versine
from jaxgen.core._checks import check_count, check_rank
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
from jaxgen.models.conditionals._reals import Reals, invert, nearer_tail

_LARGEST_NORM = 100.0  # of an output vector; its concentration is about the cube of it
_DEPTH = 37.0  # exponent at which a density counts as none: e⁻³⁷ is a rounding of one in float64
_NUM_NODES = 32
_NUM_STEPS = 40
_SMALL = 1e-6  # norm of a vector whose direction is not asked for


@dataclasses.dataclass(frozen=True)
class Angles(Reals):
    r"""A mixture of K von Mises densities on a circle.

    .. math:: p(x) = \frac{2\pi}{b - a} \sum_k \pi_k
       \frac{e^{\kappa_k \cos(\theta - \mu_k)}}{2\pi I_0(\kappa_k)},
       \qquad \theta = \pi\, \frac{2x - a - b}{b - a}

    Values lie in [a, b], whose ends are one point. The outputs are K logits of the weights, then K
    first and K second coordinates of vectors in the plane: a vector v points to μ, and κ = |v| +
    |v|³. So all is smooth in the outputs, through uniform at v = 0 and across the ends. A network
    sees cos θ and sin θ. CDF and quantile begin at a; they are by Gauss and Legendre's rule over
    the part of each bump that is not negligible, to 1e-6 in float32 and 1e-12 in float64. A circle
    has no units but its own. The mean is the direction of the mean vector.

    Attributes:
      support: the ends (a, b), finite: one turn, as (0, 360).
      num_components: K.
    """

    support: tuple[float, float] = (-math.pi, math.pi)
    num_units: int = dataclasses.field(default=0, init=False)
    num_components: int = 10

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if not np.isfinite(self.support).all():
            raise ValueError(f"support must be one turn with finite ends, got {self.support!r}")
        check_count("num_components", self.num_components)

    @property
    def num_outputs(self) -> int:
        """Return 3 K."""
        return 3 * self.num_components

    @property
    def num_features(self) -> int:
        """Return 2."""
        return 2

    def is_value(self, x: Array) -> Array:
        """Return where values `[...]` lie on the turn, its ends included."""
        return (x >= self.support[0]) & (x <= self.support[1])

    def units(self, x: np.ndarray) -> np.ndarray:
        """Return nothing for each coordinate of `[N, D]`, `[D, 0]`."""
        self._forth_numpy(x)
        return np.zeros((x.shape[1], 0))

    def features(self, x: Array, units: Array | None = None) -> Array:
        """Return cos θ and sin θ, `[...] -> [..., 2]`; NaN outside the turn."""
        del units
        x = self.as_values("x", x)
        angle = self._forth(x)[0]
        on_circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return nan_unless(self.is_value(x)[..., None], on_circle)

    def mean(self, outputs: Array) -> Array:
        """Return the direction of the mean vector, `[...]`."""
        log_weights, concentrations, directions, _ = self._components(self._parts(outputs)[0])
        lengths = jnp.exp(log_weights) * (1 - mean_versine(concentrations))
        x, y = (jnp.sum(lengths * part, axis=-1) for part in directions)
        return self._back(jnp.arctan2(y, x))

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return bumps at quantiles, counted from the emptiest point, `[D, P]`."""
        check_rank("x", x, 2)
        shares = (np.arange(self.num_components) + 0.5) / self.num_components
        places = np.stack(
            [_circular_quantiles(column, shares) for column in self._forth_numpy(x).T]
        )
        gap = 2 * math.pi / self.num_components
        norm = np.full_like(places, min(1.0, 1 / gap))
        zeros = np.zeros_like(places)
        return np.concatenate([zeros, norm * np.cos(places), norm * np.sin(places)], axis=-1)

    def _log_density(self, outputs: Array, z: Array) -> Array:
        log_weights, concentrations, directions, _ = self._components(outputs)
        x, y = (part[..., None] for part in (jnp.cos(z), jnp.sin(z)))
        # 1 − cos of the difference, half the square of a chord, which no cancellation spoils.
        versine = ((x - directions[0]) ** 2 + (y - directions[1]) ** 2) / 2
        _, first, second = jnp.split(outputs, 3, axis=-1)
        square = first**2 + second**2
        # A short vector has no direction to speak of: there κ cos comes without one.
        cosine = (1 + jnp.minimum(square, 1.0)) * (first * x + second * y)
        exponent = jnp.where(square < 1, cosine - concentrations, -concentrations * versine)
        terms = log_weights + exponent - log_i0e(concentrations)
        return log_sum_exp(terms, axis=-1) - math.log(2 * math.pi)

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        log_weights, concentrations, _, places = self._components(outputs)
        end = jnp.where(sign > 0, -math.pi, math.pi)[..., None]
        to_end, to_z = (_mass(p - places, concentrations) for p in (end, z[..., None]))
        tail = jnp.sum(jnp.exp(log_weights) * sign[..., None] * (to_z - to_end), axis=-1)
        # What is less than the square of a rounding is nothing, and its gradient would overflow.
        return jnp.log(jnp.maximum(tail, jnp.finfo(tail.dtype).eps ** 2))

    def _solve(self, outputs: Array, u: Array) -> Array:
        sign, log_target = nearer_tail(u)

        def excess(z: Array) -> tuple[Array, Array]:
            log_tail = self._log_tail(outputs, z, sign)
            off = sign * (jnp.exp(log_tail) - jnp.exp(log_target))
            return off, jnp.exp(self._log_density(outputs, z))

        ends = jnp.full_like(u, -math.pi), jnp.full_like(u, math.pi)
        return invert(excess, ends, math.pi * (2 * u - 1), _NUM_STEPS)

    def _components(self, outputs: Array) -> tuple[Array, Array, tuple[Array, Array], Array]:
        """Return log-weights, concentrations, unit vectors and places, `[..., K]` each."""
        logits, x, y = jnp.split(outputs, 3, axis=-1)
        square = x**2 + y**2
        is_short = square < _SMALL**2
        norm = jnp.sqrt(jnp.where(is_short, _SMALL**2, square))
        direction = jnp.where(is_short, 1.0, x / norm), jnp.where(is_short, 0.0, y / norm)
        norm = jnp.minimum(norm, _LARGEST_NORM)
        places = jnp.arctan2(direction[1], direction[0])
        return jax.nn.log_softmax(logits, axis=-1), norm + norm**3, direction, places

    def _parts(self, outputs: Array) -> tuple[Array, Array, Array]:
        """Return the network's outputs, and zeros where others have a center and a log-unit."""
        outputs = jnp.asarray(outputs)
        if outputs.shape[-1] != self.num_outputs:
            raise ValueError(
                f"outputs must have {self.num_outputs} numbers a coordinate, got "
                f"{outputs.shape[-1]}"
            )
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        zeros = jnp.zeros_like(outputs[..., 0])
        return outputs, zeros, zeros

    def _inner_ends(self, dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends, which are values themselves."""
        lower, upper = (np.asarray(end, dtype) for end in self.support)
        return lower, upper

    def _forth(self, x: Array) -> tuple[Array, Array]:
        """Return θ in [−π, π] and log dθ/dx; what is no value counts as θ = 0."""
        lower, upper = self.support
        x = jnp.where(self.is_value(x), x, (lower + upper) / 2)
        rate = 2 * math.pi / (upper - lower)
        return (x - (lower + upper) / 2) * rate, jnp.full_like(x, math.log(rate))

    def _forth_numpy(self, x: np.ndarray) -> np.ndarray:
        lower, upper = self.support
        x = np.asarray(x, np.float64)
        # As float32, which data may be, the ends may be rounded outward.
        least, most = min(lower, np.float32(lower)), max(upper, np.float32(upper))
        if x.size and not ((x >= least) & (x <= most)).all():
            raise ValueError(
                f"x must lie on the turn {self.support}, got values in [{x.min()}, {x.max()}]"
            )
        return (x - (lower + upper) / 2) * (2 * math.pi / (upper - lower))

    def _back(self, z: Array) -> Array:
        """Return the value of an angle θ."""
        lower, upper = self.support
        return (lower + upper) / 2 + z * ((upper - lower) / (2 * math.pi))


def _mass(angle: Array, concentration: Array) -> Array:
    """Return the mass from a bump's center to an angle, turns counted, `[...]`; it is odd."""
    turns = jax.lax.stop_gradient(jnp.round(angle / (2 * math.pi)))
    within = angle - 2 * math.pi * turns
    # Where κ (1 − cos) exceeds the depth, there is nothing beyond.
    reach = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(_DEPTH / 2 / concentration, 1.0)))
    reach = jax.lax.stop_gradient(reach)
    length = jnp.clip(within, -reach, reach)
    rule = gauss_legendre(0.0, 1.0, _NUM_NODES)
    shape = (1,) * length.ndim + (-1,)
    nodes, weights = (jnp.asarray(a, length.dtype).reshape(shape) for a in rule)
    half = jnp.sin(length[..., None] * nodes / 2)
    density = jnp.exp(-2 * concentration[..., None] * half**2 - log_i0e(concentration)[..., None])
    return turns + length * jnp.sum(weights * density, axis=-1) / (2 * math.pi)


def _circular_quantiles(angles: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return quantiles of angles `[N]`, counted from the end of the widest gap between them."""
    angles = np.sort(angles)
    gaps = np.diff(angles, append=angles[0] + 2 * math.pi)
    start = (np.argmax(gaps) + 1) % len(angles)
    unrolled = np.concatenate([angles[start:], angles[:start] + 2 * math.pi])
    return np.quantile(unrolled, shares)
