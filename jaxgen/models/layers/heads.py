"""Heads: how the last layer's outputs for one coordinate become the logits of its symbols.

A head is a small frozen value with `num_symbols`, `num_outputs` (how many numbers the network must
give for a coordinate) and `logits(outputs [..., P]) -> [..., V]`, so a model with a head as a field
stays hashable and any head serves any model. `outputs(log_probs [..., V]) -> [..., P]` goes back
where the outputs can say any distribution.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_shape
from jaxgen.core.types import Array
from jaxgen.models.layers.ordinal import cumulative_logits


class Head(Protocol):
    """What every head has."""

    @property
    def num_symbols(self) -> int:
        """V, the number of values that a coordinate takes."""

    @property
    def num_outputs(self) -> int:
        """P, the numbers that the network gives for a coordinate."""

    def logits(self, outputs: Array) -> Array:
        """Unnormalised log-probabilities `[..., V]` of outputs `[..., P]`."""

    def outputs(self, log_probs: Array) -> Array:
        """Outputs `[..., P]` that mean log-probabilities `[..., V]`."""


def check_head(head: Head, num_symbols: int) -> None:
    """Raise ValueError unless the head is for `num_symbols` symbols."""
    if head.num_symbols != num_symbols:
        raise ValueError(
            f"head must be for num_symbols={num_symbols}, got {head} for {head.num_symbols}"
        )


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Bits: one output, the log-odds of a one."""

    num_symbols: int = dataclasses.field(default=2, init=False)
    num_outputs: int = dataclasses.field(default=1, init=False)

    def logits(self, outputs: Array) -> Array:
        """Logits (0, ℓ) from log-odds ℓ, `[..., 1] -> [..., 2]`."""
        check_shape("outputs", outputs, (*outputs.shape[:-1], 1))
        return jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=-1)

    def outputs(self, log_probs: Array) -> Array:
        """The log-odds of given log-probabilities, `[..., 2] -> [..., 1]`."""
        return log_probs[..., 1:] - log_probs[..., :1]


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Symbols without an order: an output for each, its logit."""

    num_symbols: int

    def __post_init__(self) -> None:
        """Check the count."""
        check_count("num_symbols", self.num_symbols, minimum=2)

    @property
    def num_outputs(self) -> int:
        """V."""
        return self.num_symbols

    def logits(self, outputs: Array) -> Array:
        """The outputs themselves, `[..., V]`."""
        check_shape("outputs", outputs, (*outputs.shape[:-1], self.num_outputs))
        return outputs

    def outputs(self, log_probs: Array) -> Array:
        """The log-probabilities themselves, `[..., V]`."""
        return log_probs


@dataclasses.dataclass(frozen=True)
class Ordinal(Categorical):
    """Symbols with an order, such as grey levels: an output for each increment of the logits."""

    def logits(self, outputs: Array) -> Array:
        """Cumulative sums, `[..., V]`; see `cumulative_logits`."""
        return cumulative_logits(super().logits(outputs))

    def outputs(self, log_probs: Array) -> Array:
        """Differences of neighbouring log-probabilities, `[..., V]`."""
        return jnp.diff(log_probs, axis=-1, prepend=0.0)


def ordered(num_symbols: int) -> Head:
    """The head for symbols that have an order: `Bernoulli` for bits, `Ordinal` for more."""
    return Bernoulli() if num_symbols == 2 else Ordinal(num_symbols)


def unordered(num_symbols: int) -> Head:
    """The head for symbols without one: `Bernoulli` for bits, `Categorical` for more."""
    return Bernoulli() if num_symbols == 2 else Categorical(num_symbols)


@dataclasses.dataclass(frozen=True)
class LogisticMixture:
    r"""Many grey levels by few numbers: a mixture of logistics, integrated over a level's cell.

    .. math:: p(v) = \sum_k \pi_k [\sigma((v^+ - \mu_k) / s_k) - \sigma((v^- - \mu_k) / s_k)]

    Level v stands at 2v / (V − 1) − 1 and its cell reaches halfway to its neighbours; the cells of
    the first and the last level reach to ∓∞, so the levels sum to one (Salimans et al. 2017).

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
        """3 K."""
        return 3 * self.num_components

    def logits(self, outputs: Array) -> Array:
        """Log-probabilities of every level, `[..., 3 K] -> [..., V]`."""
        check_shape("outputs", outputs, (*outputs.shape[:-1], self.num_outputs))
        weights, means, log_scales = jnp.split(outputs[..., None, :], 3, axis=-1)
        # A scale far below a cell's width says no more, and its inverse would overflow.
        inverse_scale = jnp.exp(-jnp.maximum(log_scales, -7.0))
        width = 2 / (self.num_symbols - 1)
        edges = jnp.arange(self.num_symbols - 1, dtype=outputs.dtype) * width - 1 + width / 2
        edges = edges.reshape((1,) * (outputs.ndim - 1) + (-1, 1))
        z = (edges - means) * inverse_scale
        log_cdf, log_tail = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
        inner = _log_cell(z, width * inverse_scale)
        cells = jnp.concatenate([log_cdf[..., :1, :], inner, log_tail[..., -1:, :]], axis=-2)
        return jax.nn.logsumexp(cells + jax.nn.log_softmax(weights, axis=-1), axis=-1)

    def outputs(self, log_probs: Array) -> Array:
        """Raise ValueError: few logistics cannot take on any distribution."""
        raise ValueError(f"head must be able to say any distribution, got {self}")


def _log_cell(z: Array, width: Array) -> Array:
    """log[σ(z_{v+1}) − σ(z_v)] between neighbouring edges, whose distance is `width`.

    σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{a−b}) loses nothing to cancellation, in either tail.
    """
    lower, upper = z[..., :-1, :], z[..., 1:, :]
    return jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + jnp.log(-jnp.expm1(-width))
