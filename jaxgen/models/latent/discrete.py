"""The variational autoencoder with discrete latents, as they are or relaxed."""

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count, check_in_range
from jaxgen.core.types import Array
from jaxgen.models.layers.distributions import Categorical, RelaxedCategorical
from jaxgen.models.layers.linear import Dense
from jaxgen.models.layers.observations import Observation, Symbols


class DiscreteVAE(nn.Module):
    r"""Independent categorical latents under a learned prior; two categories are Bernoulli latents.

    .. math:: p(z) = \prod_i \mathrm{softmax}(\pi_i)_{z_i}, \qquad
       q(z \mid x) = \prod_i \mathrm{softmax}(\ell_i(x))_{z_i}

    Without a temperature z are integers `[..., Z]`, which have no pathwise gradient: train with the
    gradients `vimco` or `score_function` of `objectives.multi_sample.bound`. With one, both
    densities become Gumbel-softmax (Jang et al. 2017; Maddison et al. 2017) and z log-probabilities
    `[..., Z, C]`, which have: the bound is then one on the relaxed model's likelihood. Parameters
    are the same in both forms, so what was trained relaxed can be evaluated without.

    Attributes:
      num_dims: D, the coordinates of a data point.
      num_symbols: V, the number of values that a coordinate takes; None for real numbers.
      num_latents: Z, the number of latents.
      num_categories: C, the values that each takes.
      temperature: of the relaxation; None for none.
      hidden_sizes: units of the posterior's hidden layers, in order; the likelihood's are the same
        in reverse.
      observation: the family of p(x | z), of `models/layers/observations.py`.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: int = 200
    num_categories: int = 2
    temperature: float | None = None
    hidden_sizes: tuple[int, ...] = (200, 200)
    observation: Observation = Symbols()

    def setup(self) -> None:
        """Check the fields and create the layers."""
        check_count("num_dims", self.num_dims)
        check_count("num_latents", self.num_latents)
        check_count("num_categories", self.num_categories, minimum=2)
        if self.temperature is not None:
            check_in_range("temperature", self.temperature, 0.0, float("inf"), open_lower=True)
        shape = (self.num_latents, self.num_categories)
        self.prior_logits = self.param("prior_logits", nn.initializers.zeros, shape)
        self.encoder = [Dense(size) for size in self.hidden_sizes]
        self.posterior_logits = Dense(self.num_latents * self.num_categories)
        self.decoder = [Dense(size) for size in reversed(self.hidden_sizes)]
        num_outputs = self.observation.num_outputs(self.num_symbols)
        self.outputs = Dense(self.num_dims * num_outputs)

    def __call__(self, x: Array) -> tuple:
        """Touch every parameter; what `init` calls."""
        z = jnp.zeros((*x.shape[:-1], self.num_latents), jnp.int32)
        if self.temperature is not None:
            z = jnp.zeros((*z.shape, self.num_categories))
        return self.prior(), self.posterior(x), self.likelihood(z)

    def prior(self) -> distrax.Distribution:
        """p(z), without batch shape."""
        return self._latents(self.prior_logits)

    def posterior(self, x: Array) -> distrax.Distribution:
        """q(z | x) for data `x`, `[B, D]`: batch shape [B]."""
        h = self.observation.features(x, self.num_symbols).reshape(*x.shape[:-1], -1)
        for layer in self.encoder:
            h = nn.tanh(layer(h))
        logits = self.posterior_logits(h)
        return self._latents(logits.reshape(*x.shape[:-1], self.num_latents, self.num_categories))

    def likelihood(self, z: Array) -> distrax.Distribution:
        """p(x | z): batch shape [..., B], event shape [D].

        Args:
          z: integers `[..., B, Z]`, or with a temperature log-probabilities `[..., B, Z, C]`.
        """
        is_relaxed = self.temperature is not None
        code = jnp.exp(z) if is_relaxed else jax.nn.one_hot(z, self.num_categories)
        batch_shape = code.shape[:-2]
        h = code.reshape(*batch_shape, -1)
        for layer in self.decoder:
            h = nn.tanh(layer(h))
        outputs = self.outputs(h).reshape(*batch_shape, self.num_dims, -1)
        return self.observation(outputs, self.num_symbols)

    def _latents(self, logits: Array) -> distrax.Distribution:
        if self.temperature is None:
            return distrax.Independent(Categorical(logits=logits), 1)
        return distrax.Independent(RelaxedCategorical(logits, self.temperature), 1)
