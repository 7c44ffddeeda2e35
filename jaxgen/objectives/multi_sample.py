"""Bounds and estimates from importance weights log p(x, z_k) − log q(z_k | x)."""

import jax
import jax.numpy as jnp

from jaxgen.core import log_mean_exp as lme
from jaxgen.core.checks import check_count, check_key, check_rank
from jaxgen.core.types import Array, Estimate, Key, LatentVariableModel, Params


def log_weights(
    key: Key, params: Params, model: LatentVariableModel, x: Array, num_samples: int
) -> Array:
    r"""Log importance weights of reparameterised posterior samples.

    .. math:: \log w_k = \log p(x, z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

    Their exponentials are unbiased for p(x). Every bound here is a function of them.

    Args:
      key: a typed key.
      params: parameters of the model.
      model: a latent-variable model.
      x: data, `[B, ...]`.
      num_samples: K.

    Returns:
      Nats, `[K, B]`.
    """
    check_key(key)
    check_count("num_samples", num_samples)
    posterior, prior = model.posterior(params, x), model.prior(params)
    z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    return model.likelihood(params, z).log_prob(x[None]) + prior.log_prob(z) - log_q


def iwae_bound(log_w: Array) -> Array:
    r"""Importance-weighted bound on log p(x) (Burda et al. 2015).

    .. math:: \mathcal L_K = \log \frac1K \sum_{k=1}^K w_k \le \log p(x)

    Args:
      log_w: log-weights, nats `[K, B]`.

    Returns:
      Nats, `[B]`; one draw of the bound. K = 1 gives the ELBO, and its mean grows with K.
    """
    check_rank("log_w", log_w, 2)
    return lme.log_mean_exp(log_w, axis=0)


def estimate_log_prob(
    key: Key,
    params: Params,
    model: LatentVariableModel,
    x: Array,
    *,
    num_samples: int,
    chunk_size: int = 50,
) -> Estimate:
    """Estimate log p(x) from below with many importance samples, streamed.

    Memory grows with `chunk_size`, never with `num_samples`. The expected value is the
    importance-weighted bound, which is below log p(x) by about half the squared standard error.

    Args:
      key: a typed key.
      params: parameters of the model.
      model: a latent-variable model.
      x: data, `[B, ...]`.
      num_samples: samples for each data point, a multiple of `chunk_size`.
      chunk_size: samples that are in memory at once.

    Returns:
      `Estimate` in nats, `[B]`: delta-method standard error over the samples of each data point.
    """
    check_key(key)
    check_count("chunk_size", chunk_size)
    check_count("num_samples", num_samples, minimum=2)
    if num_samples % chunk_size:
        raise ValueError(
            f"num_samples must be a multiple of chunk_size={chunk_size}, got {num_samples}"
        )

    def add_chunk(state: lme.LogSumState, chunk_key: Key) -> tuple[lme.LogSumState, None]:
        log_w = log_weights(chunk_key, params, model, x, chunk_size)
        return lme.update_log_sum(state, log_w), None

    keys = jax.random.split(key, num_samples // chunk_size)
    start = lme.init_log_sum((x.shape[0],), jnp.zeros(()).dtype)
    state, _ = jax.lax.scan(add_chunk, start, keys)
    return Estimate(
        lme.streamed_log_mean_exp(state), lme.streamed_standard_error(state), state.num_terms
    )
