"""The logarithm of an average of exponentials, at once or over a stream."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals
from jaxgen.core._types import Array, Estimate


def log_sum_exp(x: Array, axis: int = 0) -> Array:
    r"""Add numbers given by their logarithms: `log_mean_exp` without the division by K."""
    x = as_reals("x", x)
    maximum = jnp.max(x, axis=axis, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(maximum), maximum, 0.0))
    return _log(jnp.sum(jnp.exp(x - shift), axis=axis)) + jnp.squeeze(shift, axis)


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    r"""Average numbers given by their logarithms, without overflow.

    .. math:: \log \frac{1}{K} \sum_{k=1}^K e^{x_k}

    Args:
      x: logarithms (nats), `[..., K, ...]`; −inf stands for zero.
      axis: the axis of the K numbers.

    Returns:
      The logarithm of their mean, `axis` removed, float32 at least. All −inf gives −inf, with
      gradients of zero: a row of zeros that is masked afterwards leaves no NaN behind.

    Raises:
      TypeError: `x` holds no real numbers.
      ValueError: there is no number to average.

    >>> import jax.numpy as jnp
    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0
    """
    num_terms = jnp.shape(x)[axis]
    if num_terms == 0:
        raise ValueError(f"x must have at least one entry along axis {axis}, got {jnp.shape(x)}")
    total = log_sum_exp(x, axis)
    return total - jnp.log(num_terms).astype(total.dtype)


class LogSumState(NamedTuple):
    """A running sum of exponentials, and how they spread about their mean.

    Attributes:
      maximum: the largest term so far, `[...]`; −inf before the first.
      total: Σ w with w = exp(x − maximum), `[...]`.
      shortfall: the mean of w − 1, `[...]`, which has digits where all w are close to one.
      spread: Σ (w − w̄)², `[...]`.
      num_terms: how many terms came in, a scalar int32.
    """

    maximum: Array
    total: Array
    shortfall: Array
    spread: Array
    num_terms: Array


def init_log_sum(shape: tuple[int, ...] = (), dtype: jnp.dtype = jnp.float32) -> LogSumState:
    """Start an empty stream for results of the shape given."""
    zeros = jnp.zeros(shape, dtype)
    return LogSumState(
        jnp.full(shape, -jnp.inf, dtype), zeros, zeros, zeros, jnp.zeros((), jnp.int32)
    )


def update_log_sum(state: LogSumState, x: Array) -> LogSumState:
    """Add a chunk of terms `[K, ...]` (nats) to the stream.

    The running maximum only ever grows, so no term overflows and memory does not grow with the
    number of terms (Milakov & Gimelshein 2018). Squared deviations are merged as they are (Chan,
    Golub & LeVeque 1983): a difference of squares would drown a small spread in rounding.
    """
    x = as_reals("x", x)
    maximum = jax.lax.stop_gradient(jnp.maximum(state.maximum, jnp.max(x, axis=0)))
    # An all −inf stream has no finite maximum to subtract: −inf − −inf would be NaN.
    shift = jnp.where(jnp.isneginf(maximum), 0.0, maximum)
    below = jnp.expm1(x - shift[None])
    shortfall = jnp.mean(below, axis=0)
    spread = jnp.sum((below - shortfall[None]) ** 2, axis=0)
    lowering = jnp.expm1(state.maximum - shift)
    rescale = 1 + lowering
    before = state.shortfall * rescale + lowering
    num_terms = state.num_terms + x.shape[0]
    share = (x.shape[0] / num_terms).astype(maximum.dtype)
    between = (shortfall - before) ** 2 * share * state.num_terms
    return LogSumState(
        maximum,
        state.total * rescale + jnp.sum(jnp.exp(x - shift[None]), axis=0),
        before * (1 - share) + shortfall * share,
        state.spread * rescale**2 + spread + between,
        num_terms,
    )


def streamed_log_mean_exp(state: LogSumState) -> Estimate:
    r"""Return the log of the mean of everything streamed so far (nats), `[...]`; NaN for nothing.

    The standard error is the delta method's,

    .. math:: \mathrm{SE} \approx \frac{s_w}{\sqrt{K}\, \bar w}

    and NaN where every term is −inf.
    """
    shift = jnp.where(jnp.isneginf(state.maximum), 0.0, state.maximum)
    num_terms = state.num_terms.astype(state.total.dtype)
    error = jnp.sqrt(_squared_variation(state) / (num_terms - 1))
    return Estimate(_log(state.total) + shift - jnp.log(num_terms), error, state.num_terms)


def streamed_effective_sample_size(state: LogSumState) -> Array:
    r"""Return Kish's effective sample size of what was streamed, `[...]`, from 1 to `num_terms`.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    It is zero where every term is −inf.
    """
    is_empty = state.total == 0
    total = jnp.where(is_empty, 1.0, state.total)
    size = state.num_terms / (1 + _squared_variation(state._replace(total=total)))
    return jnp.where(is_empty, 0.0, size)


def _squared_variation(state: LogSumState) -> Array:
    """Return the variance of the terms over their squared mean, `[...]`; NaN for zeros alone."""
    return state.num_terms * state.spread / state.total**2


def _log(total: Array) -> Array:
    # The logarithm of zero has no gradient that could be followed: none is given.
    is_zero = total == 0
    return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1.0, total)))
