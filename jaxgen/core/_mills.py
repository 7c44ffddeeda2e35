"""Pieces of a tail's mass over the density at its edge, as one integral of a decreasing function.

In a coordinate in which the log-density is concave, the mass beyond a point over the density there
is I = ∫₀^∞ exp(−E(t)) dt with E convex and E(0) = 0: positive terms alone. Mapped by
t = T (s + s²) / 2 with E(T) large, a Gauss-Legendre rule of few nodes gives it for every parameter.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array

# The exponent at which integrals end, and their nodes.
DEPTH = {"float32": 18.0, "float64": 38.0}
_NUM_NODES = {"float32": 16, "float64": 40}
_NUM_TERMS = {"float32": (10, 7), "float64": (18, 17)}


def integrate(fn: Callable[[Array], Any], like: Array) -> Any:
    """Return ∫_0^1 fn(t) dt for a pytree of functions that fall by exp(−DEPTH), each as `like`."""
    rule = gauss_legendre(0, 1, _NUM_NODES[like.dtype.name])
    places = jnp.asarray((rule.nodes + rule.nodes**2) / 2, like.dtype)
    weights = jnp.asarray(rule.weights * (0.5 + rule.nodes), like.dtype)

    def add(k: Array, sums: Any) -> Any:
        return jax.tree.map(lambda total, value: total + weights[k] * value, sums, fn(places[k]))

    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(fn, like))
    return jax.lax.fori_loop(0, places.size, add, nothing)


def far_end(
    slope: Array, curvature: Array, bend: Array, exponent: Callable[[Array], tuple[Array, Array]]
) -> Array:
    """Return T with E(T) ≥ DEPTH, not far above.

    Args:
      slope: E′(0), `[...]`; where it is slightly negative it counts as 0.
      curvature: E″(0), `[...]`.
      bend: y such that E(t) ≥ E′(0) t + E″(0) t² / (2 + y t), `[...]`.
      exponent: `t -> E(t), E′(t)`.

    Returns:
      T, `[...]`.
    """
    depth = DEPTH[slope.dtype.name]
    slope = jnp.maximum(slope, 0)
    square, linear = slope * bend + curvature, 2 * slope - depth * bend
    root = jnp.sqrt(linear**2 + 8 * depth * square)
    end = jnp.where(linear > 0, 4 * depth / (linear + root), (root - linear) / (2 * square))
    for _ in range(2):  # Newton's steps from above stay above, as E is convex
        height, rate = exponent(end)
        end = end - (height - depth) / rate
    return jax.lax.stop_gradient(end)


def rough_ratio(slope: Array, curvature: Array, skew: Array) -> Array:
    """Return I to a tenth or so, from E′(0), E″(0) and E‴(0) / E″(0)."""
    bent = slope + skew / 3
    return 2 / (bent + jnp.sqrt(bent**2 + 8 / np.pi * curvature))


def exp_excess(t: Array) -> Array:
    """Return exp(t) − 1 − t, `[...]`, relative to itself."""
    near = jnp.clip(t, -1, 1)
    series = jnp.ones_like(t)
    for k in range(_NUM_TERMS[t.dtype.name][0] + 1, 2, -1):
        series = 1 + series * near / k
    return jnp.where(jnp.abs(t) < 1, series * near**2 / 2, jnp.expm1(t) - t)


def log_deficit(w: Array) -> Array:
    """Return w − log(1 + w) for w > −1, `[...]`, relative to itself."""
    near = jnp.clip(w, -0.5, 0.5)
    v = near / (2 + near)
    series = jnp.zeros_like(w)
    for k in range(2 * _NUM_TERMS[w.dtype.name][1] + 1, 2, -2):
        series = series * v**2 + 1 / k
    return jnp.where(jnp.abs(w) < 0.5, v * (near - 2 * v**2 * series), w - jnp.log1p(w))
