"""Draws without replacement from a softmax: the Gumbel-top-k trick."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_float_array, check_key, check_shape
from jaxgen.core._types import Array, Key
from jaxgen.samplers._random_bits import tail_uniforms


class WithoutReplacement(NamedTuple):
    """Distinct symbols in the order in which they were drawn.

    Attributes:
      symbols: int32 `[..., k]`; −1 where too few symbols have probability, or the logits hold NaN
        or +inf.
      perturbed: their logits plus Gumbel noise, falling, `[..., k]`; −inf or NaN where −1. The
        (k + 1)-th serves as the threshold of importance weights (Kool, van Hoof and Welling 2019).
    """

    symbols: Array
    perturbed: Array


def gumbel_top_k_from_uniforms(logits: Array, u: Array, num_drawn: int) -> WithoutReplacement:
    r"""Map one uniform a symbol to k distinct symbols.

    .. math:: g_i = -\log(-\log(1 - u_i)), \quad \text{the } k \text{ largest } \ell_i + g_i

    Its first symbol follows the softmax, and each further one the softmax over those left. A small
    u means a large g, so floats are dense where it matters: a symbol may win from far below.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      u: uniforms in (0, 1), `[..., V]`.
      num_drawn: k, at most V.

    Returns:
      `WithoutReplacement`.

    Raises:
      TypeError, ValueError: `logits` are not floating-point numbers; shapes do not match; k is out
        of range.
    """
    logits = jnp.asarray(logits)
    _check(logits, num_drawn)
    check_shape("u", u, logits.shape)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    noise = -jnp.log(-jnp.log1p(-u)).astype(logits.dtype)
    bad = jnp.any(jnp.isnan(logits) | jnp.isposinf(logits), axis=-1, keepdims=True)
    perturbed, symbols = jax.lax.top_k(nan_unless(~bad, logits + noise), num_drawn)
    drawn = perturbed > -jnp.inf
    return WithoutReplacement(jnp.where(drawn, symbols, -1).astype(jnp.int32), perturbed)


def gumbel_top_k(key: Key, logits: Array, num_drawn: int) -> WithoutReplacement:
    """Draw k distinct symbols from a softmax, one after the other, in one pass.

    Args:
      key: a typed key.
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      num_drawn: k, at most V.

    Returns:
      `WithoutReplacement`. Probabilities are right to 2^-65 of the leader's: tails some 40 nats
      below it are drawn at their rate.

    Raises:
      TypeError, ValueError: `key` is not one typed key; `logits` are not floating-point numbers;
        k is out of range.

    >>> import jax
    >>> sorted(gumbel_top_k(jax.random.key(0), jnp.zeros(3), 3).symbols.tolist())
    [0, 1, 2]
    """
    check_key(key)
    logits = jnp.asarray(logits)
    _check(logits, num_drawn)
    return gumbel_top_k_from_uniforms(logits, tail_uniforms(key, logits.shape), num_drawn)


def _check(logits: Array, num_drawn: int) -> None:
    check_float_array("logits", logits)
    check_count("num_drawn", num_drawn)
    if logits.ndim == 0 or num_drawn > logits.shape[-1]:
        raise ValueError(
            f"num_drawn must be at most the number of symbols, got {num_drawn} for logits of "
            f"shape {logits.shape}"
        )
