"""Bounds and estimates from importance weights log p(x, z_k) − log q(z_k | x).

A bound is any function of the weights of one batch, `[K, B] -> [B]`, that does not care about the
order of the K samples. `elbo_bound` and `iwae_bound` are two; more are a line each. How its
gradient is estimated is chosen apart from it, in `bound`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen.core import log_mean_exp as lme
from jaxgen.core.checks import check_count, check_key, check_one_of, check_rank
from jaxgen.core.types import Array, Estimate, Key, LatentVariableModel, Params
from jaxgen.estimators.gradients.dependence import check_continuous, check_differentiable

BoundFn = Callable[[Array], Array]
"""`bound_fn(log_w [K, B]) -> [B]` in nats, symmetric in the K samples."""

Gradient = Literal["reparameterised", "doubly_reparameterised", "score_function", "vimco"]
"""How the gradient of a bound's expectation is estimated; see `bound`."""

GRADIENTS = ("reparameterised", "doubly_reparameterised", "score_function", "vimco")


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
    posterior = model.posterior(params, x)
    z, log_q = posterior.sample_and_log_prob(seed=key, sample_shape=(num_samples,))
    return _weighted(params, model, x, z, log_q, 1.0)


def elbo_bound(log_w: Array) -> Array:
    r"""The ELBO from K samples, :math:`\frac1K \sum_k \log w_k`: nats `[K, B] -> [B]`."""
    check_rank("log_w", log_w, 2)
    return jnp.mean(log_w, axis=0)


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


def bound(
    key: Key,
    params: Params,
    model: LatentVariableModel,
    x: Array,
    bound_fn: BoundFn,
    *,
    num_samples: int,
    gradient: Gradient = "reparameterised",
    beta: float | Array = 1.0,
    resample: bool = False,
) -> Array:
    r"""A draw of a bound L(log w), with the gradient estimator of your choice behind it.

    Whatever the choice, `jax.grad` of the result is unbiased for the gradient of the bound's
    expectation in every parameter, of model and posterior alike:

    * `reparameterised`: through the samples (Kingma & Welling 2014). For the importance-weighted
      bound its signal-to-noise in the posterior's parameters falls with K (Rainforth et al. 2018).
    * `doubly_reparameterised`: the score term is reparameterised once more, so each sample's path
      carries :math:`\partial_k L - \beta\, \partial_k^2 L`. For `iwae_bound` that is the squared
      normalised weight, DReG (Tucker et al. 2019); for `elbo_bound` it is sticking the landing
      (Roeder et al. 2017), with zero variance where the posterior is exact.
    * `score_function`: :math:`L \sum_k \nabla \log q(z_k)` (Williams 1992); for discrete latents.
    * `vimco`: the same with the leave-one-out baseline of Mnih & Rezende (2016): L with log w_k put
      to the mean of the others.

    Args:
      key: a typed key.
      params: parameters of the model.
      model: a latent-variable model.
      x: data, `[B, ...]`.
      bound_fn: L, such as `iwae_bound`.
      num_samples: K; at least 2 for `vimco`.
      gradient: the estimator.
      beta: weight of the divergence, as in `elbo`: L is of
        :math:`\log p(x \mid z_k) + \beta (\log p(z_k) - \log q(z_k \mid x))`, for 1 a bound.
      resample: let the derivative go through one of the K samples, drawn with probability
        :math:`\propto |\partial_k L|`, for `iwae_bound` the normalised weight (Burda et al. 2015,
        section 3). Only that sample is evaluated backwards, which with many samples saves most of
        a step at the price of some variance. For the two reparameterised gradients.

    Returns:
      Nats, `[B]`; the same value for the same key, whatever `gradient`, and another draw with
      `resample`.

    Raises:
      ValueError: the posterior's samples have no pathwise gradient (discrete latents, a mixture's
        weights) and one is asked for; `vimco` with one sample; `resample` with a gradient that
        goes through no sample.
    """
    check_key(key)
    check_count("num_samples", num_samples, minimum=2 if gradient == "vimco" else 1)
    check_one_of("gradient", gradient, GRADIENTS)

    def sample(key: Key) -> tuple[Any, Array]:
        return model.posterior(params, x).sample_and_log_prob(seed=key, sample_shape=(num_samples,))

    def weighted(z: Any, log_q: Array) -> Array:
        return _weighted(params, model, x, z, log_q, beta)

    if gradient in ("score_function", "vimco"):
        if resample:
            raise ValueError(f"resample must be False for gradient={gradient!r}, got True")
        z, _ = jax.lax.stop_gradient(sample(key))
        log_q = model.posterior(params, x).log_prob(z)
        return _scored(weighted(z, log_q), log_q, bound_fn, has_baseline=gradient == "vimco")
    _check_pathwise(lambda p: model.posterior(p, x).sample(seed=key, sample_shape=(1,)), params)

    def along_path(z: Any, log_q: Array, ratio: Array) -> Array:
        if gradient == "reparameterised":
            return weighted(z, log_q)
        # The score of q is left out here: what it would add is in the coefficient of the path.
        frozen = model.posterior(jax.lax.stop_gradient(params), x)
        z = jax.tree.map(lambda leaf: _scale_gradient(leaf, ratio), z)
        return weighted(z, frozen.log_prob(z))

    if resample:
        return _resampled(key, sample, weighted, along_path, bound_fn, beta)
    z, log_q = sample(key)
    if gradient == "reparameterised":
        return bound_fn(weighted(z, log_q))
    log_w = jax.lax.stop_gradient(weighted(z, log_q))
    return bound_fn(along_path(z, log_q, _path_ratios(bound_fn, log_w, beta)))


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
      key: a typed key; chunk i is drawn with `fold_in(key, i)`.
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

    def add_chunk(index: Array, state: lme.LogSumState) -> lme.LogSumState:
        log_w = log_weights(jax.random.fold_in(key, index), params, model, x, chunk_size)
        return lme.update_log_sum(state, log_w)

    start = lme.init_log_sum((x.shape[0],), jnp.zeros(()).dtype)
    state = jax.lax.fori_loop(0, num_samples // chunk_size, add_chunk, start)
    return Estimate(
        lme.streamed_log_mean_exp(state), lme.streamed_standard_error(state), state.num_terms
    )


def _weighted(
    params: Params,
    model: LatentVariableModel,
    x: Array,
    z: Any,
    log_q: Array,
    beta: float | Array,
) -> Array:
    """Log-weights of `z` with prior and posterior to the power `beta`."""
    likelihood = model.likelihood(params, z).log_prob(x[None])
    return likelihood + beta * (model.prior(params).log_prob(z) - log_q)


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
    surrogate = jnp.sum(size, axis=0) * (sign * chosen)[0]
    return bound_fn(log_w) + (surrogate - jax.lax.stop_gradient(surrogate))


def _slope(bound_fn: BoundFn, log_w: Array) -> Array:
    """Derivative of each bound in its log-weights, `[K, B]`."""
    return jax.grad(lambda w: jnp.sum(bound_fn(w)))(log_w)


def _path_ratio(bound_fn: BoundFn, log_w: Array, index: Array, beta: float | Array) -> Array:
    """What the path of sample `index` `[B]` must carry, slope − β curvature, over the slope.

    The chain rule brings the slope itself.
    """
    direction = jax.nn.one_hot(index, len(log_w), dtype=log_w.dtype, axis=0)
    slopes, changes = jax.jvp(lambda w: _slope(bound_fn, w), (log_w,), (direction,))
    slope, curvature = _pick(slopes, index)[0], _pick(changes, index)[0]
    return jnp.where(slope == 0, 0.0, 1 - beta * curvature / jnp.where(slope == 0, 1.0, slope))


def _path_ratios(bound_fn: BoundFn, log_w: Array, beta: float | Array) -> Array:
    """`_path_ratio` of every sample, `[K, B]`, one after another: at once would take K² B."""
    samples = jnp.broadcast_to(jnp.arange(len(log_w))[:, None], log_w.shape)
    return jax.lax.map(lambda index: _path_ratio(bound_fn, log_w, index, beta), samples)


def _pick(leaf: Array, index: Array) -> Array:
    """Of `[K, B, ...]` the samples `index` `[B]`, as `[1, B, ...]`."""
    return jnp.take_along_axis(leaf, index.reshape((1, -1) + (1,) * (leaf.ndim - 2)), axis=0)


@jax.custom_jvp
def _scale_gradient(z: Array, factor: Array) -> Array:
    """`z`, whose derivative is multiplied by `factor`, `[K, B]` for z of `[K, B, ...]`."""
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
    """The bound with each log-weight in turn put to the mean of the others, `[K, B]`."""
    num_samples = log_w.shape[0]
    others = (jnp.sum(log_w, axis=0, keepdims=True) - log_w) / (num_samples - 1)
    return jax.lax.map(lambda k: bound_fn(log_w.at[k].set(others[k])), jnp.arange(num_samples))


def _check_pathwise(sample_fn: Callable[[Params], Any], params: Params) -> None:
    check_continuous("model.posterior", jax.eval_shape(sample_fn, params))
    check_differentiable("model.posterior", sample_fn, params)
