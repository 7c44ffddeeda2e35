"""The base of latent-variable Flax modules: what all have in common, so a model is its networks."""

from collections.abc import Sequence
from typing import Any, cast

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_data, check_no_lists
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._types import Array, Params
from jaxgen.models._context import context_features
from jaxgen.models._init import CompiledInit
from jaxgen.models.conditionals._shared_normal import SharedNormal
from jaxgen.models.conditionals._symbols import ordered
from jaxgen.models.latent._factorized import FactorizedDistribution


class LinenLatentVariableModel(LatentVariableModel, CompiledInit):
    """A Flax module that is a latent-variable model.

    A subclass has the fields `num_dims` and `num_symbols`, the fields `conditional` and
    `conditioning` (or leaves them at None), and writes `_prior(context)`, `_posterior(x, context)`
    and `_likelihood(z, context)`, which return distributions. What it sees of the data comes from
    `_data_features`, the context enters by `_with_context`, and p(x | z) is `_distribution` of the
    outputs of a layer named `outputs`, with `num_outputs` of them.
    """

    # Fields of every subclass; here they would stand before its own.
    conditional = cast(Any, None)
    conditioning = cast(Any, None)

    def __post_init__(self) -> None:
        """Refuse lists: Flax takes them, and then the model has no hash."""
        check_no_lists(self)
        super().__post_init__()

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("outputs", "bias")

    @property
    def conditional_or_default(self) -> Conditional:
        """Return the conditional in use: by default ordered symbols, or reals without symbols."""
        if self.conditional is not None:
            return self.conditional
        return SharedNormal() if self.num_symbols is None else ordered(self.num_symbols)

    @property
    def num_outputs(self) -> int:
        """Return the outputs of all coordinates together."""
        return self.num_dims * self.conditional_or_default.num_outputs

    def setup(self) -> None:
        """Check what all models have and create what their coordinates share."""
        check_count("num_dims", self.num_dims)
        conditional = self.conditional_or_default
        if conditional.num_symbols != self.num_symbols:
            raise ValueError(
                f"conditional must be over num_symbols={self.num_symbols}, got {conditional}"
            )
        if conditional.num_shared:
            shape = (conditional.num_shared,)
            self.shared_outputs = self.param("shared_outputs", nn.initializers.zeros, shape)
        conditional.check_num_dims(self.num_dims)
        if conditional.num_units:
            zeros = nn.initializers.zeros
            self.units = self.param("units", zeros, (self.num_dims, conditional.num_units))

    def __call__(self, x: Array, context: Any = None) -> tuple[Array, distrax.Distribution]:
        """Create every parameter; what `init` calls."""
        z = self._posterior(x, context).sample(seed=jax.random.key(0))
        return self._prior(context).log_prob(z), self._likelihood(z, context)

    @nn.nowrap
    def prior(self, params: Params, *, context: Any = None) -> distrax.Distribution:
        """Return p(z), without batch shape (or `[B]`, where it depends on a context)."""
        if self.conditioning is None:
            context_features(None, context, ())
        return self.apply(params, context, method="_prior")

    @nn.nowrap
    def posterior(self, params: Params, x: Array, *, context: Any = None) -> distrax.Distribution:
        """Return q(z | x) for data `[B, D]`, with batch shape [B]."""
        return self.apply(params, jnp.asarray(x), context, method="_posterior")

    @nn.nowrap
    def likelihood(self, params: Params, z: Any, *, context: Any = None) -> distrax.Distribution:
        """Return p(x | z) for latents `[..., B, Z]`: batch shape [..., B], event shape [D]."""
        return self.apply(params, z, context, method="_likelihood")

    def _data_features(self, x: Array) -> Array:
        """Encode data `[..., D]` as floats, `[..., D, F]`."""
        check_data("x", x, self.num_dims)
        conditional = self.conditional_or_default
        if not conditional.num_units:
            return conditional.features(x)
        units = jax.lax.stop_gradient(self.units)
        return conditional.features(x, units.reshape((1,) * (x.ndim - 1) + units.shape))

    def _context_features(self, context: Any, batch_shape: tuple[int, ...]) -> Array | None:
        """Encode the context as floats, `[*batch_shape, F]`; None without conditioning."""
        return context_features(
            self.conditioning, context, batch_shape, is_initializing=self.is_initializing()
        )

    def _with_context(self, h: Array, context: Any) -> Array:
        """Return `[..., H]` with the features of the context behind, `[..., H + F]`."""
        features = self._context_features(context, h.shape[:-1])
        return h if features is None else joined(h, features)

    def _distribution(self, outputs: Array) -> distrax.Distribution:
        """Return p(x | z) of outputs `[..., D·P]`."""
        conditional = self.conditional_or_default
        shape = (*outputs.shape[:-1], self.num_dims, conditional.num_outputs)
        outputs = outputs.reshape(shape)
        if conditional.num_shared:
            outputs = joined(outputs, self.shared_outputs)
        if conditional.num_units:
            outputs = joined(outputs, jax.lax.stop_gradient(self.units))
        return FactorizedDistribution(conditional, outputs)


def joined(x: Array, y: Array) -> Array:
    """Return `[..., X + Y]` of `x` `[..., X]` and `y`, broadcast to its leading axes."""
    return jnp.concatenate([x, jnp.broadcast_to(y, (*x.shape[:-1], y.shape[-1]))], axis=-1)


def perceptron(layers: Sequence[nn.Module], h: Array) -> Array:
    """Send `[..., H]` through linear layers, each followed by tanh."""
    for layer in layers:
        h = nn.tanh(layer(h))
    return h
