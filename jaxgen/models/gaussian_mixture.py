"""The mixture of Gaussians: the density whose maximum likelihood has an iteration of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_in_range, check_key, check_rank
from jaxgen.core.types import Array, Key


class GaussianMixtureParams(NamedTuple):
    """Parameters of K Gaussians in D dimensions, unconstrained but for the triangle.

    Attributes:
      logits: log of the components' weights, unnormalised, `[K]`.
      means: `[K, D]`.
      factors: lower triangular F_k with covariance F_k F_kᵀ, `[K, D, D]`; what stands above the
        diagonal is not read.
    """

    logits: Array
    means: Array
    factors: Array


def log_prob(params: GaussianMixtureParams, x: Array) -> Array:
    r"""Log-density of one point.

    .. math:: \log p(x) = \log \sum_k \pi_k\, \mathcal N(x; \mu_k, F_k F_k^\top)

    Args:
      params: parameters.
      x: a point, `[D]`; batches come from `jax.vmap`.

    Returns:
      Nats, a scalar.
    """
    check_rank("x", x, 1)
    return jax.nn.logsumexp(_log_joint(params, x))


def sample(key: Key, params: GaussianMixtureParams, num_samples: int) -> Array:
    """Independent draws, `[num_samples, D]`."""
    check_key(key)
    check_count("num_samples", num_samples)
    component_key, noise_key = jax.random.split(key)
    k = jax.random.categorical(component_key, params.logits, shape=(num_samples,))
    noise = jax.random.normal(noise_key, (num_samples, params.means.shape[1]))
    return params.means[k] + jnp.einsum("nij,nj->ni", jnp.tril(params.factors)[k], noise)


def em_step(
    params: GaussianMixtureParams, x: Array, min_scale: float = 0.0
) -> GaussianMixtureParams:
    r"""One step of expectation maximisation (Dempster, Laird & Rubin 1977).

    .. math:: r_{nk} = p(k \mid x_n), \quad \pi_k = \bar r_k, \quad
       \mu_k = \frac{\sum_n r_{nk} x_n}{\sum_n r_{nk}}, \quad
       \Sigma_k = \frac{\sum_n r_{nk} (x_n - \mu_k)(x_n - \mu_k)^\top}{\sum_n r_{nk}} + s^2 I

    The likelihood of the data never falls where s = 0.

    Args:
      params: where to start from.
      x: data, `[N, D]`.
      min_scale: s; above nought no component can shrink onto one point, where the likelihood has
        no bound.
    """
    check_rank("x", x, 2)
    check_in_range("min_scale", min_scale, 0.0, float("inf"), open_upper=True)
    responsibility = jax.nn.softmax(jax.vmap(_log_joint, (None, 0))(params, x), axis=-1)
    total = jnp.sum(responsibility, axis=0)
    share = responsibility / total[None]
    means = share.T @ x
    centred = x[:, None, :] - means[None]
    covariances = jnp.einsum("nk,nki,nkj->kij", share, centred, centred)
    covariances += min_scale**2 * jnp.eye(x.shape[1])[None]
    return GaussianMixtureParams(
        jnp.log(total / x.shape[0]), means, jnp.linalg.cholesky(covariances)
    )


def _log_joint(params: GaussianMixtureParams, x: Array) -> Array:
    """Log p(k, x) of one point, `[K]`."""
    factors = jnp.tril(params.factors)
    eye = jnp.eye(x.shape[0])
    # Inverted once for all points: a solve for each would cost the more.
    inverse = jax.vmap(lambda f: jax.scipy.linalg.solve_triangular(f, eye, lower=True))(factors)
    standardised = jnp.einsum("kij,kj->ki", inverse, x[None] - params.means)
    diagonal = jnp.diagonal(factors, axis1=1, axis2=2)
    log_scale = jnp.sum(jnp.log(jnp.abs(diagonal)) + 0.5 * jnp.log(2 * jnp.pi), axis=1)
    return jax.nn.log_softmax(params.logits) - 0.5 * jnp.sum(standardised**2, axis=1) - log_scale
