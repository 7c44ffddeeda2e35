"""Pure transforms of logits before a draw: temperature, top-k, top-p.

Each takes and gives unnormalized log-probabilities `[..., V]`; a symbol it removes gets −inf. They
compose in the order in which they are called. A row that holds NaN stays NaN as a whole, so that a
sampler behind them sees it.
"""

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_float_array, check_in_range
from jaxgen.core._types import Array


def temper(logits: Array, temperature: Array | float) -> Array:
    """Divide logits by a temperature: below 1 sharpens the distribution, above 1 flattens it.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`.
      temperature: a positive scalar; traced values that are not give NaN.

    Returns:
      Logits, `[..., V]`. The largest is moved to 0, so that a tiny temperature does not overflow.
      One below the smallest normal number counts as that number, and leaves the largest alone.

    Raises:
      TypeError: `logits` are not floating-point numbers.
      ValueError: `logits` are a scalar, or `temperature` is known and not positive and finite.
    """
    logits = _check(logits)
    smallest = float(jnp.finfo(logits.dtype).tiny)  # whose inverse is a float too
    if not isinstance(temperature, jax.Array):
        check_in_range("temperature", temperature, 0, jnp.inf, open_lower=True, open_upper=True)
        temperature = min(max(temperature, smallest), 1 / smallest)
    divisor = jnp.clip(jnp.asarray(temperature, logits.dtype), smallest, 1 / smallest)
    divisor = nan_unless(jnp.asarray(temperature > 0), divisor)
    return (logits - jnp.max(logits, axis=-1, keepdims=True)) / divisor


def keep_top_k(logits: Array, num_kept: int) -> Array:
    """Keep the `num_kept` most likely symbols, the first of equals (Fan, Lewis and Dauphin 2018).

    Args:
      logits: unnormalized log-probabilities, `[..., V]`.
      num_kept: how many to keep; all when at least V.

    Returns:
      Logits, `[..., V]`, −inf but for exactly min(num_kept, V) of them.

    Raises:
      TypeError: `logits` are not floating-point numbers, or `num_kept` no integer.
      ValueError: `logits` are a scalar, or `num_kept` is not positive.
    """
    logits = _check(logits)
    check_count("num_kept", num_kept)
    num_kept = min(num_kept, logits.shape[-1])
    kept = jax.lax.top_k(logits, num_kept)[1]
    mask = jnp.zeros(logits.shape, bool)
    mask = jnp.put_along_axis(mask, kept, True, axis=-1, inplace=False)
    return _masked(logits, mask)


def keep_top_p(logits: Array, mass: Array | float) -> Array:
    """Keep the fewest most likely symbols that hold a given mass (Holtzman et al. 2020).

    A symbol stays when those before it, in order of falling probability and the first of equals
    first, hold less than `mass`. The most likely always stays.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`.
      mass: the probability to keep, a scalar in (0, 1].

    Returns:
      Logits, `[..., V]`, −inf where removed.

    Raises:
      TypeError: `logits` are not floating-point numbers.
      ValueError: `logits` are a scalar, or `mass` is known and outside (0, 1].
    """
    logits = _check(logits)
    if not isinstance(mass, jax.Array):
        check_in_range("mass", mass, 0, 1, open_lower=True)
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    ranked = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
    # Summed from the lightest, what is left after a symbol keeps its precision in the tail.
    after = jnp.flip(jnp.cumsum(jnp.flip(ranked, -1), axis=-1), -1)
    stays = ((after > 1 - mass) | (mass >= 1)).at[..., 0].set(True)
    mask = jnp.put_along_axis(jnp.zeros_like(stays), order, stays, axis=-1, inplace=False)
    return _masked(logits, mask)


def _masked(logits: Array, mask: Array) -> Array:
    """Return logits with −inf where not in the mask, and rows with NaN as NaN.

    A sort puts a NaN first or last by its sign, and so may be what removes it.
    """
    is_nan = jnp.any(jnp.isnan(logits), axis=-1, keepdims=True)
    return nan_unless(~is_nan, jnp.where(mask, logits, -jnp.inf))


def _check(logits: Array) -> Array:
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits must have a last axis of symbols, got a scalar")
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
