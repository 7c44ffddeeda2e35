"""Fisher information, and the variance that no unbiased estimator can go below."""

import jax
import jax.flatten_util
import jax.numpy as jnp

from jaxgen.core._checks import check_count, check_shape
from jaxgen.core._types import Array, LogProbFn, Params
from jaxgen.estimators._functionals import ExpectationFn


def fisher_information(
    expectation_fn: ExpectationFn, log_prob_fn: LogProbFn, params: Params
) -> Array:
    r"""Compute the Fisher information, which one sample holds about the parameters.

    .. math:: I(\theta) = \mathbb E_{p_\theta(x)}[
       \nabla_\theta \log p_\theta(x)\, \nabla_\theta \log p_\theta(x)^\top]

    Args:
      expectation_fn: averages under a density, such as `by_quadrature(rule)`; for discrete x a rule
        of the possible values with weights of one.
      log_prob_fn: `(params, x) -> scalar`, nats, normalized.
      params: θ, a pytree of floating-point arrays, P numbers in all.

    Returns:
      `[P, P]`, in the order of `jax.flatten_util.ravel_pytree(params)`.

    >>> from jaxgen.core._quadrature import gauss_legendre
    >>> from jaxgen.estimators._functionals import by_quadrature
    >>> average = by_quadrature(gauss_legendre(-12.0, 12.0, 16, 8))
    >>> normal = lambda scale, x: jax.scipy.stats.norm.logpdf(x, 0.0, scale)
    >>> information = fisher_information(average, normal, jnp.array(2.0))
    >>> [[round(float(entry), 4) for entry in row] for row in information]  # 2 / σ²
    [[0.5]]
    """
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def outer_score(x: Array) -> Array:
        score = jax.grad(lambda vector: log_prob_fn(unravel(vector), x))(flat)
        return jnp.outer(score, score)

    def entry(i: Array, j: Array) -> Array:
        return expectation_fn(
            lambda x: log_prob_fn(params, x), lambda x: outer_score(x)[i, j]
        ).value

    index = jnp.arange(flat.size)
    return jax.vmap(lambda i: jax.vmap(lambda j: entry(i, j))(index))(index)


def cramer_rao_bound(information: Array, jacobian: Array, *, num_samples: int) -> Array:
    r"""Return the least covariance of an unbiased estimator of g(θ) (Rao 1945; Cramér 1946).

    .. math:: \frac1n\, J\, I(\theta)^{-1} J^\top, \qquad J = \partial g / \partial \theta

    Maximum likelihood reaches it as n grows, and where the family is exponential and g its mean
    parameter, at every n.

    Args:
      information: I(θ) of one sample, `[P, P]`.
      jacobian: J, `[G, P]`; the identity for θ itself.
      num_samples: n, independent samples.

    Returns:
      A covariance, `[G, G]`.
    """
    size = information.shape[0]
    check_shape("information", information, (size, size))
    check_shape("jacobian", jacobian, (None, size))
    check_count("num_samples", num_samples)
    return jacobian @ jnp.linalg.solve(information, jacobian.T) / num_samples
