"""The variational autoencoder with one layer of latent variables."""

import math

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count
from jaxgen.core.types import Array
from jaxgen.models.latent.posteriors import DiagonalNormal, Posterior
from jaxgen.models.latent.priors import Prior, StandardNormal
from jaxgen.models.layers.convolutions import Convolutions
from jaxgen.models.layers.linear import Dense
from jaxgen.models.layers.observations import Observation, Symbols


class VAE(nn.Module):
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
      observation: the family of p(x | z), of `models/layers/observations.py`.
      prior_family: that of p(z), of `models/latent/priors.py`.
      posterior_family: that of q(z | x), of `models/latent/posteriors.py`.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: int = 50
    hidden_sizes: tuple[int, ...] = (200, 200)
    convolutions: Convolutions | None = None
    observation: Observation = Symbols()
    prior_family: Prior = StandardNormal()
    posterior_family: Posterior = DiagonalNormal()

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_dims", self.num_dims)
        check_count("num_latents", self.num_latents)
        num_outputs = self.num_dims * self.observation.num_outputs(self.num_symbols)
        self.encoder = [Dense(size) for size in self.hidden_sizes]
        self.posterior_mean = Dense(self.num_latents)
        self.posterior_log_scale = Dense(self.num_latents, kernel_init=nn.initializers.zeros)
        self.decoder = [Dense(size) for size in reversed(self.hidden_sizes)]
        if self.convolutions is None:
            self.outputs: nn.Module = Dense(num_outputs)
        else:
            self.halves = self.convolutions.down()
            self.to_maps = Dense(math.prod(self.convolutions.smallest))
            self.doubles = self.convolutions.up()
            self.outputs = self.convolutions.outputs(num_outputs)

    def __call__(self, x: Array) -> tuple:
        """Touch every parameter; what `init` calls."""
        z = jnp.zeros((*x.shape[:-1], self.num_latents))
        return self.prior(), self.posterior(x), self.likelihood(z)

    def prior(self) -> distrax.Distribution:
        """p(z), with event shape [Z]."""
        num_features = self.observation.num_features(self.num_symbols)
        return self.prior_family(
            self.num_latents, self._posterior_of_features, (self.num_dims, num_features)
        )

    def posterior(self, x: Array) -> distrax.Distribution:
        """q(z | x) for data `x`, `[B, D]`: batch shape [B], event shape [Z]."""
        return self._posterior_of_features(self.observation.features(x, self.num_symbols))

    def likelihood(self, z: Array) -> distrax.Distribution:
        """p(x | z) for latents `z`, `[..., B, Z]`: batch shape [..., B], event shape [D]."""
        h = z
        for layer in self.decoder:
            h = nn.tanh(layer(h))
        if self.convolutions is not None:
            h = nn.gelu(self.to_maps(h)).reshape(*z.shape[:-1], *self.convolutions.smallest)
            for double in self.doubles:
                h = double(h)
        outputs = self.outputs(h).reshape(*z.shape[:-1], self.num_dims, -1)
        return self.observation(outputs, self.num_symbols)

    def _posterior_of_features(self, features: Array) -> distrax.Distribution:
        batch_shape, h = features.shape[:-2], features
        if self.convolutions is not None:
            h = h.reshape(*batch_shape, *self.convolutions.image_shape, -1)
            for layer in self.halves:
                h = layer(h)
        h = h.reshape(*batch_shape, -1)
        for layer in self.encoder:
            h = nn.tanh(layer(h))
        return self.posterior_family(self.posterior_mean(h), self.posterior_log_scale(h), h)
