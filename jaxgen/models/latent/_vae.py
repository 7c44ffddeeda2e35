"""The variational autoencoder with one layer of latent variables."""

import functools
import math
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning, Covariates
from jaxgen.models.latent._module import LinenLatentVariableModel, perceptron
from jaxgen.models.latent._posteriors import DiagonalNormal, Posterior
from jaxgen.models.latent._priors import Prior, StandardNormal
from jaxgen.models.layers._convolutions import Convolutions
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import rematerialized


class VAE(LinenLatentVariableModel):
    r"""Variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    .. math:: p(x) = \int p(x \mid z)\, p(z)\, dz, \qquad q(z \mid x) \approx p(z \mid x)

    By default p(z) is a standard normal, q a diagonal normal, both networks are perceptrons with
    tanh units, and data are bits (V = 2: a Bernoulli likelihood) or ordered symbols (categorical).
    Each of these is one field.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      num_latents: Z, the size of z.
      hidden_sizes: units of the posterior's hidden layers, in order; the likelihood's are the same
        in reverse.
      convolutions: convolutional layers between the data and the hidden layers, for images.
      conditional: the family of p(x_i | z); None takes ordered symbols, or normals for reals.
      conditioning: `Labels` or `Covariates` that q(z | x) and p(x | z) also see; p(z) does not.
      dtype: of hidden units, None for that of the parameters; parameters and what is said of
        latents and data stay in float32.
      remat: whether training keeps of each network its input alone, and computes the rest again.
      prior_family: the family of p(z), such as `StandardNormal` or `VampPrior`.
      posterior_family: the family of q(z | x), such as `DiagonalNormal` or `FlowPosterior`.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: int = 50
    hidden_sizes: tuple[int, ...] = (200, 200)
    convolutions: Convolutions | None = None
    conditional: Conditional | None = None
    prior_family: Prior = StandardNormal()
    posterior_family: Posterior = DiagonalNormal()
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the layers."""
        super().setup()
        check_count("num_latents", self.num_latents)
        check_sizes("hidden_sizes", self.hidden_sizes)
        self.encoder = [Dense(size, dtype=self.dtype) for size in self.hidden_sizes]
        says = functools.partial(Dense, dtype=self.dtype, in_float32=True)
        self.posterior_mean = says(self.num_latents)
        self.posterior_log_scale = says(self.num_latents, kernel_init=nn.initializers.zeros)
        self.decoder = [Dense(size, dtype=self.dtype) for size in reversed(self.hidden_sizes)]
        if self.convolutions is None:
            self.outputs: nn.Module = says(self.num_outputs)
        else:
            self.halves = self.convolutions.down(self.dtype)
            self.to_maps = Dense(math.prod(self.convolutions.smallest), dtype=self.dtype)
            self.doubles = self.convolutions.up(self.dtype)
            self.outputs = self.convolutions.outputs(self.num_outputs, self.dtype)

    def _prior(self, context: Any) -> distrax.Distribution:
        del context
        pseudo_context = None  # pseudo-inputs belong to no class, or to covariates of zero
        if isinstance(self.conditioning, Covariates):
            pseudo_context = jnp.zeros(self.conditioning.size)
        feature_shape = (self.num_dims, self.conditional_or_default.num_features)
        return self.prior_family(
            self.num_latents,
            lambda features: self._posterior_of_features(features, pseudo_context),
            feature_shape,
        )

    def _posterior(self, x: Array, context: Any) -> distrax.Distribution:
        return self._posterior_of_features(self._data_features(x), context)

    def _likelihood(self, z: Array, context: Any) -> distrax.Distribution:
        return self._distribution(self._decoded(z, context))

    @rematerialized
    def _decoded(self, z: Array, context: Any) -> Array:
        h = perceptron(self.decoder, self._with_context(z, context))
        if self.convolutions is not None:
            h = nn.gelu(self.to_maps(h)).reshape(*z.shape[:-1], *self.convolutions.smallest)
            for double in self.doubles:
                h = double(h)
        return self.outputs(h)

    def _posterior_of_features(self, features: Array, context: Any) -> distrax.Distribution:
        return self.posterior_family(*self._encoded(features, context))

    @rematerialized
    def _encoded(self, features: Array, context: Any) -> tuple[Array, Array, Array]:
        batch_shape, h = features.shape[:-2], features
        if self.convolutions is not None:
            h = self.convolutions.as_maps(h)
            for layer in self.halves:
                h = layer(h)
        h = self._with_context(jax.lax.collapse(h, len(batch_shape)), context)
        h = perceptron(self.encoder, h)
        return self.posterior_mean(h), self.posterior_log_scale(h), h
