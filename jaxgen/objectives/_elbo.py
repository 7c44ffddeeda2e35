"""The evidence lower bound."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_key, check_one_of
from jaxgen.core._contracts import LatentVariableModel, check_model
from jaxgen.core._types import Array, Key, Params

KL_METHODS = ("analytic", "monte_carlo")


class ELBO(NamedTuple):
    """A bound and its parts, in nats.

    Attributes:
      value: log_likelihood − β·kl, `[B]`; a bound on log p(x) for β = 1 alone.
      log_likelihood: E_q[log p(x | z)], `[B]`.
      kl: KL(q(z | x) ‖ p(z)), `[B]`, not multiplied by β.
    """

    value: Array
    log_likelihood: Array
    kl: Array


def elbo(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    context: Any = None,
    num_samples: int = 1,
    beta: float | Array = 1.0,
    kl: str = "analytic",
) -> ELBO:
    r"""Estimate the evidence lower bound from reparameterized samples (Kingma & Welling 2014).

    .. math:: \log p(x) \ge \mathbb E_{q(z|x)}[\log p(x|z)] - \beta\, \mathrm{KL}(q(z|x) \| p(z))

    Args:
      key: a typed key.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`.
      context: what the model is conditioned on, for each of B or for all.
      num_samples: samples of z behind each expectation.
      beta: weight of the KL term (Higgins et al. 2017); it changes `value` alone.
      kl: `analytic`, the posterior's own formula, or `monte_carlo`, from the same samples.

    Returns:
      `ELBO`, per data point.

    Raises:
      NotImplementedError: from distrax, where no analytic KL is known for the pair.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples)
    check_one_of("kl", kl, KL_METHODS)
    posterior = model.posterior(params, x, context=context)
    prior = model.prior(params, context=context)
    z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    terms = model.likelihood(params, z, context=context).log_prob(x[None])
    log_likelihood = jnp.mean(as_reals("log-likelihoods", terms), axis=0)
    if kl == "analytic":
        divergence = posterior.kl_divergence(prior)
    else:
        divergence = jnp.mean(log_q - prior.log_prob(z), axis=0)
    return ELBO(log_likelihood - beta * divergence, log_likelihood, divergence)
