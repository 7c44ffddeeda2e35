"""Multinomial samples: one binomial after another, each of what the earlier ones left."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._binomial import binomial, whole_trials
from jaxgen.samplers._shapes import result_shape


def multinomial(key: Key, n: Array | int, p: Array, shape: tuple[int, ...] | None = None) -> Array:
    r"""Draw how often each of K outcomes comes in n trials.

    .. math:: P(k) = n! \prod_i p_i^{k_i} / k_i!, \quad \sum_i k_i = n

    Outcome i has a binomial share of the trials that earlier ones left, with probability
    p_i / Σ_{j ≥ i} p_j. Counts have no gradient.

    Args:
      key: a typed key.
      n: number of trials, a whole number in [0, 2^30] of any dtype, which must broadcast to
        `shape`.
      p: weights of the outcomes, `[..., K]`, finite and not negative; they need not sum to 1.
      shape: batch shape of the result, to which `n` and that of `p` must broadcast; by default
        theirs broadcast together.

    Returns:
      Counts, int32 `[*shape, K]`, which sum to `n` exactly; −1 for every outcome where `n` is out
      of range or not whole, or where weights are negative, NaN, infinite or all 0.

    Raises:
      TypeError, ValueError: `key` is not one typed key, `p` is a scalar, or `shape` does not fit.

    >>> import jax
    >>> int(multinomial(jax.random.key(0), 10, jnp.ones(4)).sum())
    10
    """
    check_key(key)
    if jnp.ndim(p) == 0:
        raise ValueError("p must have a last axis of outcomes, got a scalar")
    *batch_shape, num_outcomes = jnp.shape(p)
    shape = result_shape(shape, {"n": jnp.shape(n), "p without its last axis": tuple(batch_shape)})
    p = jnp.broadcast_to(jnp.asarray(p, jnp.result_type(float)), (*shape, num_outcomes))
    return _draw(key, jnp.broadcast_to(whole_trials(n), shape), p)


@jax.jit
def _draw(key: Key, n: Array, p: Array) -> Array:
    p = jnp.moveaxis(p, -1, 0)
    left = jax.lax.cumsum(p, reverse=True)
    # A sum of 0 is left by nobody, or is refused. The last weight above 0 is all that is left.
    shares = p / jnp.where(left == 0, 1, left)
    is_valid = (n >= 0) & jnp.all(p >= 0, axis=0) & jnp.any(p > 0, axis=0)
    is_valid &= jnp.all(jnp.isfinite(left), axis=0)

    def draw_one(remainder: Array, outcome: tuple[Key, Array]) -> tuple[Array, Array]:
        count = binomial(outcome[0], remainder, outcome[1])
        return remainder - count, count

    keys = jax.random.split(key, p.shape[0])
    _, counts = jax.lax.scan(draw_one, n, (keys, shares))
    return jnp.moveaxis(jnp.where(is_valid, counts, -1), 0, -1)
