"""Steps that are not taken, because their gradient is out of all proportion."""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.core._types import Array, Params
from jaxgen.training._diagnosis import check_optimizer
from jaxgen.training._step import global_norm


class SkipState(NamedTuple):
    """The state of `skip_large_gradients`.

    Attributes:
      num_skipped: steps that were not taken, scalar int32.
      num_in_row: those since the last that was, scalar int32.
      log_norm: moving average of the logarithm of the norm, scalar; NaN before the first.
      inner: the state of the optimizer.
    """

    num_skipped: Array
    num_in_row: Array
    log_norm: Array
    inner: optax.OptState


def skip_large_gradients(
    optimizer: optax.GradientTransformation,
    max_norm: float = math.inf,
    *,
    max_ratio: float = math.inf,
    decay: float = 0.99,
    warn_after: int = 100,
) -> optax.GradientTransformation:
    """Take no step where the gradient's global norm is above a threshold (Child 2021).

    A batch whose divergence explodes says nothing of the way to go, and clipped it would still be
    in the optimizer's averages. Here these stay as they were, and the step is counted. An optimizer
    that skips for ever trains nothing: every `warn_after` such steps one after the other there is a
    RuntimeWarning, from a compiled program too. `optax.skip_large_updates` says nothing.

    A threshold relative to what is usual moves with a training, whose gradients shrink or grow: the
    usual norm is the exponential of a moving average of the logarithm, which takes up a larger norm
    as the threshold, so that it follows where all of them become large.

    Args:
      optimizer: any Optax transformation.
      max_norm: the largest norm of a gradient that is used, well above those `fit` reports.
      max_ratio: the largest norm over the usual one, above 1.
      decay: of the moving average that the usual norm is of.
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
    check_in_range("max_ratio", max_ratio, 1.0, float("inf"), open_lower=True)
    check_in_range("decay", decay, 0.0, 1.0, open_upper=True)
    check_count("warn_after", warn_after)
    if math.isinf(max_norm) and math.isinf(max_ratio):
        raise ValueError("max_norm or max_ratio must be finite, or nothing would be skipped")

    def init(params: Params) -> SkipState:
        zero = jnp.zeros((), jnp.int32)
        return SkipState(zero, jnp.array(zero), jnp.full((), jnp.nan), optimizer.init(params))

    def update(
        gradient: Params, state: SkipState, params: Params | None = None
    ) -> tuple[Params, SkipState]:
        norm = global_norm(gradient)
        largest = jnp.log(max_norm)
        if max_ratio < math.inf:  # the first step is compared with none before
            moving = state.log_norm + math.log(max_ratio)
            largest = jnp.minimum(largest, jnp.where(jnp.isnan(moving), jnp.inf, moving))
        log_norm = jnp.log(norm)
        is_taken = log_norm <= largest  # NaN is not
        usual = _usual(state.log_norm, log_norm, largest, decay)
        updates, inner = optimizer.update(gradient, state.inner, params)
        inner = jax.tree.map(lambda new, old: jnp.where(is_taken, new, old), inner, state.inner)
        in_row = jnp.where(is_taken, 0, state.num_in_row + 1)

        jax.lax.cond(
            ~is_taken & (in_row % warn_after == 0),
            lambda: jax.debug.callback(_warn, in_row, norm, jnp.exp(largest)),
            lambda: None,
        )
        updates = jax.tree.map(lambda change: jnp.where(is_taken, change, 0), updates)
        skipped = state.num_skipped + jnp.where(is_taken, 0, 1)
        return updates, SkipState(skipped, in_row, usual, inner)

    return optax.GradientTransformation(init, update)


def _usual(before: Array, log_norm: Array, largest: Array, decay: float) -> Array:
    """Take a logarithm up into the moving average, the largest at most, if it is finite."""
    start = jnp.where(jnp.isnan(before), log_norm, before)
    moved = decay * start + (1 - decay) * jnp.minimum(log_norm, largest)
    return jnp.where(jnp.isfinite(log_norm), moved, before)


def _warn(in_row: Array, norm: Array, max_norm: float) -> None:
    warnings.warn(
        f"the last {int(in_row)} steps were all skipped: a norm may be {float(max_norm):.4g}, the "
        f"gradient's norm now {float(norm):.4g}; a larger one or a lower rate may help",
        RuntimeWarning,
        stacklevel=2,
    )
