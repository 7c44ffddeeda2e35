"""Training with validation, early stopping, checkpoints and exact resume."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._types import Array, Key, Params
from jaxgen.training._batches import batch_indices, leading_size, order_seed, steps_per_epoch
from jaxgen.training._step import (
    AfterStepFn,
    LossFn,
    StepMetrics,
    TrainState,
    build_scan,
    build_step,
    init_state,
)

if TYPE_CHECKING:  # Orbax takes long to import
    from jaxgen.training._checkpoint import Checkpointer

ValidateFn = Callable[[Params], Any]
"""`validate_fn(params) -> nats`, a scalar, lower is better; a fixed function, which keeps no
parameters."""

ReportFn = Callable[[int, dict[str, float]], None]
"""`report_fn(step, numbers)`: told of every dispatch; `validation` is there where there was one."""

_STEPS_PER_DISPATCH = 50  # more cost less each, and take longer to interrupt
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class FitState(NamedTuple):
    """All that a checkpoint holds.

    Attributes:
      train: the optimization.
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
      params: averaged parameters at the best validation; at the end, where none was asked for.
      validation: its value, nats; NaN without one.
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
    loss_fn: LossFn,
    source: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int,
    validate_fn: ValidateFn | None = None,
    validate_every: int = 100,
    patience: int | None = None,
    average_decay: float = 0.0,
    checkpointer: "Checkpointer | None" = None,
    report_fn: ReportFn | None = None,
    after_step_fn: AfterStepFn | None = None,
) -> FitResult:
    """Fit parameters to data: minimize a loss, keep what validates best, stop where nothing does.

    Batches are drawn without replacement within an epoch, in an order that is a function of the key
    and the step. So, with a checkpointer, a training that was cut off goes on from its newest
    checkpoint to the very numbers of an uninterrupted one, and one that was finished returns at
    once.

    Args:
      key: a typed key; the loss of step t draws from `fold_in(key, t)`.
      params: parameters to start from.
      loss_fn: `(key, params, batch, step) -> scalar`.
      source: the data, a pytree of arrays `[N, ...]`, kept on the device.
      optimizer: any Optax transformation.
      num_steps: steps at most.
      batch_size: B, examples in a batch, which is a pytree like `source` of arrays `[B, ...]`.
      validate_fn: `params -> nats`, what decides; it is given the averaged parameters. None keeps
        the last ones.
      validate_every: steps between validations; there is one at the end, too.
      patience: validations without improvement after which to stop; None trains to the end.
      average_decay: of the moving average of parameters; 0 for none.
      checkpointer: where to save, about twice a minute, and at the end.
      report_fn: told of every dispatch, `(step, {"loss": ..., "gradient_norm": ..., ...})`.
      after_step_fn: `(key, params, batch, step) -> params`, pure: changes what the optimizer left
        where no gradient does, such as statistics of the activations.

    Raises:
      ValueError: a count is below one, the batch larger than the data, or patience has nothing to
        wait for.
      NonFiniteError: naming the step; the last good state is in the error and, with a checkpointer,
        on disk.
      TrainingInterrupted: after the state was saved.

    >>> x = jax.random.normal(jax.random.key(0), (500,)) + 3.0
    >>> def loss_fn(key, mean, batch, step):
    ...     return jnp.mean((batch - mean) ** 2)
    >>> result = fit(jax.random.key(1), jnp.zeros(()), loss_fn, x, optax.adam(0.1),
    ...              num_steps=200, batch_size=100, average_decay=0.9)
    >>> bool(jnp.abs(result.params - jnp.mean(x)) < 0.05)
    True
    """
    check_key(key)
    counts = {"num_steps": num_steps, "validate_every": validate_every}
    for name, count in {**counts, **({} if patience is None else {"patience": patience})}.items():
        check_count(name, count)
    if patience is not None and validate_fn is None:
        raise ValueError(
            f"patience counts validations: give a validate_fn or no patience={patience}"
        )
    num_examples = leading_size("source", source)
    steps_per_epoch(num_examples, batch_size)  # checks both
    step = build_step(loss_fn, optimizer, average_decay=average_decay, after_step_fn=after_step_fn)
    training = _Training(
        key,
        jax.tree.map(jnp.asarray, source),
        build_scan(step),
        (num_examples, batch_size),
        num_steps,
        validate_fn,
        validate_every,
        patience,
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
    return training.result(state)


def _initial(params: Params, optimizer: optax.GradientTransformation) -> FitState:
    train = init_state(params, optimizer)
    zero = jnp.zeros((), jnp.int32)
    return FitState(train, jax.tree.map(jnp.copy, params), jnp.array(jnp.inf), zero, zero)


@dataclasses.dataclass(frozen=True)
class _Training:
    """Hold what stays the same from dispatch to dispatch."""

    key: Key
    source: Any
    scan: Callable[..., tuple[TrainState, StepMetrics]]
    sizes: tuple[int, int]
    num_steps: int
    validate_fn: ValidateFn | None
    validate_every: int
    patience: int | None
    checkpointer: "Checkpointer | None"

    def restored(self, state: FitState) -> FitState:
        found = None if self.checkpointer is None else self.checkpointer.load(state)
        return state if found is None else found[1]

    def is_finished(self, state: FitState) -> bool:
        out_of_patience = self.patience is not None and int(state.num_worse) >= self.patience
        return out_of_patience or int(state.train.step) >= self.num_steps

    def advance(self, state: FitState) -> tuple[FitState, dict[str, float]]:
        """One dispatch, up to a validation at most, and that where it is due."""
        first = int(state.train.step)
        due = self.num_steps
        if self.validate_fn is not None:
            due = min(due, first - first % self.validate_every + self.validate_every)
        num_steps = min(_STEPS_PER_DISPATCH, due - first)
        good = jax.tree.map(jnp.copy, state)  # the dispatch writes over the state it is given
        train, metrics = self.dispatch(state.train, first, num_steps)
        self.refuse_non_finite(metrics, first, good)
        state = state._replace(train=train)
        numbers = {name: float(np.mean(value)) for name, value in metrics._asdict().items()}
        if self.validate_fn is not None and first + num_steps == due:
            numbers["validation"] = value = float(self.validate_fn(train.average))
            if not np.isfinite(value):
                self.refuse(f"validation at step {due} is {value}", good)
            state = _judge(state, value)
        return state, numbers

    def dispatch(
        self, train: TrainState, first: int, num_steps: int
    ) -> tuple[TrainState, StepMetrics]:
        """Take some steps; the metrics are on the host."""
        indices = batch_indices(
            *self.sizes, seed=order_seed(self.key), first_step=first, num_steps=num_steps
        )
        padded = np.pad(indices, ((0, _STEPS_PER_DISPATCH - num_steps), (0, 0)))
        train, metrics = self.scan(self.key, train, self.source, jnp.asarray(padded), num_steps)
        return train, jax.tree.map(lambda values: np.asarray(values)[:num_steps], metrics)

    def refuse_non_finite(self, metrics: StepMetrics, first: int, good: FitState) -> None:
        loss, norm = metrics
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

    def result(self, state: FitState) -> FitResult:
        step = int(state.train.step)
        if self.validate_fn is None:
            return FitResult(state.train.average, float("nan"), step, step)
        best = float(state.best_value), int(state.best_step)
        return FitResult(state.best_params, *best, step)


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
