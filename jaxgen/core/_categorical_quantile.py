"""The inverse CDF of a softmax, which samplers and conditionals share."""

import jax.numpy as jnp

from jaxgen.core._checks import check_float_array, check_shape
from jaxgen.core._types import Array


def categorical_quantile(logits: Array, u: Array) -> Array:
    r"""Map uniforms to symbols through the inverse CDF of a categorical distribution.

    .. math:: F^{-1}(u) = \min \{ i : \sum_{j \le i} p_j > u, \; p_i > 0 \},
       \qquad p = \mathrm{softmax}(\ell)

    No symbol of probability zero is ever returned: not the first one at u = 0, and not the last one
    where the rounded cumulative sum ends below u (a plain `searchsorted` picks both). Sums are
    float32's: a symbol's probability is off by up to about 1e-7, or V times 1e-8 if that is more.

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      u: uniforms in [0, 1), `[...]`.

    Returns:
      Symbols, int32 `[...]`; −1 where there is no distribution (a NaN among the logits, +inf, or
      every symbol forbidden).

    Raises:
      ValueError: `u` has not the shape of `logits` without its last axis.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([0.0, 0.5, 0.5, 0.0]))
    >>> [int(categorical_quantile(logits, jnp.float32(u))) for u in (0.0, 0.49, 0.51, 1.0)]
    [1, 1, 2, 2]
    """
    logits, u = jnp.asarray(logits), jnp.asarray(u)
    check_float_array("logits", logits)
    check_shape("u", u, logits.shape[:-1])
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    cumulative = jnp.cumsum(weights, axis=-1)
    target = u.astype(weights.dtype)[..., None] * cumulative[..., -1:]
    possible = weights > 0
    reached = possible & (cumulative > target)
    last_possible = logits.shape[-1] - 1 - jnp.argmax(possible[..., ::-1], axis=-1)
    symbol = jnp.where(jnp.any(reached, axis=-1), jnp.argmax(reached, axis=-1), last_possible)
    is_distribution = jnp.isfinite(cumulative[..., -1])
    return jnp.where(is_distribution, symbol, -1).astype(jnp.int32)
