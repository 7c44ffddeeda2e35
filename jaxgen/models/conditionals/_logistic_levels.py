"""Many levels by few numbers: logistics, integrated over the cells of the levels."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import as_symbols, nan_unless
from jaxgen.core._checks import check_count, check_shape
from jaxgen.core._conditional import Conditional
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._types import Array


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Conditional):
    r"""Many levels by few numbers: a mixture of logistics, each integrated over a level's cell.

    .. math:: p(v) = \sum_k \pi_k [\sigma((v^+ - \mu_k) / s_k) - \sigma((v^- - \mu_k) / s_k)]

    Level v stands at 2v / (V − 1) − 1 and its cell reaches halfway to its neighbors; the cells of
    the first and the last level reach to ∓∞, so the levels sum to one (Salimans et al. 2017).
    It is computed in logarithms throughout, so that neither tail nor any scale loses it. A logistic
    narrower than an eighth of a cell says no more, and its gradient would grow without bound:
    log-scales count as at least `smallest_log_scale`.

    Attributes:
      num_symbols: V.
      num_components: K; the outputs are K mixture logits, K means μ and K log-scales log s.
    """

    num_symbols: int = 256
    num_components: int = 10

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_symbols", self.num_symbols, minimum=2)
        check_count("num_components", self.num_components)

    @property
    def num_outputs(self) -> int:
        """Return 3 K."""
        return 3 * self.num_components

    @property
    def num_features(self) -> int:
        """Return 1."""
        return 1

    def _code(self, x: Array) -> Array:
        """Return levels scaled to [−1, 1], `[...] -> [..., 1]`."""
        return (2.0 * x / (self.num_symbols - 1) - 1.0)[..., None]

    @property
    def smallest_log_scale(self) -> float:
        """Return −7, or the logarithm of an eighth of a cell where that is less."""
        return min(-7.0, math.log(self._width / 8))

    @property
    def _width(self) -> float:
        return 2 / (self.num_symbols - 1)

    def logits(self, outputs: Array) -> Array:
        """Return log-probabilities of every level, `[..., 3 K] -> [..., V]`.

        One component comes after the other, so that levels times components are never formed.
        """
        columns = (jnp.split(c, self.num_components, axis=-1) for c in self._components(outputs))
        terms = [self._of_every_level(*component) for component in zip(*columns, strict=True)]
        shift = jax.lax.stop_gradient(functools.reduce(jnp.maximum, (log for log, _ in terms)))
        return shift + jnp.log(sum(jnp.exp(log - shift) / divisor for log, divisor in terms))

    def _of_every_level(self, weight: Array, mean: Array, log_scale: Array) -> tuple[Array, Array]:
        r"""Return t and q of :math:`\pi_k p_k(v) = e^t / q`, `[..., 1] -> [..., V]`.

        With :math:`\sigma(b) \sigma(-a) = e^{\min(b, 0) - \max(a, 0)} / (1 + e^{-|a|}) / (1 +
        e^{-|b|})` each edge takes one exponential, and q is in [1, 4].
        """
        level = jnp.arange(self.num_symbols).reshape((1,) * (weight.ndim - 1) + (-1,))
        is_first, is_last = level == 0, level == self.num_symbols - 1
        scale = jnp.exp(-log_scale)
        upper = jnp.where(is_last, jnp.inf, (self._edge(level) - mean) * scale)
        lower = jnp.where(is_first, -jnp.inf, (self._edge(level - 1) - mean) * scale)
        log_share = _log_one_minus_exp(math.log(self._width) - log_scale)
        log = weight + jnp.minimum(upper, 0.0) - jnp.maximum(lower, 0.0)
        log = log + jnp.where(is_first | is_last, 0.0, log_share)
        return log, (1 + jnp.exp(-jnp.abs(lower))) * (1 + jnp.exp(-jnp.abs(upper)))

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return log p(x) in nats, `[...]`, by two CDFs a component; NaN for what is no level."""
        x = as_symbols("x", x, self.num_symbols)
        return nan_unless(x >= 0, log_sum_exp(self.joint_log_probs(outputs, x), axis=-1))

    def joint_log_probs(self, outputs: Array, x: Array) -> Array:
        """Return log π_k + log p_k(x) of each component, nats `[..., K]`, for levels in [0, V)."""
        weights, means, log_scales = self._components(outputs)
        upper = (self._edge(x)[..., None] - means) * jnp.exp(-log_scales)
        lower = (self._edge(x - 1)[..., None] - means) * jnp.exp(-log_scales)
        is_first, is_last = (x == 0)[..., None], (x == self.num_symbols - 1)[..., None]
        # σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{a−b}) loses nothing to cancellation, in either tail.
        log_share = _log_one_minus_exp(math.log(self._width) - log_scales)
        return (
            weights
            + jnp.where(is_last, 0.0, jax.nn.log_sigmoid(upper))
            + jnp.where(is_first, 0.0, jax.nn.log_sigmoid(-lower))
            + jnp.where(is_first | is_last, 0.0, log_share)
        )

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms to levels by bisection of the CDF, `[...]`; NaN outputs give −1."""
        weights, means, log_scales = self._components(outputs)
        u = jnp.asarray(u)
        shape = jnp.broadcast_shapes(u.shape, outputs.shape[:-1])
        u = jnp.broadcast_to(u, shape)

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            z = (self._edge(middle)[..., None] - means) * jnp.exp(-log_scales)
            is_beyond = u < jnp.sum(jnp.exp(weights) * jax.nn.sigmoid(z), axis=-1)
            return jnp.where(is_beyond, low, middle + 1), jnp.where(is_beyond, middle, high)

        start = jnp.zeros(shape, jnp.int32)
        num_halvings = (self.num_symbols - 1).bit_length()
        bounds = (start, start + self.num_symbols - 1)
        _, level = jax.lax.fori_loop(0, num_halvings, halve, bounds)
        return jnp.where(jnp.any(jnp.isnan(outputs), axis=-1), -1, level)

    def mean(self, outputs: Array) -> Array:
        """Return the expected level, `[...]`, by a sum over all."""

        def add(symbol: Array, total: Array) -> Array:
            level = jnp.full(outputs.shape[:-1], symbol)
            return total + symbol * jnp.exp(self.log_prob(outputs, level))

        start = jnp.zeros(outputs.shape[:-1], outputs.dtype)
        return jax.lax.fori_loop(0, self.num_symbols, add, start)

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return components spread over the mean and deviation of each coordinate, `[D, 3 K]`."""
        x = np.asarray(self.features(jnp.asarray(x)))[..., 0]
        mean, deviation = x.mean(0)[:, None], np.maximum(x.std(0), 0.02)[:, None]
        spread = (2.0 * np.arange(self.num_components) + 1.0) / self.num_components - 1.0
        locations = mean + deviation * spread
        scale = deviation / (self.num_components * 1.8)  # a logistic's deviation is 1.8 scales
        log_scales = np.broadcast_to(np.log(scale), locations.shape)
        return np.concatenate([np.zeros_like(locations), locations, log_scales], -1)

    def _edge(self, x: Array) -> Array:
        """Return where the cell of a level ends."""
        return (2.0 * x + 1.0) / (self.num_symbols - 1) - 1.0

    def _components(self, outputs: Array) -> tuple[Array, Array, Array]:
        check_shape("outputs", outputs, (*outputs.shape[:-1], self.num_outputs))
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        weights, means, log_scales = jnp.split(outputs, 3, axis=-1)
        log_scales = jnp.maximum(log_scales, self.smallest_log_scale)
        return jax.nn.log_softmax(weights, axis=-1), means, log_scales


def _log_one_minus_exp(log_d: Array) -> Array:
    """Return log(1 − exp(−d)) of log d: also where d itself underflows."""
    d = jnp.exp(log_d)
    is_small = d < 0.01
    direct = jnp.log(-jnp.expm1(-jnp.where(is_small, 1.0, d)))
    return jnp.where(is_small, log_d - d / 2 + d**2 / 24, direct)
