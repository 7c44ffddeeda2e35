"""Measure-valued gradients: a density's derivative is a difference of two densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array, Estimate, Key, Params
from jaxgen.estimators._gradients._dependence import check_differentiable, placeholder
from jaxgen.estimators._monte_carlo import expectation


class WeakDerivative(NamedTuple):
    r"""The derivative of one coordinate's law in one parameter: c (p⁺ − p⁻), with draws of both.

    Attributes:
      constant: c, `[K, D, ...]`, the shape of the parameter after the axis of samples.
      positive: draws of x_d from p⁺, same shape.
      negative: draws of x_d from p⁻, same shape.
    """

    constant: Array
    positive: Array
    negative: Array


TriplesFn = Callable[[Key, Params, int], tuple[Array, Any]]
"""`(key, params, num_samples) -> (x, derivatives)`: samples `[K, D]`, their coordinates
independent, and, in a dict like `params`, a `WeakDerivative` for each parameter `[D, ...]`."""


def measure_valued(
    key: Key,
    f: Callable[[Params, Array], Array],
    triples_fn: TriplesFn,
    params: dict[str, Array],
    num_samples: int,
    *,
    chunk_size: int = 1024,
) -> Estimate:
    r"""Estimate the gradient of an expectation over independent coordinates; unbiased for any f.

    .. math:: \frac{\partial}{\partial \theta_d} \mathbb E[f(x)] =
       c\, \mathbb E[f(x^+) - f(x^-)]

    where x⁺ and x⁻ are x with its d-th coordinate drawn anew from p⁺ and p⁻ (Pflug 1989; Mohamed,
    Rosca, Figurnov & Mnih 2020). It needs two evaluations of `f` for each scalar parameter and
    sample, no derivative of `f` in x, and has a low variance.

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` for one sample `[D]`; it may jump.
      triples_fn: `gaussian_triples`, `bernoulli_triples`, `categorical_triples`, or the result of
        `gamma_triples(concentration)`.
      params: the distribution's parameters, as `triples_fn` names them.
      num_samples: K.
      chunk_size: samples in memory at once.

    Returns:
      An `Estimate` of pytrees like `params`.

    Raises:
      ValueError: `params` are not those of the distribution, or move `f` by steps only.
    """
    one_sample = placeholder(lambda p: triples_fn(key, p, 1)[0][0], params)
    check_differentiable("f", lambda p: f(p, one_sample), params)

    def gradient(draw: tuple[Array, Any]) -> Params:
        x, derivatives = draw

        def along(derivative: WeakDerivative, direct: Array) -> Array:
            return _differences(lambda x: f(params, x), x, derivative) + direct

        direct = jax.grad(f)(params, x)
        return {name: along(derivatives[name], direct[name]) for name in params}

    def draw(key: Key, num_samples: int) -> tuple[Array, Any]:
        return triples_fn(key, params, num_samples)

    return expectation(key, draw, gradient, num_samples, chunk_size=chunk_size)


def gaussian_triples(key: Key, params: Params, num_samples: int) -> tuple[Array, Any]:
    r"""Draw the triples of independent Gaussians, params `mean` and `scale`, each `[D]`.

    The mean's parts are μ ± σ Rayleigh with c = 1/(σ√2π); the scale's are the double-sided Maxwell
    and the Gaussian itself, c = 1/σ, coupled as Gaussian = Maxwell × uniform.
    """
    _check_names(params, ("mean", "scale"))
    mean, scale = jnp.asarray(params["mean"]), jnp.asarray(params["scale"])
    keys = jax.random.split(key, 5)
    shape, dtype = (num_samples, *mean.shape), jnp.result_type(mean, scale)
    z = jax.random.normal(keys[0], shape, dtype)
    rayleigh = jnp.sqrt(2 * jax.random.exponential(keys[1], shape, dtype))
    size = jnp.linalg.norm(jax.random.normal(keys[2], (3, *shape), dtype), axis=0)
    maxwell = size * jax.random.rademacher(keys[3], shape, dtype)
    coupled = maxwell * jax.random.uniform(keys[4], shape, dtype)
    center, width = jnp.broadcast_to(mean, shape), jnp.broadcast_to(scale, shape)
    return center + width * z, {
        "mean": WeakDerivative(
            1 / (width * jnp.sqrt(2 * jnp.pi).astype(dtype)),
            center + width * rayleigh,
            center - width * rayleigh,
        ),
        "scale": WeakDerivative(1 / width, center + width * maxwell, center + width * coupled),
    }


def bernoulli_triples(key: Key, params: Params, num_samples: int) -> tuple[Array, Any]:
    """Draw the triples of independent bits, floats 0 and 1, params `logits` `[D]`."""
    _check_names(params, ("logits",))
    logits = jnp.asarray(params["logits"])
    shape = (num_samples, *logits.shape)
    probabilities = jnp.broadcast_to(jax.nn.sigmoid(logits), shape)
    x = jax.random.bernoulli(key, probabilities).astype(logits.dtype)
    constant = jnp.broadcast_to(jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits), shape)
    return x, {"logits": WeakDerivative(constant, jnp.ones_like(x), jnp.zeros_like(x))}


def categorical_triples(key: Key, params: Params, num_samples: int) -> tuple[Array, Any]:
    r"""Draw the triples of independent symbols, integers `[D]`, params `logits` `[D, V]`.

    .. math:: \partial_{\ell_v} p = p_v (\delta_v - p)
    """
    _check_names(params, ("logits",))
    logits = jnp.asarray(params["logits"])
    num_symbols = logits.shape[-1]
    x = jax.random.categorical(key, logits, shape=(num_samples, *logits.shape[:-1]))
    shape = (*x.shape, num_symbols)
    derivative = WeakDerivative(
        jnp.broadcast_to(jax.nn.softmax(logits), shape),
        jnp.broadcast_to(jnp.arange(num_symbols, dtype=x.dtype), shape),
        jnp.broadcast_to(x[..., None], shape),
    )
    return x, {"logits": derivative}


def gamma_triples(concentration: Array) -> TriplesFn:
    r"""Build the triples of independent gammas of fixed concentration α `[D]`, params `rate` `[D]`.

    .. math:: \partial_\beta\, \mathrm{Ga}(\alpha, \beta) = \frac{\alpha}{\beta}
       \left(\mathrm{Ga}(\alpha, \beta) - \mathrm{Ga}(\alpha + 1, \beta)\right)

    The two are coupled: a gamma of concentration α + 1 is one of α plus an exponential. In α the
    parts are no standard densities; use `implicit` or `score_function` for it.
    """
    concentration = jnp.asarray(concentration)

    def triples(key: Key, params: Params, num_samples: int) -> tuple[Array, Any]:
        _check_names(params, ("rate",))
        rate = jnp.asarray(params["rate"])
        gamma_key, exponential_key = jax.random.split(key)
        shape = (num_samples, *rate.shape)
        rates = jnp.broadcast_to(rate, shape)
        x = jax.random.gamma(gamma_key, concentration, shape, rate.dtype) / rates
        extra = jax.random.exponential(exponential_key, shape, rate.dtype) / rates
        return x, {"rate": WeakDerivative(concentration[None] / rates, x, x + extra)}

    return triples


def _differences(f: Callable[[Array], Array], x: Array, derivative: WeakDerivative) -> Array:
    """Return c (f(x with x_d = positive) − f(x with x_d = negative)) for each scalar parameter."""
    num_dims = x.shape[0]
    constant, positive, negative = (part.reshape(num_dims, -1) for part in derivative)

    def replaced(dim: Array, value: Array) -> Array:
        return f(x.at[dim].set(value))

    def along_dim(dim: Array, positive: Array, negative: Array) -> Array:
        each = jax.vmap(replaced, (None, 0))
        return each(dim, positive) - each(dim, negative)

    differences = jax.vmap(along_dim)(jnp.arange(num_dims), positive, negative)
    return (constant * differences).reshape(derivative.constant.shape)


def _check_names(params: Params, names: tuple[str, ...]) -> None:
    if not isinstance(params, dict) or set(params) != set(names):
        got = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"params must be a dict of exactly {', '.join(names)}, the parameters with a "
            f"measure-valued derivative here; got {got}"
        )
    for name in names:
        if jnp.ndim(params[name]) == 0:
            raise ValueError(f"params[{name!r}] must have shape [D, ...], got a scalar")
