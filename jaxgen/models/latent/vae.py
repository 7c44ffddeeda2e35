"""The variational autoencoder with one layer of latent variables."""

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count, check_integer_array
from jaxgen.core.types import Array
from jaxgen.models.layers.distributions import Bernoulli, Categorical
from jaxgen.models.layers.ordinal import cumulative_logits, thermometer


class VAE(nn.Module):
    r"""Variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    .. math:: p(x) = \int p(x \mid z)\, \mathcal N(z; 0, I)\, dz, \qquad
       q(z \mid x) = \mathcal N(z; \mu(x), \mathrm{diag}\, \sigma^2(x))

    Bits (V = 2) get a Bernoulli likelihood, more levels a categorical one over ordered symbols;
    given z the coordinates are independent. Both networks are perceptrons with tanh units.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes.
      num_latents: Z, the size of z.
      hidden_sizes: units of the posterior's hidden layers, in order; the likelihood's are the same
        in reverse.
    """

    num_dims: int
    num_symbols: int
    num_latents: int = 50
    hidden_sizes: tuple[int, ...] = (200, 200)

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_dims", self.num_dims)
        check_count("num_symbols", self.num_symbols, minimum=2)
        check_count("num_latents", self.num_latents)
        outputs = 1 if self.num_symbols == 2 else self.num_symbols
        self.encoder = [nn.Dense(size) for size in self.hidden_sizes]
        self.posterior_mean = nn.Dense(self.num_latents)
        self.posterior_log_scale = nn.Dense(self.num_latents, kernel_init=nn.initializers.zeros)
        self.decoder = [nn.Dense(size) for size in reversed(self.hidden_sizes)]
        self.outputs = nn.Dense(self.num_dims * outputs)

    def __call__(self, x: Array) -> tuple:
        """Touch every parameter; what `init` calls."""
        return self.prior(), self.likelihood(self.posterior(x).mean())

    def prior(self) -> distrax.Distribution:
        """p(z), a standard normal with event shape [Z]."""
        return distrax.MultivariateNormalDiag(
            jnp.zeros(self.num_latents), jnp.ones(self.num_latents)
        )

    def posterior(self, x: Array) -> distrax.Distribution:
        """q(z | x) for symbols `x`, integers `[B, D]`: batch shape [B], event shape [Z]."""
        check_integer_array("x", x)
        h = thermometer(x, self.num_symbols).reshape(*x.shape[:-1], -1)
        for layer in self.encoder:
            h = nn.tanh(layer(h))
        scale = jnp.exp(self.posterior_log_scale(h))
        return distrax.MultivariateNormalDiag(self.posterior_mean(h), scale)

    def likelihood(self, z: Array) -> distrax.Distribution:
        """p(x | z) for latents `z`, `[..., B, Z]`: batch shape [..., B], event shape [D]."""
        h = z
        for layer in self.decoder:
            h = nn.tanh(layer(h))
        outputs = self.outputs(h)
        if self.num_symbols == 2:
            return distrax.Independent(Bernoulli(logits=outputs), 1)
        increments = outputs.reshape(*outputs.shape[:-1], self.num_dims, self.num_symbols)
        return distrax.Independent(Categorical(logits=cumulative_logits(increments)), 1)
