"""Symbols: bits, categories, and levels that have an order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_integer_array, check_rank, check_shape
from jaxgen.core._conditional import Conditional as Conditional
from jaxgen.core._likelihood_terms import bernoulli_log_prob
from jaxgen.core._types import Array


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


def log_frequencies(x: np.ndarray, num_symbols: int, pseudo_count: float = 1.0) -> np.ndarray:
    """Return log p of every symbol in each column of `[N, D]`, smoothed, `[D, V]`."""
    check_rank("x", x, 2)
    check_integer_array("x", x)
    x = np.asarray(x)
    if x.size and not (x.min() >= 0 and x.max() < num_symbols):
        raise ValueError(f"x must hold symbols in [0, {num_symbols}), got [{x.min()}, {x.max()}]")
    counts = np.stack([np.bincount(column, minlength=num_symbols) for column in x.T])
    return np.log((counts + pseudo_count) / (len(x) + pseudo_count * num_symbols))
