"""Binomial samples: inversion for small means, transformed rejection for large ones."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._poisson import log_probability as poisson_log_probability
from jaxgen.samplers._refill import draw_with_refill
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._uniform import iid_uniforms, uniform_rows

_SMALL_MEAN = 10.0
_NUM_TERMS = 48  # more than 48 come with a probability below 1e-17 at mean 10
_MAX_TRIALS = 2.0**30


def binomial(
    key: Key,
    n: Array | int,
    p: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    r"""Draw from a binomial distribution.

    .. math:: P(k) = \binom{n}{k} p^k (1 - p)^{n - k}

    Means of the rarer outcome up to 10 invert the summed probabilities; larger ones take one pass
    of transformed rejection over all draws and a refill of the rejected. Counts have no gradient.

    Args:
      key: a typed key.
      n: number of trials, a whole number in [0, 2^30] of any dtype, which must broadcast to
        `shape`. Integers are taken as they are: above 2^24 a float32 cannot hold each.
      p: probability of success in [0, 1], likewise.
      shape: shape of the result; by default that of `n` and `p` broadcast together.

    Returns:
      Counts, int32 of shape `shape`; −1 where `n` or `p` is out of range, not whole, or NaN.
      Proposals are made of 24-bit uniforms: the probability of a single count is off by up to
      1.5·10⁻⁷ standard deviations of itself, 0.25 % for the largest.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.

    >>> import jax
    >>> binomial(jax.random.key(0), 10, 0.3, (2, 2)).shape
    (2, 2)
    """
    check_key(key)
    shape = result_shape(shape, {"n": jnp.shape(n), "p": jnp.shape(p)})
    may_be = _regimes(n, p)
    n, p = whole_trials(n), jnp.asarray(p, jnp.result_type(float))
    if n.size == p.size == 1:  # what a draw sets up is set up once
        n, p = n.reshape(()), p.reshape(())
    else:
        n, p = (jnp.broadcast_to(value, shape).ravel() for value in (n, p))
    return _draw(key, n, p, math.prod(shape), may_be).reshape(shape)


def whole_trials(n: Array | int) -> Array:
    """Return numbers of trials as int32, and −1 where n is no whole number in [0, 2^30].

    Args:
      n: numbers of any dtype, `[...]`.

    Returns:
      int32, `[...]`.
    """
    if isinstance(n, jax.Array):
        return _whole_or_refused(n)
    fits = np.asarray(n) <= _MAX_TRIALS  # JAX would wrap integers of 64 bits
    return _whole_or_refused(jnp.asarray(np.where(fits, n, -1)))


def invert(n: Array, p: Array, u: Array) -> Array:
    """Return the smallest k whose cumulative probability exceeds u, for means of at most 10.

    Args:
      n: number of trials, int32, broadcast against the uniforms.
      p: probability of success in [0, ½] with n p ≤ 10, likewise.
      u: uniforms in [0, 1), `[...]`.

    Returns:
      Counts, int32 `[...]`, at most 48 and at most n.
    """
    odds, trials = p / (1 - p), n.astype(p.dtype)

    def add_term(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, term, cumulative = state
        term = term * odds * jnp.maximum(trials - k, 0) / (k + 1)
        return count + (cumulative <= u), term, cumulative + term

    first = jnp.broadcast_to(jnp.exp(trials * jnp.log1p(-p)), u.shape)
    start = (jnp.zeros_like(first <= u, jnp.int32), first, first)
    count = jax.lax.fori_loop(0, _NUM_TERMS, add_term, start, unroll=8)[0]
    return jnp.minimum(count, n)


def propose(n: Array, p: Array, u: Array, u_accept: Array) -> tuple[Array, Array]:
    """Turn uniforms into one proposal each, and say which to keep (Hörmann 1993, BTRS).

    The proposal is the floor of (2a / s + b)(u − ½) + n p + ½ with s = `½ − |u − ½|`, a hat with
    the tails of a Cauchy. It is taken as a distance from ⌊n p⌋, so that nothing cancels for many
    trials. The hat's height stands over the limit 1 / √(2π n p (1 − p)) of the mode's probability.

    Args:
      n: number of trials, int32 in [0, 2^30], broadcast against the uniforms.
      p: probability of success in (0, ½] with n p ≥ 10, likewise.
      u: uniforms in (0, 1), `[...]`, for the proposal.
      u_accept: uniforms in (0, 1), `[...]`, for the test.

    Returns:
      Counts, int32 `[...]`, and whether each is accepted, `[...]`.
    """
    whole, rest = _whole_and_rest(n, p)
    deviation = jnp.sqrt(n * p * (1 - p))
    b = 1.15 + 2.53 * deviation
    a = -0.0873 + 0.0248 * b + 0.01 * p
    inverse_alpha = (2.83 + 5.1 / b) / math.sqrt(2 * math.pi)
    side = u - 0.5
    s = 0.5 - jnp.abs(side)
    offset = jnp.floor((2 * a / s + b) * side + rest + 0.5)
    # Far beyond any count that could be accepted, and still an integer of 32 bits.
    offset = jnp.clip(offset, -50 * deviation - 1, 50 * deviation + 1)
    count = whole + offset.astype(jnp.int32)
    is_count = (count >= 0) & (count <= n)
    log_hat = jnp.log(u_accept * inverse_alpha / (a / s**2 + b))
    log_p = log_probability(n, p, jnp.clip(count, 0, n), offset - rest)
    return count, is_count & (log_hat <= log_p)


def log_probability(n: Array, p: Array, count: Array, distance: Array) -> Array:
    """Return the log of P(k), given k − n p beside k, that keeps its digits for large n.

    A binomial is two Poisson counts given their sum: log P(k) = log π(k; n p) +
    log π(n − k; n (1 − p)) − log π(n; n), each by its saddle-point form (Loader 2000).

    Args:
      n: number of trials, int32 of at least 1, `[...]`.
      p: probability of success in (0, ½], `[...]`.
      count: k, int32 in [0, n], `[...]`.
      distance: k − n p, `[...]`.

    Returns:
      Log-probabilities, `[...]`.
    """
    trials = n.astype(p.dtype)
    successes = poisson_log_probability(trials * p, count, distance)
    failures = poisson_log_probability(trials * (1 - p), n - count, -distance)
    return successes + failures - poisson_log_probability(trials, n, jnp.zeros_like(trials))


def _regimes(n: Array | int, p: Array | float) -> tuple[bool, bool]:
    """Return whether means up to 10, and above, are possible; Python and NumPy numbers can tell."""
    if isinstance(n, jax.Array) or isinstance(p, jax.Array):
        return True, True
    known = np.asarray(p, jnp.result_type(float))  # rounded as the draw will have it
    is_small = np.asarray(n).astype(known.dtype) * np.minimum(known, 1 - known) <= _SMALL_MEAN
    return bool(np.any(is_small)), not np.all(is_small)


@jax.jit
def _whole_or_refused(n: Array) -> Array:
    size = n.astype(jnp.result_type(float))
    is_whole = (size >= 0) & (size <= _MAX_TRIALS) & (size == jnp.floor(size))
    return jnp.where(is_whole, jnp.where(is_whole, n, 0).astype(jnp.int32), -1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _draw(key: Key, n: Array, p: Array, num_samples: int, may_be: tuple[bool, bool]) -> Array:
    small_key, large_key = jax.random.split(key)
    is_valid = (n >= 0) & (p >= 0) & (p <= 1)
    n = jnp.where(is_valid, n, 0)
    rare = jnp.where(is_valid, jnp.minimum(p, 1 - p), 0)
    is_small = n.astype(p.dtype) * rare <= _SMALL_MEAN
    counts = jnp.zeros(num_samples, jnp.int32)
    if num_samples and may_be[0]:
        u = iid_uniforms(small_key, num_samples)[:, 0]
        counts = invert(jnp.where(is_small, n, 0), jnp.where(is_small, rare, 0), u)
    if num_samples and may_be[1]:
        # Where the mean is small, any parameters that this method can take.
        params = (jnp.where(is_small, 20, n), jnp.where(is_small, 0.5, rare))
        large = draw_with_refill(large_key, _propose_with_key, params, num_samples, 0.25)
        counts = jnp.where(is_small, counts, large)
    return jnp.where(is_valid, jnp.where(p > 0.5, n - counts, counts), -1)


def _propose_with_key(
    key: Key, params: tuple[Array, Array], num_samples: int
) -> tuple[Array, Array]:
    u = uniform_rows(key, 2, num_samples)
    return propose(*params, u[0], u[1])


def _whole_and_rest(n: Array, p: Array) -> tuple[Array, Array]:
    """Split n p into an integer and a rest of at most a few, without rounding in float32.

    n is cut into thirds of 10 bits and p into halves of 12, so each product has at most 24 bits.
    """
    high = jax.lax.reduce_precision(p, exponent_bits=8, mantissa_bits=11)
    whole, rest = jnp.zeros(n.shape, jnp.int32), jnp.zeros(n.shape, p.dtype)
    for shift in (20, 10, 0):
        part = (n & (2047 if shift == 20 else 1023) << shift).astype(p.dtype)
        for factor in (high, p - high):
            product = part * factor
            floor = jnp.floor(product)
            whole, rest = whole + floor.astype(jnp.int32), rest + (product - floor)
    return whole, rest
