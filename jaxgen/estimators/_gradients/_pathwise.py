"""Pathwise gradients: move the samples with the parameters and differentiate through them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_shape
from jaxgen.core._types import Array, Estimate, Key, Params
from jaxgen.estimators._gradients._dependence import (
    check_continuous,
    check_differentiable,
    check_reached,
    moved_parameters,
    placeholder,
    reached_parameters,
)
from jaxgen.estimators._monte_carlo import expectation


def pathwise(
    key: Key,
    f: Callable[[Params, Any], Array],
    noise_fn: Callable[[Key, int], Any],
    transform_fn: Callable[[Params, Any], Any],
    params: Params,
    num_samples: int,
    *,
    chunk_size: int = 1024,
) -> Estimate:
    r"""Estimate the gradient of an expectation through a differentiable sampler; unbiased.

    .. math:: \frac{1}{K} \sum_k \nabla_\theta f(\theta, g_\theta(\epsilon_k)), \qquad
       x = g_\theta(\epsilon) \sim p_\theta

    (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014). `f` must be continuous in x: a jump
    biases the result, and only one that cuts the whole derivative is found.

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` for one sample.
      noise_fn: `(key, num_samples) -> noise`, a pytree of `[num_samples, ...]`; uniforms, normals,
        or `jax.random.split` itself for a sampler that wants a key.
      transform_fn: `(params, noise) -> x` for one sample.
      params: θ, a pytree of floating-point arrays.
      num_samples: K.
      chunk_size: gradients in memory at once.

    Returns:
      An `Estimate` of pytrees like `params`.

    Raises:
      ValueError: the samples are discrete, or a parameter moves them, or x moves `f`, by steps
        that no derivative sees.

    >>> normals = lambda key, num_samples: jax.random.normal(key, (num_samples,))
    >>> square, scaled = lambda scale, x: x**2, lambda scale, z: scale * z
    >>> estimate = pathwise(jax.random.key(0), square, normals, scaled, 3.0, 1000)
    >>> bool(abs(estimate.value - 6.0) < 4 * estimate.standard_error)
    True
    """

    def one_transformed(params: Params) -> Any:
        return transform_fn(params, jax.tree.map(lambda leaf: leaf[0], noise_fn(key, 1)))

    one_sample = placeholder(one_transformed, params)
    check_continuous("transform_fn", one_sample)
    check_differentiable("transform_fn", one_transformed, params)
    check_differentiable("f", lambda x: f(params, x), one_sample)
    check_differentiable("f", lambda p: f(p, one_sample), params)

    def gradient(noise: Any) -> Params:
        return jax.grad(lambda p: f(p, transform_fn(p, noise)))(params)

    return expectation(key, noise_fn, gradient, num_samples, chunk_size=chunk_size)


def implicit(
    key: Key,
    f: Callable[[Params, Array], Array],
    sample_fn: Callable[[Key, Params, int], Array],
    cdf_fn: Callable[[Params, Array], Array],
    params: Params,
    num_samples: int,
    *,
    chunk_size: int = 1024,
) -> Estimate:
    r"""Estimate the gradient of an expectation from a distribution function; unbiased.

    Any sampler will do: how a sample moves follows from its distribution function alone,

    .. math:: \frac{\partial x}{\partial \theta} =
       -\left(\frac{\partial F_\theta(x)}{\partial x}\right)^{-1}
       \frac{\partial F_\theta(x)}{\partial \theta}

    (Figurnov, Mohamed & Mnih 2018).

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` for one sample, continuous in x.
      sample_fn: `(key, params, num_samples) -> x`, `[num_samples]` or `[num_samples, D]`.
        Gradients do not flow through it.
      cdf_fn: `(params, x) -> u` of the shape of x: the distribution function, or in D dimensions
        the conditional ones F(x_i | x_<i), whose Jacobian is triangular (Rosenblatt 1952).
      params: θ, a pytree of floating-point arrays.
      num_samples: K.
      chunk_size: gradients in memory at once.

    Returns:
      An `Estimate` of pytrees like `params`.

    Raises:
      ValueError: the samples are discrete; `cdf_fn` changes their shape; a parameter moves the
        samples but not the derivative of `cdf_fn`; x moves `f` by steps only.
    """

    def draw_one(params: Params) -> Array:
        (sample,) = sample_fn(key, params, 1)
        return sample

    one_sample = placeholder(draw_one, params)
    check_continuous("sample_fn", one_sample)
    check_shape("cdf_fn's value", jax.eval_shape(cdf_fn, params, one_sample), one_sample.shape)
    check_reached(
        "cdf_fn",
        moved_parameters(draw_one, params),
        reached_parameters(lambda p: cdf_fn(p, one_sample), params),
    )
    check_differentiable("f", lambda x: f(params, x), one_sample)
    check_differentiable("f", lambda p: f(p, one_sample), params)

    def gradient(x: Array) -> Params:
        direct, slope = jax.grad(f, argnums=(0, 1))(params, x)
        density = jax.jacfwd(cdf_fn, argnums=1)(params, x).reshape(x.size, x.size)
        pull = jnp.linalg.solve(density.T, slope.reshape(-1)).reshape(x.shape)
        _, vjp_fn = jax.vjp(lambda p: cdf_fn(p, x), params)
        return jax.tree.map(jnp.subtract, direct, vjp_fn(pull)[0])

    def draw(key: Key, num_samples: int) -> Array:
        return jax.lax.stop_gradient(sample_fn(key, params, num_samples))

    return expectation(key, draw, gradient, num_samples, chunk_size=chunk_size)
