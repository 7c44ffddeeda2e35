"""The variational autoencoder with discrete latents, as they are or relaxed."""

import functools
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_in_range, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.latent._module import LinenLatentVariableModel, perceptron
from jaxgen.models.layers._distributions import RelaxedCategorical
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import rematerialized


class DiscreteVAE(LinenLatentVariableModel):
    r"""Independent categorical latents under a learned prior; two categories are Bernoulli latents.

    .. math:: p(z) = \prod_i \mathrm{softmax}(\pi_i)_{z_i}, \qquad
       q(z \mid x) = \prod_i \mathrm{softmax}(\ell_i(x))_{z_i}

    Without a temperature z are integers `[..., Z]`, which have no pathwise gradient: train with the
    gradients `vimco` or `score_function` of `objectives.multi_sample_bound`. With one, both
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
      conditional: the family of p(x_i | z); None takes ordered symbols, or normals for reals.
      conditioning: `Labels` or `Covariates` that q(z | x) and p(x | z) also see; p(z) does not.
      dtype: of hidden units, None for that of the parameters; parameters and what is said of
        latents and data stay in float32.
      remat: whether training keeps of each network its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    num_latents: int = 200
    num_categories: int = 2
    temperature: float | None = None
    hidden_sizes: tuple[int, ...] = (200, 200)
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the layers."""
        super().setup()
        check_count("num_latents", self.num_latents)
        check_sizes("hidden_sizes", self.hidden_sizes)
        check_count("num_categories", self.num_categories, minimum=2)
        if self.temperature is not None:
            check_in_range("temperature", self.temperature, 0.0, float("inf"), open_lower=True)
        shape = (self.num_latents, self.num_categories)
        self.prior_logits = self.param("prior_logits", nn.initializers.zeros, shape)
        self.encoder = [Dense(size, dtype=self.dtype) for size in self.hidden_sizes]
        says = functools.partial(Dense, dtype=self.dtype, in_float32=True)
        self.posterior_logits = says(self.num_latents * self.num_categories)
        self.decoder = [Dense(size, dtype=self.dtype) for size in reversed(self.hidden_sizes)]
        self.outputs = says(self.num_outputs)

    def _prior(self, context: Any) -> distrax.Distribution:
        del context
        return self._latents(self.prior_logits)

    def _posterior(self, x: Array, context: Any) -> distrax.Distribution:
        logits = self._encoded(x, context)
        return self._latents(logits.reshape(*x.shape[:-1], self.num_latents, self.num_categories))

    @rematerialized
    def _encoded(self, x: Array, context: Any) -> Array:
        h = self._with_context(jax.lax.collapse(self._data_features(x), x.ndim - 1), context)
        return self.posterior_logits(perceptron(self.encoder, h))

    def _likelihood(self, z: Array, context: Any) -> distrax.Distribution:
        return self._distribution(self._decoded(z, context))

    @rematerialized
    def _decoded(self, z: Array, context: Any) -> Array:
        is_relaxed = self.temperature is not None
        code = jnp.exp(z) if is_relaxed else jax.nn.one_hot(z, self.num_categories)
        h = self._with_context(jax.lax.collapse(code, code.ndim - 2), context)
        return self.outputs(perceptron(self.decoder, h))

    def _latents(self, logits: Array) -> distrax.Distribution:
        if self.temperature is None:
            return distrax.Independent(distrax.Categorical(logits), 1)
        return distrax.Independent(RelaxedCategorical(logits, self.temperature), 1)
