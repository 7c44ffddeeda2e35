"""Factor analysis with equal noise: the latent-variable model that integrates exactly."""

import dataclasses
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._types import Array
from jaxgen.models._context import context_features
from jaxgen.models.latent._priors import standard_normal


class LinearGaussianParams(NamedTuple):
    """Parameters of the model and of its posterior.

    Attributes:
      loadings: W, `[D, Z]`.
      log_noise: log σ, scalar.
      posterior_weights: M, `[Z, D]`; the posterior's mean is M x.
      posterior_factor: L, lower triangular `[Z, Z]`; the posterior's covariance is L Lᵀ.
    """

    loadings: Array
    log_noise: Array
    posterior_weights: Array
    posterior_factor: Array


@dataclasses.dataclass(frozen=True)
class LinearGaussian(LatentVariableModel):
    r"""Probabilistic principal components (Tipping & Bishop 1999), whose integral is known.

    .. math:: z \sim \mathcal N(0, I), \quad x \mid z \sim \mathcal N(W z, \sigma^2 I), \quad
       q(z \mid x) = \mathcal N(M x, L L^\top)

    Bounds and estimators can be held against `log_prob`, and are tight at `exact_posterior`. All
    methods take `LinearGaussianParams`; there is no context.
    """

    def prior(self, params: LinearGaussianParams, *, context: Any = None) -> distrax.Distribution:
        """Return the standard normal p(z)."""
        _refuse(context)
        return standard_normal(params.loadings.shape[1])

    def posterior(
        self, params: LinearGaussianParams, x: Array, *, context: Any = None
    ) -> distrax.Distribution:
        """Return the normal q(z | x) for data `[B, D]`."""
        _refuse(context)
        # One factor for all points: a batch of equal ones would be solved one by one.
        mean = jnp.asarray(x) @ params.posterior_weights.T
        return distrax.MultivariateNormalTri(mean, params.posterior_factor)

    def likelihood(
        self, params: LinearGaussianParams, z: Array, *, context: Any = None
    ) -> distrax.Distribution:
        """Return the normal p(x | z) for latents `[..., B, Z]`."""
        _refuse(context)
        mean = z @ params.loadings.T
        scale = jnp.full(mean.shape, jnp.exp(params.log_noise))
        return distrax.MultivariateNormalDiag(mean, scale)

    def log_prob(self, params: LinearGaussianParams, x: Array, *, context: Any = None) -> Array:
        r"""Return the exact :math:`\log \mathcal N(x; 0, W W^\top + \sigma^2 I)`, nats `[B]`.

        Args:
          params: parameters; those of the posterior do not matter.
          x: data, `[B, D]`.
          context: None.
        """
        _refuse(context)
        size = params.loadings.shape[0]
        covariance = params.loadings @ params.loadings.T
        covariance += jnp.exp(2 * params.log_noise) * jnp.eye(size)
        logpdf = jax.scipy.stats.multivariate_normal.logpdf
        return jnp.asarray(logpdf(x, jnp.zeros(size), covariance))

    def exact_posterior(self, params: LinearGaussianParams) -> LinearGaussianParams:
        """Return the parameters with the exact posterior, of covariance (I + Wᵀ W / σ²)⁻¹."""
        scaled = params.loadings.T / jnp.exp(2 * params.log_noise)
        precision = jnp.eye(params.loadings.shape[1]) + scaled @ params.loadings
        covariance = jnp.linalg.inv(precision)
        return params._replace(
            posterior_weights=covariance @ scaled, posterior_factor=jnp.linalg.cholesky(covariance)
        )


def _refuse(context: Any) -> None:
    context_features(None, context, ())
