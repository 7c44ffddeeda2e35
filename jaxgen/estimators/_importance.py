"""Importance sampling: averages under a density that can be weighed but not drawn from."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core import _log_mean_exp as lme
from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_key, check_rank, check_shape
from jaxgen.core._types import Array, Estimate, Key
from jaxgen.samplers._resampling import resample

_MIN_TAIL = 5  # a generalized Pareto fit to fewer exceedances says nothing


def log_mean_weight(log_weights: Array) -> Estimate:
    r"""Estimate the log of a normalizing constant from log importance weights (nats).

    .. math:: \log \hat Z = \log \frac{1}{K} \sum_k w_k, \qquad
       \mathrm{SE} \approx \frac{s_w}{\sqrt K\, \bar w}

    The error is the delta method's. By Jensen's inequality the estimate lies below log Z on
    average, by about half its squared standard error.

    Args:
      log_weights: log p(x_k) − log q(x_k) of K independent draws from q, `[K, ...]`, unnormalized
        density over proposal, never the other way round; −inf stands for a zero weight.

    Returns:
      An `Estimate` `[...]` in nats. With K = 1 the error is NaN: one weight has no spread. Weights
      that are all zero give −inf, whose error is NaN and whose gradient zero.

    >>> estimate = log_mean_weight(jnp.log(jnp.array([1.0, 2.0, 3.0])))
    >>> round(float(estimate.value), 4), round(float(estimate.standard_error), 4)
    (0.6931, 0.2887)
    """
    return lme.streamed_log_mean_exp(_summed(log_weights))


def effective_sample_size(log_weights: Array) -> Array:
    r"""Return Kish's effective sample size of the weights `[K, ...]`: from 1 to K, `[...]`.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    A large value is no proof of a good proposal: a mode that was never drawn lowers nothing. The
    shape that `pareto_smooth` fits to the tail of the weights warns earlier. Weights that are all
    zero have the size 0.
    """
    return lme.streamed_effective_sample_size(_summed(log_weights))


def self_normalized(log_weights: Array, values: Array) -> Estimate:
    r"""Average values under the target density, whose normalizing constant need not be known.

    .. math:: \hat\mu = \sum_k \tilde w_k f_k, \qquad
       \mathrm{SE}^2 \approx \sum_k \tilde w_k^2 (f_k - \hat\mu)^2, \qquad
       \tilde w_k = \frac{w_k}{\sum_j w_j}

    The bias is of order 1/K, below the error's 1/√K (Owen 2013, chapter 9).

    Args:
      log_weights: log p(x_k) − log q(x_k), nats, `[K]`.
      values: f(x_k), `[K, ...]`; anything, NaN included, where the weight is zero.

    Returns:
      An `Estimate` `[...]` in the units of `values`.

    >>> estimate = self_normalized(jnp.log(jnp.array([1.0, 3.0])), jnp.array([0.0, 1.0]))
    >>> round(float(estimate.value), 4)
    0.75
    """
    log_weights, values = as_reals("log_weights", log_weights), as_reals("values", values)
    check_rank("log_weights", log_weights, 1)
    check_count("the number of log_weights", log_weights.shape[0])
    check_shape("values", values, (log_weights.shape[0], *values.shape[1:]))
    weights = jax.nn.softmax(log_weights)
    # Outside the target the values need not exist: 0 × ∞ would be NaN.
    counts = (weights != 0).reshape(-1, *[1] * (values.ndim - 1))
    values = jnp.where(counts, values, 0.0)
    mean = jnp.tensordot(weights, values, axes=1)
    variance = jnp.tensordot(weights**2, (values - mean[None]) ** 2, axes=1)
    return Estimate(mean, jnp.sqrt(variance), jnp.asarray(log_weights.shape[0]))


class ParetoSmoothed(NamedTuple):
    """Log-weights whose largest were replaced by quantiles of a generalized Pareto tail.

    Attributes:
      log_weights: smoothed and on the scale of the input, nats, `[K]`; none exceeds the largest
        raw one. Use them wherever raw log-weights go.
      shape: k̂, a scalar: the weights' moments of order 1/k̂ and above do not exist. Infinite
        where fewer than five weights stand above the tail's threshold.
      reliable: whether k̂ < min(1 − 1/log10 K, 0.7), a scalar bool. Where it is not, neither the
        estimate nor its standard error should be believed.
    """

    log_weights: Array
    shape: Array
    reliable: Array


def pareto_smooth(log_weights: Array) -> ParetoSmoothed:
    r"""Stabilize importance weights by their tail's own law, and say whether they can be trusted.

    The min(K/5, 3√K) largest weights become the expected order statistics of a generalized Pareto
    density fitted to them,

    .. math:: w_{(j)} \leftarrow F^{-1}\!\left(\frac{j - 1/2}{M}\right), \qquad
       F^{-1}(p) = u + \frac{\sigma}{k}\left((1 - p)^{-k} - 1\right)

    (Vehtari, Simpson, Gelman, Yao & Gabry 2024), with the fit of Zhang & Stephens (2009) and its
    weakly informative prior.

    Args:
      log_weights: log p(x_k) − log q(x_k), nats, `[K]`. For leave-one-out cross-validation pass the
        negated log-likelihood, which is that log-ratio.

    >>> smoothed = pareto_smooth(-1.2 * jnp.log1p(-(jnp.arange(1000) + 0.5) / 1000))
    >>> bool(smoothed.reliable)
    False
    """
    log_weights = as_reals("log_weights", log_weights)
    check_rank("log_weights", log_weights, 1)
    num_weights = log_weights.shape[0]
    check_count("the number of log_weights", num_weights, 2)
    num_tail = math.ceil(min(num_weights / 5, 3 * math.sqrt(num_weights)))
    peak = jnp.max(log_weights)
    order = jnp.argsort(log_weights)
    ascending = log_weights[order] - peak
    # Weights so small that they underflow are never part of the tail.
    floor = math.log(float(jnp.finfo(log_weights.dtype).tiny))
    threshold = jnp.maximum(ascending[num_weights - num_tail - 1], floor)
    tail = ascending[num_weights - num_tail :]
    inside = tail > threshold  # ties with the threshold fall out, as they do in a sorted list
    shape, scale = _fit_pareto(jnp.exp(tail) - jnp.exp(threshold), inside)
    num_inside = jnp.sum(inside)
    rank = jnp.arange(num_tail) - (num_tail - num_inside)
    exceedance = _pareto_quantile((rank + 0.5) / num_inside, shape, scale)
    smooth = jnp.minimum(jnp.log(exceedance + jnp.exp(threshold)), 0.0)
    fitted = (num_inside >= _MIN_TAIL) & jnp.isfinite(shape)
    places = order[num_weights - num_tail :]
    tail = jnp.where(inside & fitted, smooth + peak, log_weights[places])
    shape = jnp.where(num_inside >= _MIN_TAIL, shape, jnp.inf)
    limit = min(1 - 1 / math.log10(num_weights), 0.7)
    return ParetoSmoothed(log_weights.at[places].set(tail), shape, shape < limit)


def sampling_importance_resampling(
    key: Key, log_weights: Array, samples: Any, *, num_samples: int
) -> Any:
    """Turn weighted draws into approximate draws from the target, with replacement (Rubin 1988).

    They follow the target as K / num_samples grows; `effective_sample_size` says how many distinct
    draws to hope for.

    Args:
      key: a typed key.
      log_weights: log p(x_k) − log q(x_k), nats, `[K]`.
      samples: the draws x_k from q, a pytree of `[K, ...]`.
      num_samples: how many to return.

    Returns:
      The resampled draws, a pytree of `[num_samples, ...]`; NaN (the extreme of an integer type)
      where the weights hold NaN or nothing but −inf.
    """
    check_key(key)
    check_count("num_samples", num_samples)
    indices = resample(key, log_weights, num_samples, method="multinomial")
    # Weights that are no distribution give −1, which would otherwise name the last sample.
    outside = jnp.where(indices < 0, jnp.shape(log_weights)[0], indices)
    return jax.tree.map(lambda leaf: jnp.take(leaf, outside, axis=0, mode="fill"), samples)


def _summed(log_weights: Array) -> lme.LogSumState:
    log_weights = as_reals("log_weights", log_weights)
    if log_weights.ndim == 0 or log_weights.shape[0] == 0:
        raise ValueError(f"log_weights must have shape [K, ...], got shape {log_weights.shape}")
    empty = lme.init_log_sum(log_weights.shape[1:], log_weights.dtype)
    return lme.update_log_sum(empty, log_weights)


def _fit_pareto(exceedances: Array, inside: Array) -> tuple[Array, Array]:
    """Fit shape and scale of a generalized Pareto density over the ascending entries `inside`.

    The posterior mean over a grid of b = −k/σ, whose profile likelihood is in closed form
    (Zhang & Stephens 2009). The entries inside are the last ones; their number is traced.
    """
    size = exceedances.shape[0]
    count = jnp.sum(inside)
    largest = exceedances[-1]
    quartile = exceedances[size - count + jnp.floor(count / 4 + 0.5).astype(count.dtype) - 1]
    num_grid = 30 + jnp.floor(jnp.sqrt(count))
    j = jnp.arange(1, 31 + math.isqrt(size))
    on_grid = j <= num_grid
    b = (1 - jnp.sqrt(num_grid / (j - 0.5))) / (3 * quartile) + 1 / largest
    b = jnp.where(on_grid, b, 0.5 / largest).astype(exceedances.dtype)

    def shape_at(b: Array) -> Array:
        return jnp.sum(jnp.where(inside, jnp.log1p(-b * exceedances), 0.0)) / count

    shapes = jax.vmap(shape_at)(b)
    log_likelihood = count * (jnp.log(-b / shapes) - shapes - 1)
    posterior = jax.nn.softmax(jnp.where(on_grid, log_likelihood, -jnp.inf))
    mean_b = jnp.sum(posterior * b)
    shape = shape_at(mean_b)
    # The prior is worth ten observations of k = 1/2; the scale keeps the unshrunk fit.
    return (count * shape + 5) / (count + 10), -shape / mean_b


def _pareto_quantile(p: Array, shape: Array, scale: Array) -> Array:
    exponential = -jnp.log1p(-p)
    safe = jnp.where(shape == 0, 1.0, shape)
    return scale * jnp.where(shape == 0, exponential, jnp.expm1(safe * exponential) / safe)
