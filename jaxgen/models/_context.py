"""What a model may be conditioned on: labels, or covariates; a field of every model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_symbols, nan_unless
from jaxgen.core._checks import check_count, check_float_array
from jaxgen.core._types import Array


@dataclasses.dataclass(frozen=True)
class Labels:
    """Condition on one of K classes; `context` is integers in [0, K], one a row or one for all.

    K itself stands for "no class", as no context does, which trains a model for both uses. A label
    out of range gives NaN.

    Attributes:
      num_classes: K.
    """

    num_classes: int

    def __post_init__(self) -> None:
        """Check the count."""
        check_count("num_classes", self.num_classes)

    @property
    def num_features(self) -> int:
        """Return K + 1."""
        return self.num_classes + 1

    def features(self, context: Any, batch_shape: tuple[int, ...]) -> Array:
        """Encode labels `batch_shape` or () as one of K + 1: `[*batch_shape, K + 1]`."""
        labels = self.num_classes if context is None else context
        labels = as_symbols("context", labels, self.num_features)
        labels = _broadcast(labels, batch_shape, "labels of shape")
        one_hot = jax.nn.one_hot(labels, self.num_features)
        return nan_unless((labels >= 0)[..., None], one_hot)


@dataclasses.dataclass(frozen=True)
class Covariates:
    """Condition on C real numbers; `context` is floats `[C]` a row, or one vector for all.

    Attributes:
      size: C. Numbers of order one train best.
    """

    size: int

    def __post_init__(self) -> None:
        """Check the count."""
        check_count("size", self.size)

    @property
    def num_features(self) -> int:
        """Return C."""
        return self.size

    def features(self, context: Any, batch_shape: tuple[int, ...]) -> Array:
        """Return covariates `[*batch_shape, C]` or `[C]` as `[*batch_shape, C]`."""
        if context is None:
            raise ValueError(f"context must be given to a model with {self}, got None")
        context = jnp.asarray(context)
        check_float_array("context", context)
        return _broadcast(context, (*batch_shape, self.size), "covariates of shape")


Conditioning = Labels | Covariates


def context_features(
    conditioning: Conditioning | None,
    context: Any,
    batch_shape: tuple[int, ...],
    *,
    is_initializing: bool = False,
) -> Array | None:
    """Return what a model sees of its context, `[*batch_shape, F]`, or None without conditioning.

    Args:
      conditioning: the model's field.
      context: what was passed to the model.
      batch_shape: leading axes of the data.
      is_initializing: whether parameters are being created, which needs no context.

    Raises:
      ValueError: a context for a model without conditioning, a missing one, or one whose shape does
        not fit.
      TypeError: labels that are no integers, or covariates that are no floats.
    """
    if conditioning is None:
        if context is not None:
            raise ValueError(
                "context must be None for a model without conditioning; give the model "
                "conditioning=Labels(num_classes) or Covariates(size)"
            )
        return None
    if context is None and is_initializing:
        return jnp.zeros((*batch_shape, conditioning.num_features))
    return conditioning.features(context, batch_shape)


def _broadcast(context: Array, shape: tuple[int, ...], kind: str) -> Array:
    if context.shape not in (shape, shape[len(shape) - context.ndim :]):
        raise ValueError(f"context must be {kind} {shape}, or one for all, got {context.shape}")
    return jnp.broadcast_to(context, shape)
