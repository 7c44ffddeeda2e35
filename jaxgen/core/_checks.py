"""Argument checks: each error names the argument, what it was and what it should be.

They look only at what is known while tracing (types, shapes, static values), so they cost nothing
in compiled code and work under `jax.jit`, `jax.vmap` and `jax.grad`.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

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
        remedy = f"a legacy key becomes one with jax.random.wrap_key_data({name})"
        if isinstance(key, numbers.Integral) and not isinstance(key, bool):
            remedy = f"write jax.random.key({key})"
        raise TypeError(
            f"{name} must be a typed key from jax.random.key(seed), got {_describe(key)}; {remedy}"
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


def check_data(name: str, x: ArrayLike, num_dims: int) -> None:
    """Raise ValueError unless the last axis of `x` holds the coordinates of data points."""
    shape = jnp.shape(x)
    if shape[-1:] == (num_dims,):
        return
    is_image = num_dims in (math.prod(shape), math.prod(shape[1:]))
    remedy = f"; flatten images with {name}.reshape(-1, {num_dims})" if is_image else ""
    raise ValueError(f"{name} must have shape (..., {num_dims}), got {shape}{remedy}")


def check_integer_array(name: str, x: ArrayLike) -> None:
    """Raise TypeError unless `x` is an array of integers, or of booleans that stand for 0 and 1."""
    dtype = _dtype(name, x)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(f"{name} must hold integers, got dtype {dtype}")


def check_float_array(name: str, x: ArrayLike) -> None:
    """Raise TypeError unless `x` is an array of real floating-point numbers."""
    dtype = _dtype(name, x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {dtype}")


def check_real_array(name: str, x: ArrayLike) -> None:
    """Raise TypeError unless `x` is an array of floating-point numbers, integers or booleans."""
    dtype = _dtype(name, x)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got dtype {dtype}; take its real or imaginary part")
    if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")


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


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    """Refuse what is no tuple of static counts.

    Raises:
      TypeError: `sizes` is no tuple, or holds something else than Python integers.
      ValueError: a size is below one.
    """
    if not isinstance(sizes, tuple):
        raise TypeError(f"{name} must be a tuple of integers such as (200, 100), got {sizes!r}")
    for size in sizes:
        check_count(name, size)


def check_no_lists(value: Any) -> None:
    """Raise TypeError if a field of a dataclass is a list, which would leave it without a hash."""
    for field in dataclasses.fields(value):
        held = getattr(value, field.name, None)
        if isinstance(held, list):
            raise TypeError(f"{field.name} must be a tuple, got the list {held!r}")


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


def _dtype(name: str, x: ArrayLike) -> jnp.dtype:
    try:
        return x.dtype if hasattr(x, "dtype") else jnp.asarray(x).dtype
    except TypeError as error:
        raise TypeError(f"{name} must be an array of numbers, got {_describe(x)}") from error


def _describe(value: object) -> str:
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None:
        return f"an array of {dtype} with shape {shape}"
    return f"{value!r} of type {type(value).__name__}"
