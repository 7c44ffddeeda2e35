"""Biased gradients for one-hot samples: cheap, of low variance, and wrong by a stated amount."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_in_range
from jaxgen.core._types import Array, Estimate, Key, Params
from jaxgen.estimators._gradients._dependence import check_differentiable
from jaxgen.estimators._monte_carlo import expectation


def straight_through(
    key: Key,
    f: Callable[[Params, Array], Array],
    logits_fn: Callable[[Params], Array],
    params: Params,
    num_samples: int,
    *,
    chunk_size: int = 1024,
) -> Estimate:
    r"""Estimate a gradient by pretending that a one-hot sample moves as its probabilities do.

    .. math:: \frac{1}{K} \sum_k \nabla_x f(\theta, x_k)\, \nabla_\theta
       \operatorname{softmax}(\ell_\theta) + \nabla_\theta f(\theta, x_k)

    (Bengio, Léonard & Courville 2013). Biased: it replaces the differences of `f` between symbols
    by its derivative at the one drawn. There is no bias where `f` is linear in every one-hot
    vector by itself; elsewhere it does not vanish with more samples, and the standard error does
    not count it.

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` of one one-hot sample `[..., V]`; it must extend smoothly to the
        simplex.
      logits_fn: `params -> [..., V]`, unnormalized log-probabilities of independent symbols.
      params: θ, a pytree of floating-point arrays.
      num_samples: K.
      chunk_size: gradients in memory at once.

    Returns:
      An `Estimate` of pytrees like `params`.

    Raises:
      ValueError: x or a parameter moves `f` or the logits by steps that no derivative sees.
    """

    def one_hot(params: Params, gumbel: Array) -> Array:
        logits = logits_fn(params)
        hard = jax.nn.one_hot(jnp.argmax(logits + gumbel, axis=-1), logits.shape[-1])
        soft = jax.nn.softmax(logits)
        return hard.astype(soft.dtype) + (soft - jax.lax.stop_gradient(soft))

    return _through(key, f, logits_fn, one_hot, params, num_samples, chunk_size)


def gumbel_softmax(
    key: Key,
    f: Callable[[Params, Array], Array],
    logits_fn: Callable[[Params], Array],
    params: Params,
    num_samples: int,
    *,
    temperature: float,
    chunk_size: int = 1024,
) -> Estimate:
    r"""Estimate the gradient of a relaxed expectation, over points inside the simplex.

    .. math:: \nabla_\theta \mathbb E_G\left[
       f\!\left(\theta, \operatorname{softmax}((\ell_\theta + G) / \tau)\right)\right]

    (Jang, Gu & Poole 2017; Maddison, Mnih & Teh 2017). Unbiased for this relaxed objective and
    biased for the discrete one: the bias vanishes with the temperature τ while the variance grows
    as 1/τ. The standard error does not count it.

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` of one relaxed sample `[..., V]`, a point of the simplex.
      logits_fn: `params -> [..., V]`, unnormalized log-probabilities.
      params: θ, a pytree of floating-point arrays.
      num_samples: K.
      temperature: τ > 0.
      chunk_size: gradients in memory at once.

    Returns:
      An `Estimate` of pytrees like `params`.

    Raises:
      ValueError: x or a parameter moves `f` or the logits by steps that no derivative sees.
    """
    check_in_range("temperature", temperature, 0.0, math.inf, open_lower=True)

    def relaxed(params: Params, gumbel: Array) -> Array:
        return jax.nn.softmax((logits_fn(params) + gumbel) / temperature)

    return _through(key, f, logits_fn, relaxed, params, num_samples, chunk_size)


def _through(
    key: Key,
    f: Callable[[Params, Array], Array],
    logits_fn: Callable[[Params], Array],
    transform_fn: Callable[[Params, Array], Array],
    params: Params,
    num_samples: int,
    chunk_size: int,
) -> Estimate:
    logits = logits_fn(params)
    simplex = jax.nn.softmax(logits)
    check_differentiable("logits_fn", logits_fn, params)
    check_differentiable("f", lambda x: f(params, x), simplex)
    check_differentiable("f", lambda p: f(p, simplex), params)

    def draw(key: Key, num_samples: int) -> Array:
        return jax.random.gumbel(key, (num_samples, *logits.shape), logits.dtype)

    def gradient(gumbel: Array) -> Params:
        return jax.grad(lambda p: f(p, transform_fn(p, gumbel)))(params)

    return expectation(key, draw, gradient, num_samples, chunk_size=chunk_size)
