"""Training steps: one, and many in a single dispatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.checks import check_in_range
from jaxgen.core.types import Array, Key, Params
from jaxgen.training.state import TrainState

LossFn = Callable[[Key, Params, Any, Array], Array]
"""`loss_fn(key, params, batch, step) -> scalar` to minimise, in nats."""

StepFn = Callable[[Key, TrainState, Any], tuple[TrainState, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """What a step reports; `[S]` each after S steps.

    Attributes:
      loss: the loss before the step.
      gradient_norm: global norm of the gradient, before any clipping.
    """

    loss: Array
    gradient_norm: Array


def build_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, average_decay: float = 0.0
) -> StepFn:
    """Make the pure function `step(key, state, batch) -> (state, metrics)`.

    Args:
      loss_fn: the loss; its key is `fold_in(key, state.step)`, so that a resumed training draws
        what the uninterrupted one would.
      optimizer: any Optax transformation; gradient clipping goes there
        (`optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))`).
      average_decay: γ of the moving average of parameters; 0 makes it a copy of them. Step t uses
        min(γ, (1 + t) / (10 + t)), so the start is forgotten.
    """
    check_in_range("average_decay", average_decay, 0.0, 1.0, open_upper=True)

    def step(key: Key, state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
        def loss_of(params: Params) -> Array:
            return loss_fn(jax.random.fold_in(key, state.step), params, batch, state.step)

        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        new_state = TrainState(state.step + 1, params, opt_state, average)
        return new_state, StepMetrics(loss, optax.tree.norm(gradient))

    return step


def build_scan(step: StepFn) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Compile many steps into one dispatch, which writes over the state it is given.

    Returns:
      `scan(key, state, data, indices) -> (state, metrics)`: `data` is a pytree of arrays `[N, ...]`
      that stays on the device, `indices` int32 `[S, B]` name the examples of each step's batch;
      metrics are `[S]`. The state passed in must not be used again.
    """

    def scan(
        key: Key, state: TrainState, data: Any, indices: Array
    ) -> tuple[TrainState, StepMetrics]:
        def body(state: TrainState, batch_indices: Array) -> tuple[TrainState, StepMetrics]:
            return step(key, state, jax.tree.map(lambda leaf: leaf[batch_indices], data))

        return jax.lax.scan(body, state, indices)

    return jax.jit(scan, donate_argnums=1)
