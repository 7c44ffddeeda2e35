r"""Distributions of one coordinate, given what a network says of it.

Each is a small frozen value, a field of a model under either contract: in a chain it is
p(x_i | x_<i), in a latent-variable model p(x_i | z). It says how many outputs the network must give
for a coordinate, and what they mean.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import as_symbols, nan_unless
from jaxgen.core._checks import (
    check_count,
    check_float_array,
    check_integer_array,
    check_rank,
    check_shape,
)
from jaxgen.core._likelihood_terms import bernoulli_log_prob, categorical_log_prob
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._types import Array
from jaxgen.samplers._categorical import categorical_quantile


def thermometer(x: Array, num_symbols: int) -> Array:
    """Encode symbols as the levels they reach: (x ≥ 1, x ≥ 2, …, x ≥ V − 1).

    A linear layer over it has the freedom of one over a one-hot code, but neighboring levels share
    their weights. For bits (V = 2) it is the bit itself.

    Args:
      x: integers in [0, V), `[...]`.
      num_symbols: V.

    Returns:
      Zeros and ones, float32 `[..., V − 1]`.

    >>> import jax.numpy as jnp
    >>> thermometer(jnp.array([0, 2, 3]), 4).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    levels = jnp.arange(1, num_symbols).reshape((1,) * jnp.ndim(x) + (-1,))
    return (jnp.asarray(x)[..., None] >= levels).astype(jnp.float32)


class Conditional:
    """Base of all: symbols in [0, V), by their logits.

    Attributes:
      num_symbols: V; None for reals.
      num_outputs: P, the numbers that the network gives for a coordinate.
      num_shared: how many parameters all coordinates share; they follow the outputs.
      num_features: F, the numbers by which a value enters a network.
    """

    num_symbols: int | None
    num_shared: int = 0

    @property
    def num_outputs(self) -> int:
        """Return P."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Return F."""
        raise NotImplementedError

    def features(self, x: Array) -> Array:
        """Encode values `[...]` as floats of order one, `[..., F]`; NaN for what is no symbol."""
        if self.num_symbols is None:
            raise NotImplementedError
        x = as_symbols("x", x, self.num_symbols)
        return nan_unless((x >= 0)[..., None], self._code(x))

    def _code(self, x: Array) -> Array:
        """Encode symbols, int32 `[...]`, as floats of order one, `[..., F]`."""
        raise NotImplementedError

    def logits(self, outputs: Array) -> Array:
        """Return unnormalized log-probabilities of all symbols, `[..., P] -> [..., V]`."""
        raise NotImplementedError

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return log p(x) in nats, `[...]`, of values `[...]`; NaN for what is no symbol."""
        return categorical_log_prob(self.logits(outputs), x)

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms in [0, 1), `[...]`, to values, `[...]`, by the inverse CDF."""
        logits, u = _aligned(self.logits(outputs), u)
        return categorical_quantile(logits, u)

    def mean(self, outputs: Array) -> Array:
        """Return the expected value, `[...]`."""
        probabilities = jax.nn.softmax(self.logits(outputs), axis=-1)
        return probabilities @ jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype)

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return outputs `[D, P]` that fit each coordinate of data `[N, D]` by itself."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Bits(Conditional):
    """Bits: one output, the log-odds of a one."""

    num_symbols: int = dataclasses.field(default=2, init=False)

    @property
    def num_outputs(self) -> int:
        """Return 1."""
        return 1

    @property
    def num_features(self) -> int:
        """Return 1."""
        return 1

    def _code(self, x: Array) -> Array:
        """Return the bits themselves, `[...] -> [..., 1]`."""
        return thermometer(x, 2)

    def logits(self, outputs: Array) -> Array:
        """Return logits (0, ℓ) of log-odds ℓ, `[..., 1] -> [..., 2]`."""
        check_shape("outputs", outputs, (*outputs.shape[:-1], 1))
        return jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=-1)

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return log p(x) in nats; for gray levels in [0, 1] its expectation; NaN elsewhere."""
        x = jnp.asarray(x)
        log_prob = bernoulli_log_prob(outputs[..., 0], x)
        return nan_unless((x >= 0) & (x <= 1), log_prob)

    def mean(self, outputs: Array) -> Array:
        """Return the probability of a one, `[...]`."""
        return jax.nn.sigmoid(outputs[..., 0])

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the log-odds of smoothed frequencies, `[D, 1]`."""
        return np.diff(log_frequencies(x, 2), axis=-1)


@dataclasses.dataclass(frozen=True)
class Categorical(Conditional):
    """Symbols without an order: an output for each, its logit.

    Attributes:
      num_symbols: V.
    """

    num_symbols: int

    def __post_init__(self) -> None:
        """Check the count."""
        check_count("num_symbols", self.num_symbols, minimum=2)

    @property
    def num_outputs(self) -> int:
        """Return V."""
        return self.num_symbols

    @property
    def num_features(self) -> int:
        """Return V."""
        return self.num_symbols

    def _code(self, x: Array) -> Array:
        """Return the one-hot code, `[...] -> [..., V]`."""
        return jax.nn.one_hot(x, self.num_symbols)

    def logits(self, outputs: Array) -> Array:
        """Return the outputs themselves, `[..., V]`."""
        check_shape("outputs", outputs, (*outputs.shape[:-1], self.num_outputs))
        return outputs

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the logarithms of smoothed frequencies, `[D, V]`."""
        return log_frequencies(x, self.num_symbols)


@dataclasses.dataclass(frozen=True)
class Ordinal(Categorical):
    r"""Symbols with an order, such as gray levels: outputs are increments of the logits.

    .. math:: \ell_v = \sum_{w \le v} s_w

    Any logits can be written so; weight decay on what produces the increments then draws
    neighboring levels together instead of drawing all levels towards zero apart.
    """

    @property
    def num_features(self) -> int:
        """Return V − 1."""
        return self.num_symbols - 1

    def _code(self, x: Array) -> Array:
        """Return the thermometer code, `[...] -> [..., V − 1]`."""
        return thermometer(x, self.num_symbols)

    def logits(self, outputs: Array) -> Array:
        """Return cumulative sums, `[..., V]`."""
        return jnp.cumsum(super().logits(outputs), axis=-1)

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return increments of the logarithms of smoothed frequencies, `[D, V]`."""
        return np.diff(super().marginal_outputs(x), axis=-1, prepend=0.0)


def ordered(num_symbols: int) -> Conditional:
    """Return the conditional of symbols that have an order: `Bits`, or `Ordinal` for more."""
    return Bits() if num_symbols == 2 else Ordinal(num_symbols)


def unordered(num_symbols: int) -> Conditional:
    """Return the conditional of symbols without one: `Bits`, or `Categorical` for more."""
    return Bits() if num_symbols == 2 else Categorical(num_symbols)


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
        """Return log-probabilities of every level, `[..., 3 K] -> [..., V]`."""
        levels = jnp.arange(self.num_symbols).reshape((1,) * (outputs.ndim - 1) + (-1,))
        return self.log_prob(outputs[..., None, :], levels)

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


@dataclasses.dataclass(frozen=True)
class SharedNormal(Conditional):
    """Reals with normal noise of one learned scale for all coordinates (Rybkin et al. 2021).

    A scale for each coordinate and each z would let the density grow without bound. The outputs
    are the mean and, shared, the log-scale.
    """

    num_symbols: None = dataclasses.field(default=None, init=False)
    num_shared: int = dataclasses.field(default=1, init=False)

    @property
    def num_outputs(self) -> int:
        """Return 1."""
        return 1

    @property
    def num_features(self) -> int:
        """Return 1."""
        return 1

    def features(self, x: Array) -> Array:
        """Return the data themselves, `[...] -> [..., 1]`."""
        check_float_array("x", x)
        return x[..., None]

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return the log-density in nats, `[...]`, of outputs `[..., 2]`."""
        mean, log_scale = outputs[..., 0], outputs[..., 1]
        z = (x - mean) * jnp.exp(-log_scale)
        return -0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi)

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms to reals, `[...]`."""
        return outputs[..., 0] + jnp.exp(outputs[..., 1]) * jax.scipy.special.ndtri(u)

    def mean(self, outputs: Array) -> Array:
        """Return the mean, `[...]`."""
        return outputs[..., 0]

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the means, `[D, 1]`."""
        return np.asarray(x).mean(0)[:, None]


def _log_one_minus_exp(log_d: Array) -> Array:
    """Return log(1 − exp(−d)) of log d: also where d itself underflows."""
    d = jnp.exp(log_d)
    is_small = d < 0.01
    direct = jnp.log(-jnp.expm1(-jnp.where(is_small, 1.0, d)))
    return jnp.where(is_small, log_d - d / 2 + d**2 / 24, direct)


def _aligned(logits: Array, u: Array) -> tuple[Array, Array]:
    shape = jnp.broadcast_shapes(logits.shape[:-1], jnp.shape(u))
    return jnp.broadcast_to(logits, (*shape, logits.shape[-1])), jnp.broadcast_to(u, shape)


def log_frequencies(x: np.ndarray, num_symbols: int, pseudo_count: float = 1.0) -> np.ndarray:
    """Return log p of every symbol in each column of `[N, D]`, smoothed, `[D, V]`."""
    check_rank("x", x, 2)
    check_integer_array("x", x)
    x = np.asarray(x)
    if x.size and not (x.min() >= 0 and x.max() < num_symbols):
        raise ValueError(f"x must hold symbols in [0, {num_symbols}), got [{x.min()}, {x.max()}]")
    counts = np.stack([np.bincount(column, minlength=num_symbols) for column in x.T])
    return np.log((counts + pseudo_count) / (len(x) + pseudo_count * num_symbols))
