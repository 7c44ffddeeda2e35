"""Every kind of leaf that a pytree of the library can have, for what is written to disk."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np


class Pair(NamedTuple):
    first: Any
    second: Any


def every_kind():
    """Scalars, empty arrays, half precision, keys, numbers, and nesting."""
    return {
        "scalar": jnp.asarray(np.float32(1.5)),
        "empty": jnp.asarray(np.zeros((0, 3), np.float32)),
        "bfloat16": jnp.asarray(np.array([1.0, -3.0], jnp.bfloat16)),
        "float8": jnp.asarray(np.array([1.0], jnp.float8_e4m3fn)),
        "complex": jnp.asarray(np.array([1 + 2j], np.complex64)),
        "bools": jnp.asarray(np.array([True, False])),
        "bytes": jnp.asarray(np.arange(3, dtype=np.uint8)),
        "key": jax.random.key(7),
        "keys": Pair(jax.random.split(jax.random.key(1), 3), jax.random.key(2, impl="rbg")),
        "pair": Pair({"a": jnp.asarray(np.arange(6, dtype=np.int32).reshape(2, 3))}, (None, ())),
        "numbers": [3, 2.5, True],
        "numpy": [np.arange(2.0), np.float64(0.1), np.bool_(True), np.array(3, np.int64)],
        "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }


def assert_same(got, expected):
    """Equal bits, types and structure."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        if jnp.issubdtype(getattr(a, "dtype", int), jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        chex.assert_trees_all_equal(np.asarray(a), np.asarray(b))
