"""Mixtures of bumps that stand on the line of the data and end at a bound: cut off, or folded."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._types import Array
from jaxgen.models.conditionals._mixture import Mixture, student_t_log_cdf
from jaxgen.models.conditionals._reals import invert, nearer_tail

_NUM_STEPS = 64
_FARTHEST = {False: 80.0, True: 40.0}  # of log-distances to an end, and of log-odds
# Where both ends are finite: the widest bump in parts of the interval, and images to each side,
# which reach to where it has ended; wider ones folded are flat.
_FOLDS = {"normal": (1.0, 6), "logistic": (0.5, 11)}
_WIDEST_CUT = 10.0
_FARTHEST_OUT = 20.0  # scales: beyond, differences of logarithms of tails lose their digits


@dataclasses.dataclass(frozen=True)
class _Bounded(Mixture):
    """Base of both: z is in the units of the data, and the ends are values themselves."""

    support: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if np.isinf(self.support).all():
            raise ValueError(
                f"support must have a finite end, got {self.support}: on the line it is `Mixture`"
            )

    def is_value(self, x: Array) -> Array:
        """Return where values `[...]` lie inside the support, its ends included."""
        return jnp.isfinite(x) & (x >= self.support[0]) & (x <= self.support[1])

    def start(self, shape: tuple[int, ...]) -> Array:
        """Return the value nearest to zero, of a shape."""
        return jnp.full(shape, np.clip(0.0, *self.support), jnp.result_type(float))

    @property
    def _has_lower(self) -> bool:
        return math.isfinite(self.support[0])

    @property
    def _has_upper(self) -> bool:
        return math.isfinite(self.support[1])

    @property
    def _is_interval(self) -> bool:
        return self._has_lower and self._has_upper

    def _inner_ends(self, dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest value."""
        ends = np.asarray(self.support, dtype)
        lower, upper = np.where(np.isfinite(ends), ends, np.nextafter(ends, np.zeros(2, dtype)))
        return lower, upper

    def _forth(self, x: Array) -> tuple[Array, Array]:
        x = jnp.where(self.is_value(x), x, self.start(x.shape))
        return x, jnp.zeros_like(x)

    def _forth_numpy(self, x: np.ndarray) -> np.ndarray:
        lower, upper = self.support
        x = np.asarray(x, np.float64)
        # As float32, which data may be, the ends may be rounded outward.
        least, most = min(lower, np.float32(lower)), max(upper, np.float32(upper))
        if x.size and not (np.isfinite(x) & (x >= least) & (x <= most)).all():
            raise ValueError(
                f"x must be finite and from {lower} to {upper}, got values in "
                f"[{x.min()}, {x.max()}]"
            )
        return x

    def _back(self, z: Array) -> Array:
        return z

    def _parts(self, outputs: Array) -> tuple[Array, Array, Array]:
        """Return the network's outputs and both ends in units behind them, center and log-unit."""
        own, center, log_unit = super()._parts(outputs)
        ends = [
            (end - center) * jnp.exp(-log_unit) if math.isfinite(end) else jnp.zeros_like(center)
            for end in self.support
        ]
        return jnp.concatenate([own, jnp.stack(ends, axis=-1)], axis=-1), center, log_unit

    def _ends(self, outputs: Array) -> tuple[Array, Array]:
        """Return the ends in units, `[...]` each; zeros, which are not read, for infinite ones."""
        return outputs[..., -2], outputs[..., -1]

    def _components(self, outputs: Array) -> tuple[Array, Array, Array, Array]:
        """Return log-weights, places, log-scales up to the widest, and degrees of freedom."""
        logits, places, log_scales, degrees = super()._components(outputs[..., :-2])
        if self._is_interval:
            lower, upper = self._ends(outputs)
            widest = jnp.log(self._widest * (upper - lower))
            log_scales = jnp.minimum(log_scales, widest[..., None])
        return logits, places, log_scales, degrees

    @property
    def _widest(self) -> float:
        """Return the largest scale of a bump in parts of an interval."""
        raise NotImplementedError

    def _log_masses(self, outputs: Array, z: Array) -> tuple[Array, Array]:
        """Return the logarithms of the mass below and above points, `[...]` each."""
        raise NotImplementedError

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        below, above = self._log_masses(outputs, z)
        return jnp.where(sign > 0, below, above)

    def _solve(self, outputs: Array, u: Array) -> Array:
        """Solve in the log-distance to the end, or in log-odds."""
        sign, log_target = nearer_tail(u)

        def excess(v: Array) -> tuple[Array, Array]:
            z, slope = self._at(outputs, v)
            log_tail = self._log_tail(outputs, z, sign)
            rate = jnp.exp(jnp.maximum(self._log_density(outputs, z) - log_tail, -60.0))
            return sign * (log_tail - log_target), jnp.maximum(rate * slope, 1e-30)

        far = jnp.full_like(u, _FARTHEST[self._is_interval])
        return self._at(outputs, invert(excess, (-far, far), 0 * far, _NUM_STEPS))[0]

    def _at(self, outputs: Array, v: Array) -> tuple[Array, Array]:
        """Return z of a log-distance or log-odds v, and dz/dv."""
        lower, upper = self._ends(outputs)
        if not self._has_lower:
            return upper - jnp.exp(-v), jnp.exp(-v)
        if not self._has_upper:
            return lower + jnp.exp(v), jnp.exp(v)
        share, rest = jax.nn.sigmoid(v), jax.nn.sigmoid(-v)
        return lower * rest + upper * share, (upper - lower) * share * rest

    def _log_cdf(self, t: Array, degrees: Array) -> Array:
        """Return log F(t) of one bump, `[...]`."""
        if self.family == "normal":
            return jax.scipy.special.log_ndtr(t)
        if self.family == "logistic":
            return jax.nn.log_sigmoid(t)
        return student_t_log_cdf(t, degrees)

    def _log_between(self, low: Array | None, high: Array | None, degrees: Array) -> Array:
        """Return log(F(high) − F(low)) of one bump, `[...]`, None for an infinite end."""
        if low is None or high is None:
            assert low is not None or high is not None  # one end is finite
            return self._log_cdf(-low if high is None else high, degrees)  # type: ignore[operator]
        # In whichever tail it lies: bumps are symmetric.
        is_upper = low + high > 0
        low, high = jnp.where(is_upper, -high, low), jnp.where(is_upper, -low, high)
        whole = self._log_cdf(high, degrees)
        less = self._log_cdf(low, degrees) - whole
        return whole + jnp.log(-jnp.expm1(jnp.minimum(less, -jnp.finfo(less.dtype).eps)))


@dataclasses.dataclass(frozen=True)
class TruncatedMixture(_Bounded):
    r"""A mixture of bumps, each cut off at the ends of the support and scaled up to one.

    .. math:: p(x) = \sum_k \frac{\pi_k}{s_k}
       \frac{f((x - \mu_k) / s_k)}{F((b - \mu_k) / s_k) - F((a - \mu_k) / s_k)}

    The density at an end is what the bumps say, with a jump to nothing beyond it; the ends are
    values themselves, so that columns with zeros have it. A bump whose place is outside adds a
    slope that falls away from its end; it counts as 20 scales out at most. Outputs are those of
    `Mixture`, in the units of the data.

    Attributes:
      support: the ends [a, b], at least one of them finite.
    """

    @property
    def _widest(self) -> float:
        return _WIDEST_CUT

    def _components(self, outputs: Array) -> tuple[Array, Array, Array, Array]:
        """Return log-weights, places not too far out, log-scales and degrees of freedom."""
        log_weights, places, log_scales, degrees = super()._components(outputs)
        lower, upper = (end[..., None] for end in self._ends(outputs))
        reach = _FARTHEST_OUT * jnp.exp(log_scales)
        if self._has_lower:
            places = jnp.maximum(places, lower - reach)
        if self._has_upper:
            places = jnp.minimum(places, upper + reach)
        return log_weights, places, log_scales, degrees

    def _log_density(self, outputs: Array, z: Array) -> Array:
        log_weights, places, log_scales, degrees = self._components(outputs)
        t = (z[..., None] - places) * jnp.exp(-log_scales)
        ends = self._standard_ends(outputs, places, log_scales)
        log_wholes = self._log_between(*ends, degrees)
        terms = self._log_bump(t, degrees) - log_scales - log_wholes
        return log_sum_exp(log_weights + terms, axis=-1)

    def _log_masses(self, outputs: Array, z: Array) -> tuple[Array, Array]:
        log_weights, places, log_scales, degrees = self._components(outputs)
        t = (z[..., None] - places) * jnp.exp(-log_scales)
        lower, upper = self._standard_ends(outputs, places, log_scales)
        log_shares = log_weights - self._log_between(lower, upper, degrees)
        below, above = (
            log_sum_exp(log_shares + self._log_between(low, high, degrees), axis=-1)
            for low, high in ((lower, t), (t, upper))
        )
        return below, above

    def _standard_ends(
        self, outputs: Array, places: Array, log_scales: Array
    ) -> tuple[Array | None, Array | None]:
        """Return the ends as each bump sees them, `[..., K]`."""
        lower, upper = (
            (end[..., None] - places) * jnp.exp(-log_scales) if is_finite else None
            for end, is_finite in zip(
                self._ends(outputs), (self._has_lower, self._has_upper), strict=True
            )
        )
        return lower, upper


@dataclasses.dataclass(frozen=True)
class FoldedMixture(_Bounded):
    r"""A mixture of bumps on the line, folded back at the ends of the support.

    .. math:: p(x) = \sum_y p_{\mathrm{line}}(y), \qquad y \text{ all images of } x

    At one end a, images are x and 2a − x, as of |y| for a = 0; between two ends they are x and
    2a − x, each with all multiples of 2 (b − a). The density is level at an end. Bumps between two
    ends are as wide as the interval at most, logistics half as wide: wider ones are flat. The ends
    are values themselves. Outputs are those of `Mixture`, in the units of the data.

    Attributes:
      support: the ends [a, b], at least one of them finite; of Student t's, one.
    """

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self._is_interval and self.family not in _FOLDS:
            raise ValueError(
                f"family must be one of {', '.join(_FOLDS)} between two finite ends, got "
                f"{self.family!r}: its tails have too many images"
            )

    @property
    def _widest(self) -> float:
        return _FOLDS[self.family][0]

    def _log_density(self, outputs: Array, z: Array) -> Array:
        _, _, log_scales, degrees = self._components(outputs)
        log_weights, t, mirrored, _ = self._images(outputs, z)
        both = [self._log_bump(s, degrees[..., None]) for s in (t, mirrored)]
        terms = jnp.concatenate(both, axis=-1) - log_scales[..., None]
        return _log_sum(log_weights + terms)

    def _log_masses(self, outputs: Array, z: Array) -> tuple[Array, Array]:
        degrees = self._components(outputs)[-1][..., None]
        log_weights, t, mirrored, mirrored_above = self._images(outputs, z)

        def beyond(*images: Array) -> Array:
            return jnp.concatenate([self._log_cdf(s, degrees) for s in images], axis=-1)

        between = partial(self._log_between, degrees=degrees)
        below = between(mirrored, t) if self._has_lower else beyond(t, -mirrored)
        above = between(t, mirrored_above) if self._has_upper else beyond(-t, mirrored)
        first, second = (_log_sum(log_weights + part) for part in (below, above))
        return first, second

    def _images(self, outputs: Array, z: Array) -> tuple[Array, Array, Array, Array]:
        """Return log-weights `[..., K, 1]`, and the images as each bump sees them, `[..., K, I]`.

        The points themselves, those mirrored at an end, and those at the upper end.
        """
        log_weights, places, log_scales, _ = self._components(outputs)
        lower, upper = (end[..., None, None] for end in self._ends(outputs))
        z, places = z[..., None, None], places[..., None]
        shift = jnp.zeros_like(z)
        if self._is_interval:
            turn, most = 2 * (upper - lower), _FOLDS[self.family][1]
            # A bump that is moved by a whole turn is the same: so all lie about the lower end.
            places -= turn * jnp.round((places - lower) / turn)
            shift = turn * jnp.arange(-most, most + 1).reshape((1,) * (z.ndim - 1) + (-1,))
        first, last = lower if self._has_lower else upper, upper if self._has_upper else lower
        t, mirrored, above = (
            (point + shift - places) * jnp.exp(-log_scales)[..., None]
            for point in (z, 2 * first - z, 2 * last - z)
        )
        return log_weights[..., None], t, mirrored, above


def _log_sum(terms: Array) -> Array:
    """Return the logarithm of a sum over bumps and images, `[..., K, I] -> [...]`."""
    return log_sum_exp(terms.reshape(*terms.shape[:-2], -1), axis=-1)
