"""Outputs of a few coordinates at a time, where those of all would fill the memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import varying_with
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


def map_rows(
    fn: Callable[..., Any], params: Params, arrays: tuple[Array, ...], num_rows: int
) -> Any:
    """Return `fn(params, *arrays)`, computed of a few rows at a time.

    Results are written where they stay, the last rows twice where their number is no multiple.

    Args:
      fn: from parameters and arrays `[K, ...]` to a pytree of `[K, ...]`, of each row by itself.
      params: parameters.
      arrays: `[B, ...]`.
      num_rows: the largest K.
    """
    return on_own_examples(functools.partial(_map_own_rows, fn, num_rows))(params, *arrays)


def _map_own_rows(fn: Callable[..., Any], size: int, params: Params, *arrays: Array) -> Any:
    num_rows = len(arrays[0])
    if num_rows <= size:
        return fn(params, *arrays)

    def write(results: Any, start: Array) -> tuple[Any, None]:
        rows = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in arrays)

        def put(result: Array, rows: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(result, rows, start, axis=0)

        return jax.tree.map(put, results, fn(params, *rows)), None

    some = jax.eval_shape(fn, params, *(a[:size] for a in arrays))
    results = jax.tree.map(lambda a: jnp.zeros((num_rows, *a.shape[1:]), a.dtype), some)
    return jax.lax.scan(write, varying_with(results, some), starts_of_blocks(num_rows, size))[0]


def starts_of_blocks(total: int, size: int) -> Array:
    """Return where blocks of K of N begin, the last one where K are left."""
    return jnp.minimum(size * jnp.arange(-(-total // size)), total - size)
