"""One program for many steps of a training, and the state that it writes over."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core._types import Array, Key, Params
from jaxgen.training._diagnosis import unsoundness
from jaxgen.training._feed import Feed
from jaxgen.training._layout import Layout
from jaxgen.training._step import StepFn, StepMetrics, TrainState, scan_of


class FitState(NamedTuple):
    """All that a checkpoint holds.

    Attributes:
      train: the optimization.
      best_params: averaged parameters at the best validation so far; None where there is none.
      best_value: that validation's value, scalar; +inf before the first.
      best_step: its step, scalar int32.
      num_worse: validations since then, scalar int32.
    """

    train: TrainState
    best_params: Params | None
    best_value: Array
    best_step: Array
    num_worse: Array


class Start(NamedTuple):
    """What a training begins with."""

    params: Params
    optimizer: optax.GradientTransformation
    has_average: bool
    has_validation: bool
    layout: Layout

    def state(self) -> FitState:
        """Return the state before the first step, in its layout."""
        params = jax.tree.map(as_array, self.params)
        params = self.layout.put(params, self.layout.of_params(params))
        shardings = self.layout.of_params(jax.eval_shape(self.initial, params))
        return jax.jit(self.initial, out_shardings=shardings)(params)

    def initial(self, params: Params) -> FitState:
        """Return the state before the first step, wherever."""
        opt_state = jax.tree.map(as_array, self.optimizer.init(params))
        zero = jnp.zeros((), jnp.int32)
        average = params if self.has_average else None
        train = TrainState(zero, params, opt_state, average, zero)
        return FitState(
            train, params if self.has_validation else None, jnp.array(jnp.inf), zero, zero
        )


def as_array(leaf: Any) -> Array:
    """Return an array of a type that no step changes, or a second program would be compiled."""
    array = jnp.asarray(leaf)
    return array.astype(array.dtype) if getattr(array, "weak_type", False) else array


def build_dispatch(step: StepFn, batches: Feed, max_skipped: int, layout: Layout) -> Any:
    """Compile many steps into one program, which writes over the state it is given.

    The third result says for each leaf of the state whether a number of it became infinite or NaN:
    what was so from the start may stay so.
    """
    scan = scan_of(step, batches.batch_fn, max_skipped)

    def dispatch(
        key: Key, state: TrainState, data: Any, rows: Any, num_steps: Array
    ) -> tuple[TrainState, StepMetrics, Array]:
        shardings, before = layout.of_params(state), unsoundness(state)
        with layout.tracing():
            state, metrics = scan(key, state, data, rows, num_steps)
        if layout.mesh is not None:
            state = jax.lax.with_sharding_constraint(state, shardings)
            metrics = jax.lax.with_sharding_constraint(metrics, layout.everywhere())
        return state, metrics, unsoundness(state) > before

    return jax.jit(dispatch, donate_argnums=1)
