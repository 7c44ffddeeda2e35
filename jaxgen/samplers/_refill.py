"""Exact draws from a proposal rarely rejected, when every draw has parameters of its own."""

import functools
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

_MOST_GROUPS, _SMALLEST_GROUP = 256, 2**17
"""Groups that are filled each by itself, and the draws of one at least: a CPU gathers in many more
slowly than as much in one."""


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
    return _draw_needed(key, propose_fn, params, needed, rejected_share, groups_of(num_samples))


def _draw_needed(
    key: Key,
    propose_fn: ProposeFn,
    params: Params,
    needed: Array,
    rejected_share: float,
    num_groups: int,
) -> Array:
    """Draw where `needed`, and gather those rejected for a draw of their own, many in levels."""
    num_samples = needed.size
    first_key, refill_key = jax.random.split(key)
    x, accepted = propose_fn(first_key, params, num_samples)
    groups = (num_groups, num_samples // num_groups)
    num_slots = min(groups[1], math.ceil(groups[1] * rejected_share) + 64)
    in_levels = _FEWEST_IN_LEVELS < groups[0] * num_slots < num_samples
    again = functools.partial(_draw_needed, rejected_share=rejected_share, num_groups=num_groups)
    draw = again if in_levels else _until_accepted
    grouped = jax.tree.map(lambda p: p if jnp.ndim(p) == 0 else p.reshape(groups), params)

    def refill(state: tuple) -> tuple:
        x, rejected, round_index = state
        slot_key = jax.random.fold_in(refill_key, round_index)
        slots = jax.vmap(lambda mask: _first_positions(mask, num_slots))(rejected)
        slot_params = jax.tree.map(lambda p: _take(p, slots), grouped)
        drawn = draw(slot_key, propose_fn, slot_params, (slots < groups[1]).ravel())
        x = _put(x, slots, drawn.reshape(slots.shape))
        return x, _put(rejected, slots, jnp.zeros_like(slots, bool)), round_index + 1

    start = (x.reshape(groups), (needed & ~accepted).reshape(groups), 0)
    return jax.lax.while_loop(lambda s: jnp.any(s[1]), refill, start)[0].ravel()


def groups_of(num_samples: int) -> int:
    """Return into how many equal parts draws are divided, of which each is filled by itself.

    What is gathered is gathered within a part, so that devices that hold whole parts need nothing
    of each other; and the number does not depend on theirs, so neither do the draws.
    """
    groups = 1
    most = min(num_samples // _SMALLEST_GROUP, _MOST_GROUPS)
    while 2 * groups <= most and num_samples % (2 * groups) == 0:
        groups *= 2
    return groups


def _first_positions(mask: Array, num_positions: int) -> Array:
    """Return where the first ones of `mask` are, `[num_positions]`; then places past its end."""
    ranks = jnp.arange(1, num_positions + 1, dtype=jnp.int32)
    found = jnp.searchsorted(jnp.cumsum(mask, dtype=jnp.int32), ranks)
    # Indices past the end stay distinct, as a scatter with unique indices needs.
    return jnp.where(found < mask.size, found, mask.size + ranks)


def _put(array: Array, slots: Array, values: Array) -> Array:
    """Return the array `[G, N]` with values `[G, S]` at slots of each group, those inside it."""

    def put(array: Array, slots: Array, values: Array) -> Array:
        return array.at[slots].set(values, mode="drop", unique_indices=True)

    return jax.vmap(put)(array, slots, values)


def _take(param: Array, slots: Array) -> Array:
    """Return parameters `[G, N]`, or one for all, at slots `[G, S]`, as `[G S]`."""
    if jnp.ndim(param) == 0:
        return param
    return jax.vmap(lambda p, s: jnp.take(p, s, mode="clip"))(param, slots).ravel()


def _until_accepted(key: Key, propose_fn: ProposeFn, params: Params, needed: Array) -> Array:
    """Propose for all slots, over and over, until each needed one has an accepted draw."""

    def attempt(state: tuple) -> tuple:
        x, pending, round_index = state
        round_key = jax.random.fold_in(key, round_index)
        proposed, accepted = propose_fn(round_key, params, needed.size)
        return jnp.where(pending, proposed, x), pending & ~accepted, round_index + 1

    start = jax.eval_shape(lambda k: propose_fn(k, params, needed.size)[0], key)
    state = (jnp.zeros_like(start), needed, 0)
    return jax.lax.while_loop(lambda s: jnp.any(s[1]), attempt, state)[0]
