"""One code for two kinds of array: NumPy's, computed at once, and JAX's, under a trace.

With concrete parameters a table is built in NumPy: then nothing is compiled but the density itself.
With traced ones the same functions are part of the caller's program. Here is what the two libraries
spell differently.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._arrays import varying_with

Numbers = Any
"""A NumPy or a JAX array."""


def namespace(*trees: Any) -> ModuleType:
    """Return `jax.numpy` if there is a JAX array among the leaves, else `numpy`."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trees)) else np


def repeat(num_rounds: int, step: Callable[[Any], Any], state: Any) -> Any:
    """Apply a step to a state again and again."""
    if namespace(state) is jnp:
        return lax.fori_loop(0, num_rounds, lambda _, s: step(s), state)
    for _ in range(num_rounds):
        state = step(state)
    return state


def repeat_until_done(num_rounds: int, step: Callable[[Any], tuple[Any, Any]], state: Any) -> Any:
    """Apply a step, which also says whether it is done, up to so many times."""
    if namespace(state) is jnp:
        not_done = varying_with(jnp.zeros((), bool), state)
        start = (state, not_done, jnp.zeros((), jnp.int32))
        return lax.while_loop(
            lambda s: ~s[1] & (s[2] < num_rounds), lambda s: (*step(s[0]), s[2] + 1), start
        )[0]
    for _ in range(num_rounds):
        state, is_done = step(state)
        if is_done:
            break
    return state


def over_tails(fn: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to each of two tails, the leading axis of every leaf."""
    if namespace(trees) is jnp:
        return jax.vmap(fn)(*trees)
    tails = [fn(*jax.tree.map(lambda leaf, i=i: leaf[i], trees)) for i in (0, 1)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *tails)


def hold(tree: Any) -> Any:
    """Stop gradients."""
    return lax.stop_gradient(tree) if namespace(tree) is jnp else tree


def top_k(x: Numbers, k: int) -> tuple[Numbers, Numbers]:
    """Return the k largest along the last axis, and where they are."""
    if namespace(x) is jnp:
        return lax.top_k(x, k)
    index = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, index, axis=-1), index


def running_max(x: Numbers) -> Numbers:
    """Return the largest so far, of a vector."""
    return lax.cummax(x) if namespace(x) is jnp else np.maximum.accumulate(x)


def put(array: Numbers, index: Any, value: Numbers | float) -> Numbers:
    """Return the array with the entries at `index` set."""
    if namespace(array, value) is jnp:
        return jnp.asarray(array).at[index].set(value)
    array = array.copy()
    array[index] = value
    return array


def take(array: Numbers, index: Numbers) -> Numbers:
    """Return entries at indices that are known to be inside."""
    if namespace(array) is jnp:
        return array.at[index].get(mode="promise_in_bounds")
    return array[index]


def bitcast(x: Numbers, dtype: Any) -> Numbers:
    """Return the bits of each number as another dtype of its size."""
    return lax.bitcast_convert_type(x, dtype) if namespace(x) is jnp else x.view(dtype)


def sigmoid(x: Numbers) -> Numbers:
    """Return 1 / (1 + exp(−x))."""
    return jax.nn.sigmoid(x) if namespace(x) is jnp else 1 / (1 + np.exp(-x))
