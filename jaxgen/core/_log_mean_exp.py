"""The logarithm of an average of exponentials, at once or over a stream."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array, Estimate


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    r"""Average numbers given by their logarithms, without overflow.

    .. math:: \log \frac{1}{K} \sum_{k=1}^K e^{x_k}

    Args:
      x: logarithms (nats), `[..., K, ...]`; −inf stands for zero.
      axis: the axis of the K numbers.

    Returns:
      The logarithm of their mean, `axis` removed. All −inf gives −inf.

    >>> import jax.numpy as jnp
    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0
    """
    num_terms = jnp.shape(x)[axis]
    if num_terms == 0:
        raise ValueError(f"x must have at least one entry along axis {axis}, got {jnp.shape(x)}")
    return jax.nn.logsumexp(x, axis=axis) - jnp.log(num_terms).astype(x.dtype)


class LogSumState(NamedTuple):
    """A running sum of exponentials and of their squares.

    Attributes:
      maximum: the largest term so far, `[...]`; −inf before the first.
      total: Σ exp(x − maximum), `[...]`.
      total_of_squares: Σ exp(2 (x − maximum)), `[...]`.
      num_terms: how many terms came in, a scalar int32.
    """

    maximum: Array
    total: Array
    total_of_squares: Array
    num_terms: Array


def init_log_sum(shape: tuple[int, ...] = (), dtype: jnp.dtype = jnp.float32) -> LogSumState:
    """Start an empty stream for results of the shape given."""
    zeros = jnp.zeros(shape, dtype)
    return LogSumState(jnp.full(shape, -jnp.inf, dtype), zeros, zeros, jnp.zeros((), jnp.int32))


def update_log_sum(state: LogSumState, x: Array) -> LogSumState:
    """Add a chunk of terms `[K, ...]` (nats) to the stream.

    The running maximum only ever grows, so no term overflows and memory does not grow with the
    number of terms (Welford-style rescaling, as in online softmax; Milakov & Gimelshein 2018).
    """
    maximum = jnp.maximum(state.maximum, jnp.max(x, axis=0))
    # An all −inf stream has no finite maximum to subtract: −inf − −inf would be NaN.
    shift = jnp.where(jnp.isneginf(maximum), 0.0, maximum)
    rescale = jnp.exp(state.maximum - shift)
    terms = jnp.exp(x - shift[None])
    return LogSumState(
        maximum,
        state.total * rescale + jnp.sum(terms, axis=0),
        state.total_of_squares * rescale**2 + jnp.sum(terms**2, axis=0),
        state.num_terms + x.shape[0],
    )


def streamed_log_mean_exp(state: LogSumState) -> Estimate:
    r"""Return the log of the mean of everything streamed so far (nats), `[...]`; NaN for nothing.

    The standard error is the delta method's,

    .. math:: \mathrm{SE} \approx \frac{s_w}{\sqrt{K}\, \bar w}
       = \sqrt{\frac{K / \mathrm{ESS} - 1}{K - 1}}
    """
    shift = jnp.where(jnp.isneginf(state.maximum), 0.0, state.maximum)
    num_terms = state.num_terms.astype(state.total.dtype)
    excess = jnp.maximum(num_terms / streamed_effective_sample_size(state) - 1.0, 0.0)
    value = jnp.log(state.total) + shift - jnp.log(state.num_terms).astype(state.total.dtype)
    return Estimate(value, jnp.sqrt(excess / (num_terms - 1.0)), state.num_terms)


def streamed_effective_sample_size(state: LogSumState) -> Array:
    r"""Return Kish's effective sample size of what was streamed, `[...]`, from 1 to `num_terms`.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}
    """
    return state.total**2 / state.total_of_squares
