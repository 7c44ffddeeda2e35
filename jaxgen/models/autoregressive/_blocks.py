"""Outputs of a few coordinates at a time, where those of all would fill the memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._mesh import on_own_examples
from jaxgen.core._types import Array, Params

MOST_OUTPUTS = 2**24
"""Numbers that networks give for coordinates, held at once: 64 MiB of them in float32."""


def block_length(num_rows: int, num_dims: int, num_outputs: int) -> int:
    """Return for how many of D coordinates B rows of P outputs each are within `MOST_OUTPUTS`."""
    if num_rows * num_dims * num_outputs <= MOST_OUTPUTS:
        return num_dims
    return max(1, MOST_OUTPUTS // (num_rows * num_outputs))


def map_blocks(
    fn: Callable[..., Any], params: Params, arrays: tuple[Array, ...], length: int
) -> Any:
    """Return `fn(params, *arrays)`, computed over blocks of coordinates, one after the other.

    What `fn` computes on the way is not kept for its gradient, but computed again. Rows stay
    together, so that those which several devices share stay on theirs.

    Args:
      fn: from parameters and arrays `[B, K, ...]` to a pytree of `[B, K]`, of each coordinate by
        itself.
      params: parameters.
      arrays: `[B, D, ...]`, of whatever coordinates have, such as hidden states and values.
      length: the largest K.
    """
    own = functools.partial(_map_own_blocks, fn, length)
    return on_own_examples(own)(params, *arrays)


def _map_own_blocks(fn: Callable[..., Any], length: int, params: Params, *arrays: Array) -> Any:
    num_rows, num_dims = arrays[0].shape[:2]
    num_blocks = -(-num_dims // length)
    if num_blocks == 1:
        return fn(params, *arrays)
    size = -(-num_dims // num_blocks)

    def split(a: Array) -> Array:
        padding = [(0, 0), (0, num_blocks * size - num_dims)] + [(0, 0)] * (a.ndim - 2)
        a = jnp.pad(a, padding).reshape(len(a), num_blocks, size, *a.shape[2:])
        return jnp.moveaxis(a, 1, 0)

    one_block = jax.checkpoint(lambda block: fn(params, *block), prevent_cse=False)
    results = jax.lax.map(one_block, tuple(split(a) for a in arrays))

    def join(a: Array) -> Array:
        return jnp.moveaxis(a, 0, 1).reshape(num_rows, num_blocks * size)[:, :num_dims]

    return jax.tree.map(join, results)
