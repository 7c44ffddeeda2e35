"""Poisson samples: inversion for small rates, transformed rejection for large ones."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._refill import draw_with_refill
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._uniform import iid_uniforms, uniform_rows

_SMALL_RATE = 10.0
_NUM_TERMS = 48  # more than 48 come with a probability of 1e-17 at rate 10
_MAX_RATE = 2.0**30


def poisson(key: Key, rate: Array | float, shape: tuple[int, ...] | None = None) -> Array:
    r"""Draw from a Poisson distribution.

    .. math:: P(k) = \lambda^k e^{-\lambda} / k!

    Rates up to 10 invert the summed probabilities; larger ones take one pass of transformed
    rejection over all draws and a refill of the rejected. Counts have no gradient in the rate.

    Args:
      key: a typed key.
      rate: λ in [0, 2^30], which must broadcast to `shape`.
      shape: shape of the result; by default that of `rate`.

    Returns:
      Counts, int32 of shape `shape`; −1 where the rate is out of range or NaN. Proposals are made
      of 24-bit uniforms: the probability of a single count is off by up to 1.5·10⁻⁷ √λ of itself,
      0.5 % at the largest rate.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit `rate`.

    >>> import jax
    >>> poisson(jax.random.key(0), 3.0, (2, 2)).shape
    (2, 2)
    """
    check_key(key)
    may_be = _regimes(rate)
    rate = jnp.asarray(rate, jnp.result_type(float))
    shape = result_shape(shape, {"rate": rate.shape})
    return _draw(key, jnp.broadcast_to(rate, shape).ravel(), may_be).reshape(shape)


def invert(rate: Array, u: Array) -> Array:
    """Return the smallest k whose cumulative probability exceeds u, for rates of at most 10.

    Args:
      rate: λ in [0, 10], `[...]`.
      u: uniforms in [0, 1), `[...]`.

    Returns:
      Counts, int32 `[...]`, at most 48.
    """

    def add_term(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, term, cumulative = state
        term = term * rate / (k + 1)
        return count + (cumulative <= u), term, cumulative + term

    first = jnp.exp(-rate)
    start = (jnp.zeros_like(first <= u, jnp.int32), first, first)
    return jax.lax.fori_loop(0, _NUM_TERMS, add_term, start, unroll=8)[0]


def propose(rate: Array, u: Array, u_accept: Array) -> tuple[Array, Array]:
    """Turn uniforms into one proposal each, and say which to keep (Hörmann 1993, PTRS).

    The proposal is the floor of (2a / s + b)(u − ½) + λ + 0.43 with s = `½ − |u − ½|`, a hat with
    the tails of a Cauchy. It is taken as a distance from ⌊λ⌋, and the probability by its
    saddle-point form (Loader 2000), so that nothing cancels for a large rate.

    Args:
      rate: λ in [10, 2^30], `[...]`.
      u: uniforms in (0, 1), `[...]`, for the proposal.
      u_accept: uniforms in (0, 1), `[...]`, for the test.

    Returns:
      Counts, int32 `[...]`, and whether each is accepted, `[...]`.
    """
    b = 0.931 + 2.53 * jnp.sqrt(rate)
    a = -0.059 + 0.02483 * b
    # As published, the hat is slightly below some probabilities.
    inverse_alpha = 1.006 * (1.1239 + 1.1328 / (b - 3.4))
    side = u - 0.5
    s = 0.5 - jnp.abs(side)
    whole = jnp.floor(rate)
    offset = jnp.floor((2 * a / s + b) * side + (rate - whole) + 0.43)
    # Far beyond any count that could be accepted, and still an integer of 32 bits.
    offset = jnp.clip(offset, -whole - 1, 2 * jnp.sqrt(rate) * 50)
    count = whole.astype(jnp.int32) + offset.astype(jnp.int32)
    log_hat = jnp.log(u_accept * inverse_alpha / (a / s**2 + b))
    accepted = log_hat <= log_probability(rate, count, offset - (rate - whole))
    return count, accepted & (count >= 0)


def log_probability(rate: Array, count: Array, distance: Array) -> Array:
    """Return the log of P(k), given k − λ beside k, that keeps its digits for a large rate.

    Its saddle-point form is −log √(2πk) − error of Stirling(k) − λ φ((k − λ) / λ) (Loader 2000).

    Args:
      rate: λ > 0, `[...]`.
      count: k ≥ 0, int32 `[...]`.
      distance: k − λ, `[...]`.

    Returns:
      Log-probabilities, `[...]`.
    """
    k = jnp.maximum(count.astype(rate.dtype), 1)
    stirling = (1 / 12 - (1 / 360 - 1 / (1260 * k**2)) / k**2) / k
    relative = distance / rate
    # φ(d) = (1 + d) log(1 + d) − d, by its series where the two terms cancel.
    d = jnp.maximum(relative, -0.999999)
    series = d**2 * (1 / 2 - d * (1 / 6 - d * (1 / 12 - d * (1 / 20 - d * (1 / 30 - d / 42)))))
    deviance = jnp.where(jnp.abs(d) < 0.1, series, (1 + d) * jnp.log1p(d) - d)
    log_p = -0.5 * jnp.log(2 * math.pi * k) - stirling - rate * deviance
    return jnp.where(count == 0, -rate, log_p)


def _regimes(rate: Array | float) -> tuple[bool, bool]:
    """Return whether rates up to 10, and above, are possible; Python and NumPy numbers can tell."""
    if isinstance(rate, jax.Array):
        return True, True
    known = np.asarray(rate, jnp.result_type(float))  # rounded as the draw will have it
    return not np.all(known > _SMALL_RATE), not np.all(known <= _SMALL_RATE)


@functools.partial(jax.jit, static_argnums=2)
def _draw(key: Key, rate: Array, may_be: tuple[bool, bool]) -> Array:
    small_key, large_key = jax.random.split(key)
    small = large = jnp.zeros(rate.shape, jnp.int32)
    if rate.size and may_be[0]:
        small = invert(jnp.clip(rate, 0, _SMALL_RATE), iid_uniforms(small_key, rate.size)[:, 0])
    if rate.size and may_be[1]:
        at_least = jnp.where(rate > _SMALL_RATE, jnp.minimum(rate, _MAX_RATE), _SMALL_RATE)
        large = draw_with_refill(large_key, _propose_with_key, at_least, rate.size, 0.25)
    counts = jnp.where(rate <= _SMALL_RATE, small, large)
    return jnp.where((rate >= 0) & (rate <= _MAX_RATE), counts, -1)


def _propose_with_key(key: Key, rate: Array, num_samples: int) -> tuple[Array, Array]:
    u = uniform_rows(key, 2, num_samples)
    return propose(rate, u[0], u[1])
