"""Factor analysis with equal noise: the latent-variable model that integrates exactly."""

from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from jaxgen.core.types import Array, LatentVariableModel


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


def _prior(params: LinearGaussianParams) -> distrax.Distribution:
    size = params.loadings.shape[1]
    return distrax.MultivariateNormalDiag(jnp.zeros(size), jnp.ones(size))


def _posterior(params: LinearGaussianParams, x: Array) -> distrax.Distribution:
    factor = jnp.broadcast_to(
        params.posterior_factor, (*x.shape[:-1], *params.posterior_factor.shape)
    )
    return distrax.MultivariateNormalTri(x @ params.posterior_weights.T, factor)


def _likelihood(params: LinearGaussianParams, z: Array) -> distrax.Distribution:
    mean = z @ params.loadings.T
    return distrax.MultivariateNormalDiag(mean, jnp.full(mean.shape, jnp.exp(params.log_noise)))


MODEL = LatentVariableModel(_prior, _posterior, _likelihood)
r"""The model as three functions of `LinearGaussianParams`.

.. math:: z \sim \mathcal N(0, I), \quad x \mid z \sim \mathcal N(W z, \sigma^2 I), \quad
   q(z \mid x) = \mathcal N(M x, L L^\top)

Probabilistic principal components (Tipping & Bishop 1999). Bounds and estimators are held against
`exact_log_prob`, and are tight at `exact_posterior`.
"""


def exact_log_prob(params: LinearGaussianParams, x: Array) -> Array:
    r"""The marginal, :math:`\log \mathcal N(x; 0, W W^\top + \sigma^2 I)`: nats, `[B]`.

    Args:
      params: parameters; those of the posterior do not matter.
      x: data, `[B, D]`.
    """
    size = params.loadings.shape[0]
    covariance = params.loadings @ params.loadings.T
    covariance += jnp.exp(2 * params.log_noise) * jnp.eye(size)
    return jnp.asarray(jax.scipy.stats.multivariate_normal.logpdf(x, jnp.zeros(size), covariance))


def exact_posterior(params: LinearGaussianParams) -> LinearGaussianParams:
    """The same model with its exact posterior, of covariance (I + Wᵀ W / σ²)⁻¹."""
    scaled = params.loadings.T / jnp.exp(2 * params.log_noise)
    precision = jnp.eye(params.loadings.shape[1]) + scaled @ params.loadings
    covariance = jnp.linalg.inv(precision)
    return params._replace(
        posterior_weights=covariance @ scaled, posterior_factor=jnp.linalg.cholesky(covariance)
    )
