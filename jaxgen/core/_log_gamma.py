"""What surrounds Γ, so that nothing large cancels: its distance from Stirling's formula.

With s = 1 / a, the distance over s is smooth on [0, 1]: one polynomial serves every a ≥ 1, its
derivatives the digamma and trigamma functions, and a recurrence what lies below 1.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array

_BERNOULLI = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DEGREE = {"float32": 9, "float64": 20}
_NUM_NODES = {"float32": 5, "float64": 11}


def stirling_error(a: Array) -> Array:
    """Return log Γ(a) − ((a − ½) log a − a + ½ log 2π) for a > 0, `[...]`, to a rounding of 1."""
    is_small = a < 1
    s = 1 / jnp.where(is_small, a + 1, a)
    above = s * _polynomial(s, 0)
    small = jnp.where(is_small, a, 1)
    return jnp.where(is_small, above + ((small + 0.5) * jnp.log1p(1 / small) - 1), above)


def digamma_gap(a: Array) -> Array:
    """Return log a − ψ(a) for a > 0, `[...]`, to its last digits: about 1 / (2 a) for large a."""
    return 0.5 / a + digamma_remainder(a)


def digamma_remainder(a: Array) -> Array:
    """Return log a − 1 / (2 a) − ψ(a) for a > 0, `[...]`: about 1 / (12 a²) for large a."""
    is_small = a < 1
    s = 1 / jnp.where(is_small, a + 1, a)
    above = s**2 * (_polynomial(s, 0) + s * _polynomial(s, 1))
    small = jnp.where(is_small, a, 1)
    return jnp.where(is_small, (above + s / 2) + (0.5 / small - jnp.log1p(1 / small)), above)


def log_gamma_rise(a: Array, b: Array) -> Array:
    """Return log Γ(1 + b + a) − log Γ(1 + b) for a in [0, 1] and b ≥ 0, `[...]`, relative to a."""
    beyond = _mean(lambda y: jnp.log1p((y - b) / (1 + b)) - digamma_gap(1 + y), a, b)
    return a * (jnp.log1p(b) + beyond)


def digamma_rise(a: Array, b: Array) -> Array:
    """Return ψ(1 + b + a) − ψ(1 + b) for a and b ≥ 0, `[...]`, relative to a."""
    near = jnp.minimum(a, 1) * _mean(_trigamma_above_one, jnp.minimum(a, 1), b)
    low = digamma_gap(1 + b) - digamma_gap(1 + b + a)
    return jnp.where(a <= 1, near, jnp.log1p(a / (1 + b)) + low)


def _trigamma_above_one(y: Array) -> Array:
    s = 1 / (1 + y)
    g, g1, g2 = (_polynomial(s, order) for order in (0, 1, 2))
    return s + s**2 * (0.5 + s * (2 * g + s * (4 * g1 + s * g2)))


def _mean(fn: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """Return the mean of a smooth function over [b, b + a], a ≤ 1."""
    rule = gauss_legendre(0, 1, _NUM_NODES[a.dtype.name])
    places, weights = jnp.asarray(rule.nodes, a.dtype), jnp.asarray(rule.weights, a.dtype)

    def add(k: Array, total: Array) -> Array:
        return total + weights[k] * fn(b + a * places[k])

    return jax.lax.fori_loop(0, rule.nodes.size, add, jnp.zeros_like(a))


def _polynomial(s: Array, order: int) -> Array:
    """Return the distance from Stirling's formula over s, or its derivative of that order in s."""
    value = jnp.zeros_like(s)
    for coefficient in _coefficients(_DEGREE[s.dtype.name], order):
        value = value * (2 * s - 1) + coefficient
    return value


@cache
def _coefficients(degree: int, order: int) -> tuple[float, ...]:
    nodes = np.polynomial.chebyshev.chebpts1(degree + 1)
    powers = np.polyfit(nodes, _reference(nodes), degree)
    return tuple(float(c) for c in 2**order * np.polyder(powers, order))


def _reference(t: np.ndarray) -> np.ndarray:
    s = (t + 1) / 2
    a = 1 / s
    far = np.where(a > 10, a, a + 10)
    series = np.polyval(_BERNOULLI[::-1], far**-2.0) / far
    steps = sum((a + j + 0.5) * np.log1p(1 / (a + j)) - 1 for j in range(10))
    return (series + np.where(a > 10, 0, steps)) / s
