"""The variational autoencoder with several stochastic layers."""

import functools
from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.latent._module import LinenLatentVariableModel, perceptron
from jaxgen.models.latent._priors import standard_normal
from jaxgen.models.layers._distributions import Chain
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import rematerialized


class HierarchicalVAE(LinenLatentVariableModel):
    r"""Groups of latents, one above the other; z is the tuple (z_1, …, z_L) (Burda et al. 2015).

    .. math:: p(x, z) = p(z_L) \prod_{l<L} p(z_l \mid z_{l+1})\; p(x \mid z_1), \qquad
       q(z \mid x) = q(z_1 \mid x) \prod_{l<L} q(z_{l+1} \mid z_l)

    Data are generated from the top down, latents inferred from the bottom up. Every conditional of
    a group is a diagonal normal, whose mean and log-scale a perceptron with tanh units gives. The
    defaults are the paper's two layers.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      num_latents: the size of each group, that next to the data first.
      hidden_sizes: for each group the units of the hidden layers between it and what is below, in
        the order of inference; generation has the same in reverse.
      conditional: the family of p(x_i | z_1); None takes ordered symbols, or normals for reals.
      conditioning: `Labels` or `Covariates` that q(z_1 | x) and p(x | z_1) also see.
      dtype: of hidden units, None for that of the parameters; parameters and what is said of
        latents and data stay in float32.
      remat: whether training keeps of each network its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: tuple[int, ...] = (100, 50)
    hidden_sizes: tuple[tuple[int, ...], ...] = ((200, 200), (100, 100))
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the layers."""
        super().setup()
        check_sizes("num_latents", self.num_latents)
        check_count("the number of groups in num_latents", len(self.num_latents))
        if not isinstance(self.hidden_sizes, tuple):
            raise TypeError(f"hidden_sizes must be a tuple of tuples, got {self.hidden_sizes!r}")
        for sizes in self.hidden_sizes:
            check_sizes("each of hidden_sizes", sizes)
        if len(self.hidden_sizes) != len(self.num_latents):
            raise ValueError(
                f"hidden_sizes must name the layers of each of the {len(self.num_latents)} groups, "
                f"got {self.hidden_sizes}"
            )
        groups = list(zip(self.num_latents, self.hidden_sizes, strict=True))
        how = self.dtype, self.remat
        self.upward = [NormalNetwork(hidden, size, *how) for size, hidden in groups]
        self.downward = [
            NormalNetwork(hidden[::-1], below, *how)
            for below, (_, hidden) in zip(self.num_latents[:-1], groups[1:], strict=True)
        ]
        self.decoder = [Dense(size, dtype=self.dtype) for size in reversed(self.hidden_sizes[0])]
        self.outputs = Dense(self.num_outputs, dtype=self.dtype, in_float32=True)

    def _prior(self, context: Any) -> distrax.Distribution:
        del context
        downward: list[Callable] = [*reversed(self.downward)]
        return Chain(standard_normal(self.num_latents[-1]), downward, reverse=True)

    def _posterior(self, x: Array, context: Any) -> distrax.Distribution:
        h = jax.lax.collapse(self._data_features(x), x.ndim - 1)
        return Chain(self.upward[0](self._with_context(h, context)), self.upward[1:])

    def _likelihood(self, z: tuple, context: Any) -> distrax.Distribution:
        return self._distribution(self._decoded(z[0], context))

    @rematerialized
    def _decoded(self, z: Array, context: Any) -> Array:
        return self.outputs(perceptron(self.decoder, self._with_context(z, context)))


class NormalNetwork(nn.Module):
    """A perceptron with tanh units that gives a diagonal normal, of scale one to begin with.

    Attributes:
      hidden_sizes: units of the hidden layers.
      size: of the normal's event.
      dtype: of hidden units.
      remat: whether the gradient computes them again.
    """

    hidden_sizes: tuple[int, ...]
    size: int
    dtype: Any
    remat: bool

    def __call__(self, h: Array) -> distrax.Distribution:
        """Map `[..., H]` to a distribution of batch shape [...] and event shape [size]."""
        mean, log_scale = self._said(h)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(log_scale))

    @rematerialized
    @nn.compact
    def _said(self, h: Array) -> tuple[Array, Array]:
        h = perceptron([Dense(width, dtype=self.dtype) for width in self.hidden_sizes], h)
        says = functools.partial(Dense, self.size, dtype=self.dtype, in_float32=True)
        log_scale = says(kernel_init=nn.initializers.zeros, name="log_scale")
        return says(name="mean")(h), log_scale(h)
