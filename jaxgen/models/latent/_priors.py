"""Families of p(z) that a model can be given: each is a small module, called by the model."""

from collections.abc import Callable

import distrax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count
from jaxgen.core._types import Array
from jaxgen.models.layers._flows import Flow, SplineCoupling

PosteriorFn = Callable[[Array], distrax.Distribution]
"""`posterior_fn(features [B, D, F])` gives q(z | x) with batch shape [B]."""


class Prior(nn.Module):
    """Base of all: a module that gives p(z), with event shape [Z] and no batch shape."""

    def __call__(
        self, num_latents: int, posterior_fn: PosteriorFn, feature_shape: tuple[int, ...]
    ) -> distrax.Distribution:
        """Return p(z).

        Args:
          num_latents: Z.
          posterior_fn: the model's own posterior, as a function of the features of data.
          feature_shape: the shape of one data point's features, (D, F).
        """
        raise NotImplementedError


class StandardNormal(Prior):
    """The normal N(0, I), without parameters."""

    def __call__(
        self, num_latents: int, posterior_fn: PosteriorFn, feature_shape: tuple[int, ...]
    ) -> distrax.Distribution:
        """Return the normal; it uses `num_latents` alone."""
        return standard_normal(num_latents)


class MixtureOfNormals(Prior):
    r"""A learned mixture, :math:`p(z) = \sum_k \pi_k\, \mathcal N(z; \mu_k, \sigma_k^2)`.

    Attributes:
      num_components: K.
    """

    num_components: int = 100

    @nn.compact
    def __call__(
        self, num_latents: int, posterior_fn: PosteriorFn, feature_shape: tuple[int, ...]
    ) -> distrax.Distribution:
        """Return the mixture; it uses `num_latents` alone."""
        check_count("num_components", self.num_components)
        shape = (self.num_components, num_latents)
        logits = self.param("logits", nn.initializers.zeros, shape[:1])
        means = self.param("means", nn.initializers.normal(1.0), shape)
        log_scales = self.param("log_scales", nn.initializers.zeros, shape)
        return distrax.MixtureSameFamily(
            distrax.Categorical(logits), distrax.MultivariateNormalDiag(means, jnp.exp(log_scales))
        )


class VampPrior(Prior):
    r"""The average posterior of learned pseudo-inputs (Tomczak & Welling 2018).

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k)

    Pseudo-inputs are features, not data, and may leave the range that data have.

    Attributes:
      num_components: K; each evaluation of p(z) encodes all K.
    """

    num_components: int = 500

    @nn.compact
    def __call__(
        self, num_latents: int, posterior_fn: PosteriorFn, feature_shape: tuple[int, ...]
    ) -> distrax.Distribution:
        """Return the mixture of the pseudo-inputs' posteriors."""
        check_count("num_components", self.num_components)
        shape = (self.num_components, *feature_shape)
        pseudo_inputs = self.param("pseudo_inputs", nn.initializers.uniform(1.0), shape)
        return distrax.MixtureSameFamily(
            distrax.Categorical(jnp.zeros(self.num_components)), posterior_fn(pseudo_inputs)
        )


class FlowPrior(Prior):
    """A standard normal sent through a flow.

    Attributes:
      flow: a module that gives the steps, such as `SplineCoupling`, whose inverse is cheap.
    """

    flow: nn.Module = SplineCoupling()

    @nn.compact
    def __call__(
        self, num_latents: int, posterior_fn: PosteriorFn, feature_shape: tuple[int, ...]
    ) -> distrax.Distribution:
        """Return the density behind the flow; it uses `num_latents` alone."""
        return Flow(standard_normal(num_latents), self.flow(num_latents))


def standard_normal(num_latents: int) -> distrax.Distribution:
    """Return N(0, I) with event shape [Z]."""
    return distrax.MultivariateNormalDiag(jnp.zeros(num_latents), jnp.ones(num_latents))
