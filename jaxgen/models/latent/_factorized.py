"""The distribution of data points whose coordinates are independent, given the outputs."""

import distrax
import jax
import jax.numpy as jnp

from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import open_uniforms


class FactorizedDistribution(distrax.Distribution):
    """Independent coordinates, each under its conditional: a distrax distribution.

    Events are data points `[D]`; the batch shape is what stands before `[D, P]` in the outputs. A
    draw takes one uniform a coordinate: a symbol less likely than about 1e-7, the step of a float32
    uniform, may come too often or never.
    """

    def __init__(self, conditional: Conditional, outputs: Array) -> None:
        """Keep the conditional, and its outputs `[..., D, P]` with those shared."""
        self._conditional, self._outputs = conditional, outputs

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Return [D]."""
        return self._outputs.shape[-2:-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return the leading axes of the outputs."""
        return self._outputs.shape[:-2]

    @property
    def logits(self) -> Array:
        """Return unnormalized log-probabilities of every symbol, `[..., D, V]`."""
        return self._conditional.logits(self._outputs)

    def log_prob(self, value: Array) -> Array:
        """Return log p(x) in nats of data points `[..., D]`."""
        outputs = self._outputs
        extra = (1,) * (value.ndim + 1 - outputs.ndim)
        outputs = outputs.reshape(extra + outputs.shape)
        value = value.reshape((1,) * (outputs.ndim - 1 - value.ndim) + value.shape)
        return jnp.sum(self._conditional.log_prob(outputs, value), axis=-1)

    def mean(self) -> Array:
        """Return the expected data point, `[..., D]`."""
        return self._conditional.mean(self._outputs)

    def _sample_n(self, key: Key, n: int) -> Array:
        uniforms = open_uniforms if self._conditional.num_symbols is None else jax.random.uniform
        u = uniforms(key, (n, *self.batch_shape, *self.event_shape))
        return self._conditional.quantile(self._outputs[None], u)
