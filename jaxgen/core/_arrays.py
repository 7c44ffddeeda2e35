"""Arrays as computations want them, from whatever dtype they come in."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._checks import check_integer_array, check_real_array
from jaxgen.core._types import Array


def as_reals(name: str, x: ArrayLike) -> Array:
    """Return real numbers as floats, float32 at least; integers and booleans are promoted.

    Raises:
      TypeError: `x` holds complex numbers, or none at all.

    >>> as_reals("x", [1, 2]).dtype, as_reals("x", jnp.ones(2, jnp.bfloat16)).dtype
    (dtype('float32'), dtype('float32'))
    """
    check_real_array(name, x)
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x.astype(jnp.result_type(float))


def as_symbols(name: str, x: ArrayLike, num_symbols: int) -> Array:
    """Return symbols as int32, with −1 for whatever lies outside [0, V).

    Args:
      name: what errors call them.
      x: symbols, of any integer dtype or booleans, `[...]`.
      num_symbols: V, at most 2^31.

    Returns:
      Integers in [−1, V), int32 `[...]`.

    Raises:
      TypeError: `x` holds no integers.

    >>> import numpy as np
    >>> as_symbols("x", np.array([3, 255, 7], np.uint8), 256).tolist()
    [3, 255, 7]
    >>> as_symbols("x", np.array([-1, 4, 5], np.int8), 5).tolist()
    [-1, 4, -1]
    """
    check_integer_array(name, x)
    x = jnp.asarray(x)
    if x.dtype == bool:
        x = x.astype(jnp.int32)
    # Compared as they come: V itself may be no number of their dtype, and int32 may not hold them.
    largest = min(num_symbols - 1, int(jnp.iinfo(x.dtype).max))
    return jnp.where((x >= 0) & (x <= largest), x.astype(jnp.int32), -1)


def varying_with(tree: Any, sources: Any) -> Any:
    """Let arrays differ between the devices of a `jax.shard_map` wherever their sources do.

    A loop's carry must begin as what its rounds make of it, and what begins as a constant is the
    same on all devices. Elsewhere, and for arrays that differ already, nothing is done.

    Args:
      tree: a pytree of arrays.
      sources: a pytree of arrays, or of their shapes by `jax.eval_shape`.

    Returns:
      The same arrays.
    """
    axes = frozenset().union(*(_varying_axes(leaf) for leaf in jax.tree.leaves(sources)))

    def vary(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _varying_axes(leaf: Any) -> frozenset:
    return jax.typeof(leaf).manual_axis_type.varying


def nan_unless(is_valid: Array, x: Array) -> Array:
    """Return floats `x` where they are valid, and NaN elsewhere, without a gradient there.

    XLA takes the exponential of a NaN that it knows when it compiles for undefined, and leaves
    out what depends on it: a row of `exp(where(is_lost, nan, x))` holds what stood in memory. This
    NaN is computed from the numbers.

    >>> nan_unless(jnp.array([True, False]), jnp.array([1.0, 2.0])).tolist()
    [1.0, nan]
    """
    zero_or_nan = jax.lax.stop_gradient(x) * 0
    return jnp.where(is_valid, x, zero_or_nan / zero_or_nan)
