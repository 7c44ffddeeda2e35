"""What is wrong with what a training was given, in words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core._types import Array, Params
from jaxgen.training import _leaves as leaves

REPORTED = ("step", "loss", "gradient_norm", "validation", "num_skipped")
"""What `fit` reports, whatever the loss."""


def check_scalar_loss(loss: Any) -> None:
    """Refuse the loss that `loss_fn` gives unless it is one real number.

    Raises:
      TypeError: it is no array, or not of floating-point numbers.
      ValueError: it is an array of several.
    """
    if not hasattr(loss, "dtype") or not jnp.issubdtype(loss.dtype, jnp.floating):
        got = leaves.describe(loss) if hasattr(loss, "dtype") else type(loss).__name__
        raise TypeError(f"loss_fn must return one floating-point number, got {got}")
    if loss.shape != ():
        raise ValueError(
            f"loss_fn must return a scalar, got shape {loss.shape}; take the mean over the batch"
        )


def check_metrics(metrics: Any) -> None:
    """Refuse what `loss_fn` gives beside the loss unless it is a dict of numbers by name.

    Raises:
      TypeError: it is no dict, a name no text, or a value no number.
      ValueError: a value is an array of several, or a name is that of what is reported anyhow.
    """
    if not isinstance(metrics, dict):
        raise TypeError(
            f"loss_fn must return a loss, or a loss and a dict, got {type(metrics).__name__} beside"
        )
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"loss_fn's metrics must have names of text, got {name!r}")
        if name in REPORTED:
            raise ValueError(
                f"loss_fn's metrics must not be named {name!r}: fit reports one itself"
            )
        dtype = (
            jnp.result_type(value)
            if isinstance(value, int | float)
            else getattr(value, "dtype", None)
        )
        if dtype is None or not (
            jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        ):
            raise TypeError(f"loss_fn's metric {name!r} must be a number, got {dtype or value!r}")
        if np.shape(value) != ():
            raise ValueError(
                f"loss_fn's metric {name!r} must be a scalar, got shape {np.shape(value)}; take "
                "the mean over the batch"
            )


def check_trainable(params: Params) -> None:
    """Raise TypeError unless all parameters are floating-point arrays."""
    for name, leaf in leaves.named(params).items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"params must hold floating-point numbers, got {name} of {leaves.describe(leaf)}"
            )


def check_optimizer(optimizer: optax.GradientTransformation) -> None:
    """Raise TypeError unless `optimizer` has the two functions of an Optax transformation."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an Optax transformation such as optax.adam(1e-3), got {optimizer!r}"
        )


def check_source(source: Any) -> None:
    """Refuse data that would not arrive on the device as they are.

    Raises:
      TypeError: an array of something else than numbers.
      ValueError: an integer that 32 bits do not hold, where JAX has no more.
    """
    for name, leaf in leaves.named(source).items():
        where = f"source {name}".strip()
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if np.dtype(object) == array.dtype or getattr(array.dtype, "kind", "") in "SUMm":
            raise TypeError(f"{where} must hold numbers, got {array.dtype}")
        device_dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        if device_dtype == array.dtype or not np.issubdtype(array.dtype, np.integer):
            continue
        bounds = np.iinfo(device_dtype)
        if array.size and not (bounds.min <= array.min() and array.max() <= bounds.max):
            raise ValueError(f"{where} must fit {device_dtype}, got {array.min()} to {array.max()}")


def unsoundness(tree: Any) -> Array:
    """Return for each leaf how many of its numbers are infinite, and NaN twice, int32 `[L]`.

    It grows where a number becomes infinite or NaN.
    """

    def one(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros((), jnp.int32)
        return jnp.sum(jnp.isinf(leaf) + 2 * jnp.isnan(leaf), dtype=jnp.int32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


def blame(source: Any, params: Params, rows: np.ndarray | None = None) -> str:
    """Name what a loss that is not finite comes from.

    Args:
      source: the data, or some of its examples.
      params: the parameters.
      rows: which examples these are; None for all.
    """
    for owner, tree in (("source", source), ("params", params)):
        for name, leaf in leaves.named(tree).items():
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            values = np.asarray(leaf)
            wrong = np.argwhere(~np.isfinite(values))
            if len(wrong):
                place = tuple(int(i) for i in wrong[0])
                value = values[place]
                if owner == "source" and rows is not None:
                    place = (int(rows[place[0]]), *place[1:])
                where = f"{owner} {name}".strip()
                return f"{where} holds {value} at {place}"
    return (
        "Data and parameters are finite, so it comes from loss_fn or its gradient, such as log 0 "
        "or 0/0, or from steps too long: then a lower learning rate or gradient clipping helps"
    )
