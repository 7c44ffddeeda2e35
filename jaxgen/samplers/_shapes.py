"""The shape rule of `jax.random`, for draws of named distributions."""

import operator
from collections.abc import Mapping

import numpy as np


def result_shape(
    shape: tuple[int, ...] | None, parameters: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the shape of a draw: `shape`, to which all parameters must broadcast, or theirs.

    Args:
      shape: the full shape of the result, a lone integer standing for one axis; None for that of
        the parameters broadcast together.
      parameters: shapes of the parameters by name.

    Returns:
      The shape, a tuple of non-negative integers.

    Raises:
      TypeError: `shape` holds something else than integers.
      ValueError: a size is negative, or the shapes do not fit.

    >>> result_shape((2, 3), {"rate": (3,)})
    (2, 3)
    """
    if shape is None:
        try:
            return np.broadcast_shapes(*parameters.values())
        except ValueError as error:
            names = " and ".join(parameters)
            shapes = " and ".join(map(str, parameters.values()))
            raise ValueError(f"{names} must broadcast together, got shapes {shapes}") from error
    shape = _as_sizes(shape)
    for name, own in parameters.items():
        if not _broadcasts(own, shape):
            raise ValueError(f"{name} must broadcast to shape {shape}, got shape {own}")
    return shape


def _as_sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(map(operator.index, shape))
    except TypeError as error:
        raise TypeError(f"shape must be a tuple of integers, got {shape!r}") from error
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must hold no negative size, got {sizes}")
    return sizes


def _broadcasts(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(own, shape) == shape
    except ValueError:
        return False
