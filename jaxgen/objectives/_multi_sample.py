"""Bounds and estimates from importance weights log p(x, z_k) − log q(z_k | x).

A bound is any function of the weights of one batch, `[K, B] -> [B]`, that does not care about the
order of the K samples. `elbo_bound` and `iwae_bound` are two; more are a line each. How its
gradient is estimated is chosen apart from it, in `multi_sample_bound`.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxgen.core import _log_mean_exp as lme
from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_key, check_one_of, check_rank
from jaxgen.core._contracts import LatentVariableModel, check_model
from jaxgen.core._types import Array, Estimate, Key, Params
from jaxgen.estimators._gradients._dependence import check_continuous, check_differentiable

BoundFn = Callable[[Array], Array]
"""`bound_fn(log_w [K, B]) -> [B]` in nats, symmetric in the K samples."""

Gradient = Literal["reparameterized", "doubly_reparameterized", "score_function", "vimco"]
"""How the gradient of a bound's expectation is estimated; `multi_sample_bound` describes each."""


def log_weights(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int,
    context: Any = None,
) -> Array:
    r"""Draw log importance weights of reparameterized posterior samples.

    .. math:: \log w_k = \log p(x, z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

    Their exponentials are unbiased for p(x). Every bound here is a function of them.

    Args:
      key: a typed key.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`.
      num_samples: K.
      context: what the model is conditioned on, for each of B or for all.

    Returns:
      Nats, `[K, B]`.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples)
    return _drawn_weights(key, model, params, x, context, num_samples, 1.0)


def elbo_bound(log_w: Array) -> Array:
    r"""Return the ELBO from K samples, :math:`\frac1K \sum_k \log w_k`: nats `[K, B] -> [B]`."""
    check_rank("log_w", log_w, 2)
    return jnp.mean(as_reals("log_w", log_w), axis=0)


def iwae_bound(log_w: Array) -> Array:
    r"""Return the importance-weighted bound on log p(x) (Burda et al. 2015).

    .. math:: \mathcal L_K = \log \frac1K \sum_{k=1}^K w_k \le \log p(x)

    Args:
      log_w: log-weights, nats `[K, B]`.

    Returns:
      Nats, `[B]`; one draw of the bound. K = 1 gives the ELBO, and its mean grows with K.
    """
    check_rank("log_w", log_w, 2)
    return lme.log_mean_exp(log_w, axis=0)


def iwae(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int,
    context: Any = None,
    gradient: Gradient = "reparameterized",
    beta: float | Array = 1.0,
    resample: bool = False,
) -> Array:
    r"""Draw the importance-weighted bound on log p(x) (Burda et al. 2015).

    .. math:: \mathcal L_K = \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}
       \le \log p(x), \qquad z_k \sim q(z \mid x)

    Args:
      key: a typed key.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`.
      num_samples: K; at least 2 for `gradient="vimco"`.
      context: what the model is conditioned on, for each of B or for all.
      gradient: how `jax.grad` of the result is estimated, as in `multi_sample_bound`.
      beta: weight of the divergence; 1 for a bound.
      resample: send the gradient through one of the K samples, as in `multi_sample_bound`.

    Returns:
      Nats, `[B]`; its mean grows with K towards log p(x).
    """
    return multi_sample_bound(
        key,
        iwae_bound,
        model,
        params,
        x,
        num_samples=num_samples,
        context=context,
        gradient=gradient,
        beta=beta,
        resample=resample,
    )


def multi_sample_bound(
    key: Key,
    bound_fn: BoundFn,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int,
    context: Any = None,
    gradient: Gradient = "reparameterized",
    beta: float | Array = 1.0,
    resample: bool = False,
) -> Array:
    r"""Draw a bound L(log w), with the gradient estimator of your choice behind it.

    Whatever the choice, `jax.grad` of the result is unbiased for the gradient of the bound's
    expectation in every parameter, of model and posterior alike:

    * `reparameterized`: through the samples (Kingma & Welling 2014). For the importance-weighted
      bound its signal-to-noise in the posterior's parameters falls with K (Rainforth et al. 2018).
    * `doubly_reparameterized`: the score term is reparameterized once more, so each sample's path
      carries :math:`\partial_k L - \beta\, \partial_k^2 L`. For `iwae_bound` that is the squared
      normalized weight, DReG (Tucker et al. 2019); for `elbo_bound` it is sticking the landing
      (Roeder et al. 2017), with zero variance where the posterior is exact.
    * `score_function`: :math:`L \sum_k \nabla \log q(z_k)` (Williams 1992); for discrete latents.
    * `vimco`: the same with the leave-one-out baseline of Mnih & Rezende (2016): L with log w_k put
      to the mean of the others that are not −inf.

    Args:
      key: a typed key.
      bound_fn: L, such as `iwae_bound`.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`.
      num_samples: K; at least 2 for `vimco`.
      context: what the model is conditioned on, for each of B or for all.
      gradient: the estimator.
      beta: weight of the divergence, as in `elbo`: L is of
        :math:`\log p(x \mid z_k) + \beta (\log p(z_k) - \log q(z_k \mid x))`, for 1 a bound.
      resample: let the derivative go through one of the K samples, drawn with probability
        :math:`\propto |\partial_k L|`, for `iwae_bound` the normalized weight (Burda et al. 2015,
        section 3). Only that sample is evaluated backwards, which with many samples saves most of
        a step at the price of some variance. For the two reparameterized gradients.

    Returns:
      Nats, `[B]`; the same value for the same key, whatever `gradient`, and another draw with
      `resample`.

    Raises:
      ValueError: the posterior's samples have no pathwise gradient (discrete latents, a mixture's
        weights) and one is asked for; `vimco` with one sample; `resample` with a gradient that
        goes through no sample.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("num_samples", num_samples, minimum=2 if gradient == "vimco" else 1)
    check_one_of("gradient", gradient, get_args(Gradient))

    def posterior(params: Params) -> Any:
        return model.posterior(params, x, context=context)

    def sample(key: Key) -> tuple[Any, Array]:
        return posterior(params).sample_and_log_prob(seed=key, sample_shape=(num_samples,))

    def weighted(z: Any, log_q: Array) -> Array:
        return _weighted(model, params, x, context, z, log_q, beta)

    if gradient in ("score_function", "vimco"):
        if resample:
            raise ValueError(f"resample must be False for gradient={gradient!r}, got True")
        z, _ = jax.lax.stop_gradient(sample(key))
        log_q = posterior(params).log_prob(z)
        return _scored(weighted(z, log_q), log_q, bound_fn, has_baseline=gradient == "vimco")
    _check_pathwise(lambda p: posterior(p).sample(seed=key, sample_shape=(1,)), params)

    def along_path(z: Any, log_q: Array, ratio: Array) -> Array:
        if gradient == "reparameterized":
            return weighted(z, log_q)
        # The score of q is left out here: what it would add is in the coefficient of the path.
        frozen = posterior(jax.lax.stop_gradient(params))
        z = jax.tree.map(lambda leaf: _scale_gradient(leaf, ratio), z)
        return weighted(z, frozen.log_prob(z))

    if resample:
        return _resampled(key, sample, weighted, along_path, bound_fn, beta)
    if gradient == "reparameterized":
        return bound_fn(_drawn_weights(key, model, params, x, context, num_samples, beta))
    z, log_q = sample(key)
    log_w = jax.lax.stop_gradient(weighted(z, log_q))
    return bound_fn(along_path(z, log_q, _path_ratios(bound_fn, log_w, beta)))


def importance_log_prob(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    *,
    num_samples: int,
    chunk_size: int = 50,
    context: Any = None,
) -> Estimate:
    """Estimate log p(x) from below with many importance samples, streamed.

    Memory grows with `chunk_size`, never with `num_samples`. The expected value is the
    importance-weighted bound, which is below log p(x) by about half the squared standard error.

    Args:
      key: a typed key; chunk i is drawn with `fold_in(key, i)`.
      model: a latent-variable model.
      params: parameters of the model.
      x: data, `[B, ...]`.
      num_samples: samples for each data point, a multiple of `chunk_size`.
      chunk_size: samples that are in memory at once.
      context: what the model is conditioned on, for each of B or for all.

    Returns:
      `Estimate` in nats, `[B]`: delta-method standard error over the samples of each data point.
    """
    check_key(key)
    check_model(model, LatentVariableModel)
    check_count("chunk_size", chunk_size)
    check_count("num_samples", num_samples, minimum=2)
    if num_samples % chunk_size:
        raise ValueError(
            f"num_samples must be a multiple of chunk_size={chunk_size}, got {num_samples}"
        )

    def add_chunk(index: Array, state: lme.LogSumState) -> lme.LogSumState:
        chunk_key = jax.random.fold_in(key, index)
        log_w = log_weights(chunk_key, model, params, x, num_samples=chunk_size, context=context)
        return lme.update_log_sum(state, log_w)

    start = lme.init_log_sum((x.shape[0],), jnp.zeros(()).dtype)
    state = jax.lax.fori_loop(0, num_samples // chunk_size, add_chunk, start)
    return lme.streamed_log_mean_exp(state)


def _drawn_weights(
    key: Key,
    model: LatentVariableModel,
    params: Params,
    x: Array,
    context: Any,
    num_samples: int,
    beta: float | Array,
) -> Array:
    """Return log-weights of posterior draws, by one pass where the model has one."""
    if hasattr(model, "evidence_terms"):
        terms = model.evidence_terms(key, params, x, num_samples=num_samples, context=context)
        return terms.log_likelihood - beta * jnp.sum(terms.log_ratios, axis=0)
    posterior = model.posterior(params, x, context=context)
    z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    return _weighted(model, params, x, context, z, log_q, beta)


def _weighted(
    model: LatentVariableModel,
    params: Params,
    x: Array,
    context: Any,
    z: Any,
    log_q: Array,
    beta: float | Array,
) -> Array:
    """Return log-weights of `z` with prior and posterior to the power `beta`."""
    terms = (
        model.likelihood(params, z, context=context).log_prob(x[None]),
        model.prior(params, context=context).log_prob(z),
        log_q,
    )
    log_likelihood, log_prior, log_q = (as_reals("log-densities", term) for term in terms)
    return log_likelihood + beta * (log_prior - log_q)


def _resampled(
    key: Key,
    sample: Callable[[Key], tuple[Any, Array]],
    weighted: Callable[[Any, Array], Array],
    along_path: Callable[[Any, Array, Array], Array],
    bound_fn: BoundFn,
    beta: float | Array,
) -> Array:
    sample_key, choice_key = jax.random.split(key)
    z, log_q = sample(sample_key)
    log_w = jax.lax.stop_gradient(weighted(z, log_q))
    slope = _slope(bound_fn, log_w)
    size = jnp.abs(slope)
    index = jax.random.categorical(choice_key, jnp.log(size), axis=0)
    z, log_q, sign = jax.tree.map(lambda leaf: _pick(leaf, index), (z, log_q, jnp.sign(slope)))
    chosen = along_path(z, log_q, _path_ratio(bound_fn, log_w, index, beta)[None])
    total = jnp.sum(size, axis=0)
    # Where no sample has weight there is no gradient, and the one chosen may have log-weight −∞.
    surrogate = total * jnp.where(total > 0, (sign * chosen)[0], 0.0)
    return bound_fn(log_w) + (surrogate - jax.lax.stop_gradient(surrogate))


def _slope(bound_fn: BoundFn, log_w: Array) -> Array:
    """Return the derivative of each bound in its log-weights, `[K, B]`."""
    return jax.grad(lambda w: jnp.sum(bound_fn(w)))(log_w)


def _path_ratio(bound_fn: BoundFn, log_w: Array, index: Array, beta: float | Array) -> Array:
    """Return what the path of sample `index` `[B]` must carry, slope − β curvature, over the slope.

    The chain rule brings the slope itself.
    """
    direction = jax.nn.one_hot(index, len(log_w), dtype=log_w.dtype, axis=0)
    slopes, changes = jax.jvp(lambda w: _slope(bound_fn, w), (log_w,), (direction,))
    slope, curvature = _pick(slopes, index)[0], _pick(changes, index)[0]
    return jnp.where(slope == 0, 0.0, 1 - beta * curvature / jnp.where(slope == 0, 1.0, slope))


def _path_ratios(bound_fn: BoundFn, log_w: Array, beta: float | Array) -> Array:
    """Return `_path_ratio` of every sample, `[K, B]`, one by one: at once would take K² B."""
    samples = jnp.broadcast_to(jnp.arange(len(log_w))[:, None], log_w.shape)
    return jax.lax.map(lambda index: _path_ratio(bound_fn, log_w, index, beta), samples)


def _pick(leaf: Array, index: Array) -> Array:
    """Pick of `[K, B, ...]` the samples `index` `[B]`, as `[1, B, ...]`."""
    return jnp.take_along_axis(leaf, index.reshape((1, -1) + (1,) * (leaf.ndim - 2)), axis=0)


@jax.custom_jvp
def _scale_gradient(z: Array, factor: Array) -> Array:
    """Return `z`, whose derivative is multiplied by `factor`, `[K, B]` for z of `[K, B, ...]`."""
    del factor
    return z


@_scale_gradient.defjvp
def _scale_gradient_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    z, factor = primals
    return z, factor.reshape(factor.shape + (1,) * (z.ndim - factor.ndim)) * tangents[0]


def _scored(log_w: Array, log_q: Array, bound_fn: BoundFn, *, has_baseline: bool) -> Array:
    value = bound_fn(log_w)
    signal = value[None] - (_leave_one_out(bound_fn, log_w) if has_baseline else 0.0)
    surrogate = jnp.sum(jax.lax.stop_gradient(signal) * log_q, axis=0)
    return value + surrogate - jax.lax.stop_gradient(surrogate)


def _leave_one_out(bound_fn: BoundFn, log_w: Array) -> Array:
    """Return the bound with each log-weight in turn put to the mean of the others, `[K, B]`.

    Draws of weight zero do not count in the mean. Where no other draw counts there is no baseline:
    it is zero, as it may be whatever the others alone determine.
    """
    counts = log_w > -jnp.inf
    finite = jnp.where(counts, log_w, 0.0)
    num_others = jnp.sum(counts, axis=0, keepdims=True) - counts
    others = (jnp.sum(finite, axis=0, keepdims=True) - finite) / jnp.maximum(num_others, 1)

    def bound_without(k: Array) -> Array:
        bound = bound_fn(log_w.at[k].set(others[k]))
        return jnp.where(num_others[k] == 0, 0.0, bound)

    return jax.lax.map(bound_without, jnp.arange(len(log_w)))


def _check_pathwise(sample_fn: Callable[[Params], Any], params: Params) -> None:
    check_continuous("model.posterior", jax.eval_shape(sample_fn, params))
    check_differentiable("model.posterior", sample_fn, params)
