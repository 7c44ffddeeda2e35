"""Training steps: one, and many in a single dispatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core._checks import check_in_range
from jaxgen.core._types import Array, Key, Params
from jaxgen.training._diagnosis import (
    check_metrics,
    check_optimizer,
    check_scalar_loss,
    check_trainable,
)

Loss = Array | tuple[Array, dict[str, Array]]
"""A scalar to minimize, in nats; or that and other scalars by name, to be looked at."""

LossFn = Callable[[Key, Params, Any, Array], Loss]
"""`loss_fn(key, params, batch, step) -> loss`, or `(loss, metrics)`."""

AfterStepFn = Callable[[Key, Params, Any, Array], Params]
"""`after_step_fn(key, params, batch, step) -> params`: changes parameters without a gradient."""

StepFn = Callable[[Key, "TrainState", Any], tuple["TrainState", "StepMetrics"]]

BatchFn = Callable[[Any, Any, Array], tuple[Any, Array]]
"""`batch_fn(data, batches, i) -> (batch, is_valid)`: what step i of a dispatch is given."""

_AFTER_STEP = np.uint32(2**32 - 1)  # is no step: those are int32


class TrainState(NamedTuple):
    """The whole state of an optimization: with the data and a key it determines every later step.

    Attributes:
      step: how many steps were taken, scalar int32.
      params: the parameters.
      opt_state: the optimizer's state.
      average: exponential moving average of the parameters, a pytree like `params`; None without.
      num_skipped: steps that were not taken, scalar int32.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    average: Params | None
    num_skipped: Array

    @property
    def averaged(self) -> Params:
        """Return the average, or the parameters where there is none."""
        return self.params if self.average is None else self.average


class StepMetrics(NamedTuple):
    """Report a step: `[S]` each after S steps.

    Attributes:
      loss: the loss before the step.
      gradient_norm: global norm of the gradient, before any clipping.
      is_taken: whether loss and gradient were finite, so that the step changed the parameters.
      others: what else the loss function returns, by name.
    """

    loss: Array
    gradient_norm: Array
    is_taken: Array
    others: dict[str, Array] = {}  # noqa: RUF012  a pytree, and nobody writes to it


def init_state(
    params: Params, optimizer: optax.GradientTransformation, *, average_decay: float = 0.0
) -> TrainState:
    """Return the state before the first step, for a step of the same `average_decay`.

    Parameters and average are copies, so that a step may write over both in place and the caller's
    arrays stay.
    """
    params, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero, params, optimizer.init(params), average if average_decay else None, jnp.array(zero)
    )


def build_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float = 0.0,
    after_step_fn: AfterStepFn | None = None,
) -> StepFn:
    """Build the pure function `step(key, state, batch) -> (state, metrics)`.

    A step whose loss or gradient is not finite is not taken: it is counted, and parameters, average
    and optimizer's state are those from before it.

    Args:
      loss_fn: the loss, or a tuple of it and a dict of other scalars; its key is
        `fold_in(key, state.step)`, so that a resumed training draws what the uninterrupted one
        would.
      optimizer: any Optax transformation; gradient clipping goes there
        (`optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))`).
      average_decay: γ of the moving average of parameters; 0 for none. Step t uses
        min(γ, (1 + t) / (10 + t)), so the start is forgotten.
      after_step_fn: gives the new parameters from those the optimizer left, the batch, and a key
        of its own; the average takes them up.

    Raises:
      TypeError: the optimizer is no Optax transformation; in a step, the loss or a parameter is no
        floating-point number, or what is beside the loss is no dict of numbers.
      ValueError: `average_decay` is out of range; in a step, the loss or a metric is no scalar, or
        a metric is named as what is reported anyhow.
    """
    check_optimizer(optimizer)
    check_in_range("average_decay", average_decay, 0.0, 1.0, open_upper=True)

    def step(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
        def loss_of(params: Params) -> tuple[Array, dict[str, Array]]:
            found = loss_fn(jax.random.fold_in(key, state.step), params, batch, state.step)
            loss, others = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
            check_scalar_loss(loss)
            check_metrics(others)
            return loss, others

        check_trainable(state.params)
        if (state.average is None) != (average_decay == 0):
            raise ValueError(
                f"state must be of the step's average_decay, {average_decay}; init_state takes it"
            )
        (loss, others), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        norm = global_norm(gradient)
        is_taken = jnp.isfinite(loss) & jnp.isfinite(norm)
        new_state = jax.lax.cond(
            is_taken,
            lambda: taken(key, state, gradient, batch),
            lambda: state._replace(step=state.step + 1, num_skipped=state.num_skipped + 1),
        )
        return new_state, StepMetrics(loss, norm, is_taken, others)

    def taken(key: Key, state: TrainState, gradient: Params, batch: Any) -> TrainState:
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if after_step_fn is not None:
            after_key = jax.random.fold_in(jax.random.fold_in(key, _AFTER_STEP), state.step)
            params = after_step_fn(after_key, params, batch, state.step)
        average = None
        if average_decay:
            decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(params, state.average, 1.0 - decay)
        return TrainState(state.step + 1, params, opt_state, average, state.num_skipped)

    return step


def global_norm(tree: Any) -> Array:
    """Return the root of the sum of squares of all numbers in a pytree.

    The squares are summed by a product with ones: a CPU does products faster than sums.
    """

    def sum_of_squares(leaf: Array) -> Array:
        rows = jnp.square(jnp.abs(leaf)).reshape(-1, leaf.shape[-1] if leaf.ndim else 1)
        return jnp.sum(rows @ jnp.ones(rows.shape[1], rows.dtype))

    return jnp.sqrt(sum(map(sum_of_squares, jax.tree.leaves(tree)), jnp.zeros(())))


def build_scan(step: StepFn) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile many steps into one dispatch, which writes over the state it is given.

    Returns:
      `scan(key, state, data, indices, num_steps=None) -> (state, metrics)`: `data` is a pytree of
      arrays `[N, ...]` that stays on the device, `indices` int32 `[S, B]` in [0, N) name the
      examples of each step's batch; metrics are `[S]`, the loss of a step NaN where one of its
      indices is none. Only the first `num_steps` are taken where that is given, and the metrics
      beyond are zero; it is traced, so another number compiles nothing. The state passed in must
      not be used again.
    """
    return jax.jit(scan_of(step, examples_of), donate_argnums=1)


def examples_of(data: Any, indices: Array, i: Array) -> tuple[Any, Array]:
    """Return the examples of step i, and whether all its indices are of one."""
    num_examples = len(jax.tree.leaves(data)[0])
    batch = jax.tree.map(lambda leaf: leaf[indices[i]], data)
    return batch, jnp.all((indices[i] >= 0) & (indices[i] < num_examples))


def scan_of(
    step: StepFn, batch_fn: BatchFn, max_skipped: int | None = None
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Return what `build_scan` compiles, for batches of any origin.

    Args:
      step: what is taken many times.
      batch_fn: gives the batch of step i.
      max_skipped: stops behind the step that makes more of them skipped; None never does.
    """
    step = jax.jit(step, inline=True)  # traced once, for its shapes and for the loop

    def scan(
        key: Key, state: TrainState, data: Any, batches: Any, num_steps: Array | None = None
    ) -> tuple[TrainState, StepMetrics]:
        length = len(jax.tree.leaves(batches)[0])
        last = length if num_steps is None else num_steps

        def is_going_on(carry: tuple) -> Array:
            i, state, _ = carry
            return (i < last) & (max_skipped is None or state.num_skipped <= max_skipped)

        def body(carry: tuple) -> tuple:
            i, state, metrics = carry
            batch, is_valid = batch_fn(data, batches, i)
            state, new = step(key, state, batch)
            new = new._replace(loss=jnp.where(is_valid, new.loss, jnp.nan))
            metrics = jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, new)
            return i + 1, state, metrics

        zero = jnp.zeros((), jnp.int32)
        _, shapes = jax.eval_shape(lambda i: step(key, state, batch_fn(data, batches, i)[0]), zero)
        metrics = jax.tree.map(lambda one: jnp.zeros(length, one.dtype), shapes)
        _, state, metrics = jax.lax.while_loop(is_going_on, body, (zero, state, metrics))
        return state, metrics

    return scan
