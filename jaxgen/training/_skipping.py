"""Steps that are not taken, because their gradient is out of all proportion."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.core._types import Array, Params
from jaxgen.training._diagnosis import check_optimizer


class SkipState(NamedTuple):
    """The state of `skip_large_gradients`.

    Attributes:
      num_skipped: steps that were not taken, scalar int32.
      num_in_row: those since the last that was, scalar int32.
      inner: the state of the optimizer.
    """

    num_skipped: Array
    num_in_row: Array
    inner: optax.OptState


def skip_large_gradients(
    optimizer: optax.GradientTransformation, max_norm: float, *, warn_after: int = 100
) -> optax.GradientTransformation:
    """Take no step where the gradient's global norm is above a threshold (Child 2021).

    A batch whose divergence explodes says nothing of the way to go, and clipped it would still be
    in the optimizer's averages. Here these stay as they were, and the step is counted. An optimizer
    that skips for ever trains nothing: every `warn_after` such steps one after the other there is a
    RuntimeWarning, from a compiled program too. `optax.skip_large_updates` says nothing.

    Args:
      optimizer: any Optax transformation.
      max_norm: the largest norm of a gradient that is used, well above those `fit` reports.
      warn_after: how many steps may be skipped one after the other without a warning.

    Returns:
      An Optax transformation, whose state has the counts.

    >>> optimizer = skip_large_gradients(optax.sgd(1.0), max_norm=5.0)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> updates, state = optimizer.update(jnp.array([3.0, 40.0]), state)
    >>> updates.tolist(), int(state.num_skipped)
    ([0.0, 0.0], 1)
    """
    check_optimizer(optimizer)
    check_in_range("max_norm", max_norm, 0.0, float("inf"), open_lower=True)
    check_count("warn_after", warn_after)

    def init(params: Params) -> SkipState:
        zero = jnp.zeros((), jnp.int32)
        return SkipState(zero, zero, optimizer.init(params))

    def update(
        gradient: Params, state: SkipState, params: Params | None = None
    ) -> tuple[Params, SkipState]:
        norm = optax.tree.norm(gradient)
        is_taken = norm <= max_norm  # NaN is not
        updates, inner = optimizer.update(gradient, state.inner, params)
        inner = jax.tree.map(lambda new, old: jnp.where(is_taken, new, old), inner, state.inner)
        in_row = jnp.where(is_taken, 0, state.num_in_row + 1)

        jax.lax.cond(
            ~is_taken & (in_row % warn_after == 0),
            lambda: jax.debug.callback(_warn, in_row, norm, max_norm),
            lambda: None,
        )
        updates = jax.tree.map(lambda change: jnp.where(is_taken, change, 0), updates)
        skipped = state.num_skipped + jnp.where(is_taken, 0, 1)
        return updates, SkipState(skipped, in_row, inner)

    return optax.GradientTransformation(init, update)


def _warn(in_row: Array, norm: Array, max_norm: float) -> None:
    warnings.warn(
        f"the last {int(in_row)} steps were all skipped: max_norm is {float(max_norm):.4g}, the "
        f"gradient's norm now {float(norm):.4g}; a larger max_norm or a lower rate may help",
        RuntimeWarning,
        stacklevel=2,
    )
