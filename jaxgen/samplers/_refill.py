"""Exact draws from a proposal rarely rejected, when every draw has parameters of its own."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array, Key, Params

ProposeFn = Callable[[Key, Params, int], tuple[Array, Array]]
"""`(key, params, num_samples) -> (proposals [num_samples], accepted [num_samples])`, where each
leaf of `params` is a scalar or has shape [num_samples]."""

_FEWEST_IN_LEVELS = 2**14
"""Slots up to which proposing for all of them, until each has one accepted, costs too little to
gather those rejected once more."""


def draw_with_refill(
    key: Key,
    propose_fn: ProposeFn,
    params: Params,
    num_samples: int,
    rejected_share: float = 1 / 16,
) -> Array:
    """Propose once for every sample, then again and again for those rejected, gathered together.

    Where few are rejected the second part is small, so the whole costs little more than one
    vectorized pass and the search for the rejected. Each draw follows the proposal given that it is
    accepted, with its own parameters. It ends when all are accepted: a proposal whose parameters
    are NaN must count as accepted.

    Args:
      key: a typed key.
      propose_fn: the proposal and its test.
      params: pytree whose leaves are scalars or have shape `[num_samples]`.
      num_samples: static number of draws.
      rejected_share: about the largest share rejected, static. It sets how many are drawn again
        at once: too small costs more rounds, too large more proposals; the draws stay exact.

    Returns:
      Draws, `[num_samples]`.
    """
    needed = jnp.ones(num_samples, bool)
    return _draw_needed(key, propose_fn, params, needed, rejected_share)


def _draw_needed(
    key: Key, propose_fn: ProposeFn, params: Params, needed: Array, rejected_share: float
) -> Array:
    """Draw where `needed`, and gather those rejected for a draw of their own, many in levels."""
    num_samples = needed.size
    first_key, refill_key = jax.random.split(key)
    x, accepted = propose_fn(first_key, params, num_samples)
    num_slots = min(num_samples, math.ceil(num_samples * rejected_share) + 64)
    in_levels = _FEWEST_IN_LEVELS < num_slots < num_samples

    def refill(state: tuple) -> tuple:
        x, rejected, round_index = state
        slot_key = jax.random.fold_in(refill_key, round_index)
        slots = _first_positions(rejected, num_slots)
        slot_params = jax.tree.map(lambda p: _take(p, slots), params)
        if in_levels:
            drawn = _draw_needed(
                slot_key, propose_fn, slot_params, slots < num_samples, rejected_share
            )
        else:
            drawn = _until_accepted(slot_key, propose_fn, slot_params, slots < num_samples)
        x = x.at[slots].set(drawn, mode="drop", unique_indices=True)
        return x, rejected.at[slots].set(False, mode="drop", unique_indices=True), round_index + 1

    return jax.lax.while_loop(lambda s: jnp.any(s[1]), refill, (x, needed & ~accepted, 0))[0]


def _first_positions(mask: Array, num_positions: int) -> Array:
    """Return where the first ones of `mask` are, `[num_positions]`; then places past its end."""
    ranks = jnp.arange(1, num_positions + 1, dtype=jnp.int32)
    found = jnp.searchsorted(jnp.cumsum(mask, dtype=jnp.int32), ranks)
    # Indices past the end stay distinct, as a scatter with unique indices needs.
    return jnp.where(found < mask.size, found, mask.size + ranks)


def _take(param: Array, slots: Array) -> Array:
    return param if jnp.ndim(param) == 0 else jnp.take(param, slots, mode="clip")


def _until_accepted(key: Key, propose_fn: ProposeFn, params: Params, needed: Array) -> Array:
    """Propose for all slots, over and over, until each needed one has an accepted draw."""

    def attempt(state: tuple) -> tuple:
        x, pending, round_index = state
        round_key = jax.random.fold_in(key, round_index)
        proposed, accepted = propose_fn(round_key, params, needed.size)
        return jnp.where(pending, proposed, x), pending & ~accepted, round_index + 1

    start = jax.eval_shape(lambda k: propose_fn(k, params, needed.size)[0], key)
    state = (jnp.zeros(start.shape, start.dtype), needed, 0)
    return jax.lax.while_loop(lambda s: jnp.any(s[1]), attempt, state)[0]
