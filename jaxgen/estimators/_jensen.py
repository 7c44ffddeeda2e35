"""Jensen's gap: how far the average of a function lies from the function of the average."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Estimate, Key
from jaxgen.estimators._monte_carlo import SampleFn, expectation


class JensenGap(NamedTuple):
    """How far an average of a function lies from the function of the average.

    Attributes:
      gap: E[f(X)] − f(E[X]), with its standard error; scalars.
      sign: +1 or −1 where the gap exceeds `num_errors` standard errors and what rounding could
        make (as for convex and concave `f`), 0 where it cannot be told from zero.
    """

    gap: Estimate
    sign: Array


def jensen_gap(
    key: Key,
    sample_fn: SampleFn,
    f: Callable[[Array], Array],
    num_samples: int,
    *,
    num_errors: float = 3.0,
    chunk_size: int = 2**14,
) -> JensenGap:
    r"""Estimate Jensen's gap, positive for convex `f` and negative for concave.

    .. math:: \mathbb E[f(X)] - f(\mathbb E[X]) \approx \frac1n \sum_i
       \left( f(x_i) - f(\bar x) - \nabla f(\bar x)^\top (x_i - \bar x) \right)

    Each term is a Bregman divergence, so every one of them has the right sign, nothing cancels, and
    their spread gives the delta method's standard error. Two passes over the same draws, in
    constant memory; the bias is of order 1/n.

    Args:
      key: a typed key.
      sample_fn: `(key, num_samples) -> x`, `[num_samples]` or `[num_samples, D]`.
      f: differentiable, one sample `-> scalar`.
      num_samples: n.
      num_errors: how many standard errors make a sign.
      chunk_size: samples in memory at once.

    >>> draw = lambda key, num_samples: jax.random.normal(key, (num_samples,))
    >>> result = jensen_gap(jax.random.key(0), draw, jnp.exp, 10_000)
    >>> int(result.sign), bool(abs(result.gap.value - (jnp.exp(0.5) - 1)) < 0.1)
    (1, True)
    """
    check_key(key)
    # Copies of the key: both passes are meant to see the same draws.
    mean, mean_error, count = expectation(
        jax.random.clone(key), sample_fn, lambda x: x, num_samples, chunk_size=chunk_size
    )
    value, slope = jax.value_and_grad(f)(mean)

    def divergence(x: Array) -> Array:
        return f(x) - value - jnp.sum(slope * (x - mean))

    gap = expectation(
        jax.random.clone(key), sample_fn, divergence, num_samples, chunk_size=chunk_size
    )
    # A linear f leaves terms of pure rounding: no larger a gap can be told from zero.
    reach = jnp.abs(mean) + mean_error * jnp.sqrt(count).astype(mean.dtype)
    rounding = jnp.finfo(mean.dtype).eps * (jnp.abs(value) + jnp.sum(jnp.abs(slope) * reach))
    told = jnp.abs(gap.value) > num_errors * gap.standard_error + rounding
    return JensenGap(gap, jnp.where(told, jnp.sign(gap.value), 0.0).astype(jnp.int32))
