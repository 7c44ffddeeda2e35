"""Argument checks: each error names the argument, what it was and what it should be.

They look only at what is known while tracing (types, shapes, static values), so they cost nothing
in compiled code and work under `jax.jit`, `jax.vmap` and `jax.grad`.
"""

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._types import Key


def check_key(key: Key, name: str = "key") -> None:
    """Refuse anything but one typed key.

    Raises:
      TypeError: `key` is a legacy `uint32` key, or no key at all.
      ValueError: `key` is an array of keys.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} must be a typed key from jax.random.key(seed), got {_describe(key)}; "
            f"a legacy key becomes one with jax.random.wrap_key_data({name})"
        )
    if key.shape != ():
        raise ValueError(
            f"{name} must be one key of shape (), got keys of shape {key.shape}; "
            "use jax.vmap to map over several keys"
        )


def check_rank(name: str, x: ArrayLike, rank: int | Sequence[int]) -> None:
    """Raise ValueError unless `x` has the rank, or one of the ranks, given."""
    ranks = (rank,) if isinstance(rank, int) else tuple(rank)
    if jnp.ndim(x) not in ranks:
        expected = " or ".join(str(r) for r in ranks)
        raise ValueError(f"{name} must have rank {expected}, got shape {jnp.shape(x)}")


def check_shape(name: str, x: ArrayLike, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless `x` has the shape given; None stands for any size."""
    actual = jnp.shape(x)
    matches = len(actual) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, actual, strict=True)
    )
    if not matches:
        expected = ", ".join("*" if size is None else str(size) for size in shape)
        expected = f"({expected},)" if len(shape) == 1 else f"({expected})"
        raise ValueError(f"{name} must have shape {expected}, got {actual}")


def check_integer_array(name: str, x: ArrayLike) -> None:
    """Raise TypeError unless `x` is an array of integers."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must hold integers, got dtype {dtype}")


def check_float_array(name: str, x: ArrayLike) -> None:
    """Raise TypeError unless `x` is an array of real floating-point numbers."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {dtype}")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Refuse a static count that is not an integer of at least `minimum`.

    Raises:
      TypeError: `value` is not a Python integer (a traced value, a float, a bool).
      ValueError: `value` is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a Python integer, got {_describe(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_multiple(name: str, value: int, factor: int) -> None:
    """Refuse a static count that is not a positive multiple of `factor`, as `check_count` does."""
    check_count(name, value)
    if value % factor:
        raise ValueError(f"{name} must be a multiple of {factor}, got {value}")


def check_in_range(
    name: str,
    value: float,
    lower: float,
    upper: float,
    *,
    open_lower: bool = False,
    open_upper: bool = False,
) -> None:
    """Raise ValueError unless a static number lies between `lower` and `upper`.

    NaN is refused. An open end excludes its bound.
    """
    above = value > lower if open_lower else value >= lower
    below = value < upper if open_upper else value <= upper
    if not (above and below):
        left, right = "(" if open_lower else "[", ")" if open_upper else "]"
        raise ValueError(f"{name} must be in {left}{lower}, {upper}{right}, got {value}")


def check_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _describe(value: object) -> str:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None:
        return f"an array of {dtype} with shape {shape}"
    return f"{value!r} of type {type(value).__name__}"
