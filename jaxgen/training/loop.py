"""Training with validation, early stopping, checkpoints and exact resume."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core.checks import check_count, check_key
from jaxgen.core.types import Array, Key, Params
from jaxgen.training.checkpoint import Checkpointer
from jaxgen.training.state import TrainState, init_state
from jaxgen.training.step import LossFn, StepMetrics, build_scan, build_step

IndicesFn = Callable[[int, int], np.ndarray]
"""`indices_fn(first_step, num_steps) -> int32 [num_steps, B]`: the batches of those steps."""

ValidateFn = Callable[[Params], float]
"""`validate_fn(params) -> nats`, lower is better; a fixed function, which keeps no parameters."""

ReportFn = Callable[[int, dict[str, float]], None]
"""`report_fn(step, numbers)`: told of every dispatch; `validation` is there where there was one."""

_SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look.

    Raises:
      ValueError: a count is below one, or `validate_every` is no multiple of `steps_per_dispatch`.
    """

    num_steps: int
    """Steps at most."""
    validate_every: int = 100
    """Steps between validations."""
    patience: int | None = None
    """Validations without improvement after which to stop; None trains to the end."""
    steps_per_dispatch: int = 50
    """Steps compiled into one dispatch: more cost less each, and take longer to interrupt."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("num_steps", "validate_every", "steps_per_dispatch"):
            check_count(name, getattr(self, name))
        if self.patience is not None:
            check_count("patience", self.patience)
        if self.validate_every % self.steps_per_dispatch:
            raise ValueError(
                f"validate_every must be a multiple of steps_per_dispatch="
                f"{self.steps_per_dispatch}, got {self.validate_every}"
            )


class FitState(NamedTuple):
    """All that a checkpoint holds.

    Attributes:
      train: the optimisation.
      best_params: averaged parameters at the best validation so far.
      best_value: that validation's value, scalar; +inf before the first.
      best_step: its step, scalar int32.
      num_worse: validations since then, scalar int32.
    """

    train: TrainState
    best_params: Params
    best_value: Array
    best_step: Array
    num_worse: Array


class FitResult(NamedTuple):
    """The outcome of a training.

    Attributes:
      params: averaged parameters at the best validation.
      validation: its value, nats.
      best_step: its step.
      num_steps: steps taken in all.
    """

    params: Params
    validation: float
    best_step: int
    num_steps: int


class NonFiniteError(ArithmeticError):
    """A loss, gradient or validation is not finite; `state` is the last good `FitState`."""

    def __init__(self, message: str, state: FitState) -> None:
        super().__init__(message)
        self.state = state


class TrainingInterrupted(KeyboardInterrupt):
    """A training stopped by Ctrl-C or SIGTERM, after its state was saved."""


def fit(
    key: Key,
    params: Params,
    data: Any,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    indices_fn: IndicesFn,
    validate_fn: ValidateFn,
    average_decay: float = 0.0,
    checkpointer: Checkpointer | None = None,
    report_fn: ReportFn | None = None,
) -> FitResult:
    """Minimise a loss, keep the parameters that validate best, and stop when they stop improving.

    With a checkpointer, a training that was cut off goes on from its newest checkpoint to the very
    numbers of an uninterrupted one, and one that was finished returns at once.

    Args:
      key: a typed key; step t draws from `fold_in(key, t)`.
      params: parameters to start from.
      data: a pytree of arrays `[N, ...]`, kept on the device.
      loss_fn: `(key, params, batch, step) -> scalar`.
      optimizer: any Optax transformation.
      schedule: how long to train and how often to look.
      indices_fn: the examples of each batch.
      validate_fn: what decides; it is given the averaged parameters.
      average_decay: of the moving average of parameters; 0 for none.
      checkpointer: where to save, about twice a minute, and at the end.
      report_fn: told of every dispatch.

    Raises:
      NonFiniteError: naming the step; the last good state is in the error and, with a checkpointer,
        on disk.
      TrainingInterrupted: after the state was saved.
    """
    check_key(key)
    training = _Training(
        key,
        jax.tree.map(jnp.asarray, data),
        build_scan(build_step(loss_fn, optimizer, average_decay=average_decay)),
        schedule,
        indices_fn,
        validate_fn,
        checkpointer,
    )
    state = training.restored(_initial(params, optimizer))
    last_save = time.monotonic()
    with _deferred_interrupt() as is_interrupted:
        while not training.is_finished(state):
            state, numbers = training.advance(state)
            if report_fn is not None:
                report_fn(int(state.train.step), numbers)
            if is_interrupted():
                training.stop(state)
            if time.monotonic() - last_save > _SECONDS_BETWEEN_CHECKPOINTS:
                training.save(state)
                last_save = time.monotonic()
        training.save(state)
    return FitResult(
        state.best_params, float(state.best_value), int(state.best_step), int(state.train.step)
    )


def _initial(params: Params, optimizer: optax.GradientTransformation) -> FitState:
    train = init_state(params, optimizer)
    zero = jnp.zeros((), jnp.int32)
    return FitState(train, jax.tree.map(jnp.copy, params), jnp.array(jnp.inf), zero, zero)


@dataclasses.dataclass(frozen=True)
class _Training:
    """What stays the same from dispatch to dispatch."""

    key: Key
    data: Any
    scan: Callable[..., tuple[TrainState, StepMetrics]]
    schedule: Schedule
    indices_fn: IndicesFn
    validate_fn: ValidateFn
    checkpointer: Checkpointer | None

    def restored(self, state: FitState) -> FitState:
        found = None if self.checkpointer is None else self.checkpointer.load(state)
        return state if found is None else found[1]

    def is_finished(self, state: FitState) -> bool:
        patience = self.schedule.patience
        out_of_patience = patience is not None and int(state.num_worse) >= patience
        return out_of_patience or int(state.train.step) >= self.schedule.num_steps

    def advance(self, state: FitState) -> tuple[FitState, dict[str, float]]:
        """One dispatch, and a validation when it is due."""
        first = int(state.train.step)
        num_steps = min(self.schedule.steps_per_dispatch, self.schedule.num_steps - first)
        good = jax.tree.map(jnp.copy, state)  # the dispatch writes over the state it is given
        indices = jnp.asarray(self.indices_fn(first, num_steps))
        train, metrics = self.scan(self.key, state.train, self.data, indices)
        self.refuse_non_finite(metrics, first, good)
        state = state._replace(train=train)
        numbers = {name: float(np.mean(value)) for name, value in metrics._asdict().items()}
        step = first + num_steps
        if step % self.schedule.validate_every == 0 or step == self.schedule.num_steps:
            numbers["validation"] = value = float(self.validate_fn(train.average))
            if not np.isfinite(value):
                self.refuse(f"validation at step {step} is {value}", good)
            state = _judge(state, value)
        return state, numbers

    def refuse_non_finite(self, metrics: StepMetrics, first: int, good: FitState) -> None:
        loss, norm = np.asarray(metrics.loss), np.asarray(metrics.gradient_norm)
        bad = ~(np.isfinite(loss) & np.isfinite(norm))
        if bad.any():
            i = int(np.argmax(bad))
            trouble = f"at step {first + i} the loss is {loss[i]} and the gradient norm {norm[i]}"
            self.refuse(trouble, good)

    def refuse(self, trouble: str, good: FitState) -> None:
        self.save(good)
        where = "in this error's `state`"
        if self.checkpointer is not None:
            where += f" and under {self.checkpointer.directory}"
        raise NonFiniteError(
            f"{trouble}; training stops. The last good state, of step {int(good.train.step)}, is "
            f"{where}. A lower learning rate or gradient clipping is the usual remedy.",
            good,
        )

    def stop(self, state: FitState) -> None:
        self.save(state)
        start = f"Interrupted at step {int(state.train.step)}; "
        if self.checkpointer is None:
            raise TrainingInterrupted(start + "there is no checkpoint to go on from.")
        raise TrainingInterrupted(
            f"{start}the state is saved under {self.checkpointer.directory}. "
            "The same command goes on from there."
        )

    def save(self, state: FitState) -> None:
        step = int(state.train.step)
        if self.checkpointer is not None and self.checkpointer.latest_step() != step:
            self.checkpointer.save(step, state)


def _judge(state: FitState, value: float) -> FitState:
    if value < float(state.best_value):
        best = jax.tree.map(jnp.copy, state.train.average)
        zero = jnp.zeros((), jnp.int32)
        return FitState(state.train, best, jnp.array(value), state.train.step + 0, zero)
    return state._replace(num_worse=state.num_worse + 1)


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C or SIGTERM until a dispatch is over; a second one acts at once."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def note(number: int, frame: Any) -> None:
        received.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
