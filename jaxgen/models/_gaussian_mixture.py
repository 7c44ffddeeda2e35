"""The mixture of Gaussians: the density whose maximum likelihood has an iteration of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_in_range, check_key, check_rank, check_shape
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._types import Array, Key
from jaxgen.samplers._categorical import categorical


class GaussianMixture(NamedTuple):
    r"""A mixture of K Gaussians in D dimensions, a pytree of its parameters.

    .. math:: \log p(x) = \log \sum_k \pi_k\, \mathcal N(x; \mu_k, F_k F_k^\top)

    Parameters are unconstrained but for the triangle, so a gradient step leaves a mixture; where a
    function `(params, x)` is asked for, `GaussianMixture.log_prob` is one.

    Attributes:
      logits: log of the components' weights, unnormalized, `[K]`.
      means: `[K, D]`.
      factors: lower triangular F_k with covariance F_k F_kᵀ, `[K, D, D]`; what stands above the
        diagonal is not read.
    """

    logits: Array
    means: Array
    factors: Array

    def log_prob(self, x: Array) -> Array:
        """Return the log-density in nats, `[...]`, at points `[..., D]`."""
        return log_sum_exp(self._log_joint(x), axis=-1)

    def sample(self, key: Key, num_samples: int) -> Array:
        """Draw independently, `[num_samples, D]`; NaN where the logits have no distribution."""
        check_key(key)
        check_count("num_samples", num_samples)
        component_key, noise_key = jax.random.split(key)
        k = categorical(component_key, self.logits, shape=(num_samples,))
        noise = jax.random.normal(noise_key, (num_samples, self.means.shape[1]))
        x = self.means[k] + jnp.einsum("nij,nj->ni", jnp.tril(self.factors)[k], noise)
        return nan_unless((k >= 0)[:, None], x)

    def em_step(self, x: Array, *, min_scale: float = 0.0) -> "GaussianMixture":
        r"""Return the mixture after a step of expectation maximization (Dempster et al. 1977).

        .. math:: r_{nk} = p(k \mid x_n), \quad \pi_k = \bar r_k, \quad
           \mu_k = \frac{\sum_n r_{nk} x_n}{\sum_n r_{nk}}, \quad
           \Sigma_k = \frac{\sum_n r_{nk} (x_n - \mu_k)(x_n - \mu_k)^\top}{\sum_n r_{nk}} + s^2 I

        The likelihood of the data never falls where s = 0. A component without points gets weight
        zero and stays where it is, as does one whose points do not span the space.

        Args:
          x: data, `[N, D]`.
          min_scale: s; above zero no component can shrink onto one point, where the likelihood has
            no bound.
        """
        check_rank("x", x, 2)
        check_count("the number of points of x", x.shape[0])
        check_in_range("min_scale", min_scale, 0.0, float("inf"), open_upper=True)
        responsibility = jax.nn.softmax(self._log_joint(x), axis=-1)
        total = jnp.sum(responsibility, axis=0)
        share = responsibility / jnp.where(total == 0, 1.0, total)[None]
        means = share.T @ x
        centered = x[:, None, :] - means[None]
        covariances = jnp.einsum("nk,nki,nkj->kij", share, centered, centered)
        covariances += min_scale**2 * jnp.eye(x.shape[1])[None]
        factors = jax.lax.map(jnp.linalg.cholesky, covariances)
        diagonal = jnp.diagonal(factors, axis1=1, axis2=2)
        is_spread = jnp.all(diagonal > 0, axis=1)  # NaN is not
        means = jnp.where(is_spread[:, None], means, self.means)
        factors = jnp.where(is_spread[:, None, None], factors, self.factors)
        return GaussianMixture(jnp.log(total / x.shape[0]), means, factors)

    def _log_joint(self, x: Array) -> Array:
        """Return log p(k, x) of points `[..., D]`, `[..., K]`."""
        x = jnp.asarray(x)
        num_components, num_dims = self.means.shape
        check_shape("x", x, (*x.shape[:-1], num_dims))
        factors = jnp.tril(self.factors)

        # Inverted once for all points, and one after another: on jax 0.10 two batched solves at
        # once can wait for each other without end on a machine with two cores.
        def invert(factor: Array) -> Array:
            return jax.scipy.linalg.solve_triangular(factor, jnp.eye(num_dims), lower=True)

        inverse = jax.lax.map(invert, factors)
        row = (1,) * (x.ndim - 1)
        offsets = x[..., None, :] - self.means.reshape(*row, num_components, num_dims)
        standardized = jnp.einsum("kij,...kj->...ki", inverse, offsets)
        diagonal = jnp.diagonal(factors, axis1=1, axis2=2)
        log_scale = jnp.sum(jnp.log(jnp.abs(diagonal)) + 0.5 * jnp.log(2 * jnp.pi), axis=1)
        constant = jax.nn.log_softmax(self.logits) - log_scale
        return constant.reshape(*row, -1) - 0.5 * jnp.sum(standardized**2, axis=-1)
