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
      group_kl: the part of it that each of L groups of latents adds, `[B, L]`, as `free_bits` takes
        it; a model without `evidence_terms` counts as one group.
    """

    value: Array
    log_likelihood: Array
    kl: Array
    group_kl: Array


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
      kl: `analytic`, the posterior's own formula (of a model with `evidence_terms`: that of each
        group, given the samples of those above), or `monte_carlo`, from the same samples.

    Returns:
      `ELBO`, per data point.

    Raises:
      NotImplementedError: from distrax, where no analytic KL is known for the pair.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples)
    check_one_of("kl", kl, KL_METHODS)
    if hasattr(model, "evidence_terms"):
        terms = model.evidence_terms(key, params, x, num_samples=num_samples, context=context)
        group_kl = jnp.mean(terms.kl if kl == "analytic" else terms.log_ratios, axis=1).T
        return _elbo(terms.log_likelihood, group_kl, beta)
    posterior = model.posterior(params, x, context=context)
    prior = model.prior(params, context=context)
    z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    log_likelihood = model.likelihood(params, z, context=context).log_prob(x[None])
    if kl == "analytic":
        divergence = posterior.kl_divergence(prior)
    else:
        divergence = jnp.mean(log_q - prior.log_prob(z), axis=0)
    return _elbo(log_likelihood, divergence[:, None], beta)


def _elbo(log_likelihood: Array, group_kl: Array, beta: float | Array) -> ELBO:
    """Put together log-likelihoods `[K, B]` and divergences `[B, L]`."""
    log_likelihood = jnp.mean(as_reals("log-likelihoods", log_likelihood), axis=0)
    kl = jnp.sum(group_kl, axis=1)
    return ELBO(log_likelihood - beta * kl, log_likelihood, kl, group_kl)
