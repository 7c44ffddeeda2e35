"""Training with validation, early stopping, checkpoints and exact resume."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._types import Array, Key, Params
from jaxgen.training import _leaves as leaves
from jaxgen.training._batches import batch_indices, leading_size, order_seed, steps_per_epoch
from jaxgen.training._diagnosis import became_non_finite, blame, check_source
from jaxgen.training._interrupts import Interrupts
from jaxgen.training._settings import fingerprint
from jaxgen.training._step import (
    AfterStepFn,
    LossFn,
    StepFn,
    StepMetrics,
    TrainState,
    build_step,
    scan_of,
)

if TYPE_CHECKING:  # Orbax takes long to import
    from jaxgen.training._checkpoint import Checkpointer

ValidateFn = Callable[[Params], Any]
"""`validate_fn(params) -> nats`, a scalar, lower is better; a fixed function."""

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
    """A loss, gradient, parameter or validation is not finite; `state` is the last good one."""

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
    once. `num_steps` and `patience` may then be larger than they were, and validations as often as
    they will; a checkpoint of another key, data, start, loss, optimizer or JAX is refused.

    Args:
      key: a typed key; the loss of step t draws from `fold_in(key, t)`.
      params: parameters to start from.
      loss_fn: `(key, params, batch, step) -> scalar`, or a tuple of that and a dict of other
        scalars, such as the parts of a bound, which are reported beside it.
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
      report_fn: told of every dispatch, `(step, {"loss": ..., "gradient_norm": ..., ...})`, means
        over its steps; what else the loss function returns stands there by its name.
      after_step_fn: `(key, params, batch, step) -> params`, pure: changes what the optimizer left
        where no gradient does, such as statistics of the activations.

    Raises:
      TypeError: an argument is of another kind than said above, or what a function returns.
      ValueError: a count is below one, the batch larger than the data, patience has nothing to wait
        for, a loss or validation is no scalar, or the checkpoint is of a step beyond `num_steps`.
      CheckpointError: the checkpoint belongs to another training, is not to be read, or another
        process trains in its folder.
      NonFiniteError: naming the step and what is not finite; the last good state is in the error
        and, with a checkpointer, on disk.
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
    _check_is_checkpointer(checkpointer)
    num_examples = leading_size("source", source)
    steps_per_epoch(num_examples, batch_size)  # checks both
    check_source(source)
    step = build_step(loss_fn, optimizer, average_decay=average_decay, after_step_fn=after_step_fn)
    training = _Training(
        key,
        jax.tree.map(jnp.asarray, source),
        _build_dispatch(step),
        (num_examples, batch_size),
        num_steps,
        validate_fn,
        validate_every,
        patience,
        checkpointer,
    )
    with contextlib.nullcontext() if checkpointer is None else checkpointer.locked():
        return training.run(jax.jit(_initial, static_argnums=1)(params, optimizer), report_fn)


def _check_is_checkpointer(checkpointer: "Checkpointer | None") -> None:
    if checkpointer is not None and not hasattr(checkpointer, "locked"):
        raise TypeError(
            f"checkpointer must be a Checkpointer, got {checkpointer!r}: "
            "jaxgen.training.Checkpointer(folder) makes one"
        )


def _initial(params: Params, optimizer: optax.GradientTransformation) -> FitState:
    params = jax.tree.map(_as_array, params)
    opt_state = jax.tree.map(_as_array, optimizer.init(params))
    zero = jnp.zeros((), jnp.int32)
    train = TrainState(zero, params, opt_state, params)
    return FitState(train, params, jnp.array(jnp.inf), zero, zero)


def _as_array(leaf: Any) -> Array:
    """Return an array of a type that no step changes, or a second program would be compiled."""
    array = jnp.asarray(leaf)
    return array.astype(array.dtype) if getattr(array, "weak_type", False) else array


def _build_dispatch(step: StepFn) -> Any:
    """Compile many steps, which leave the state they are given as it is: it is the last good one.

    The third result says for each leaf of the state whether it ceased to be finite.
    """
    scan = scan_of(step)

    def dispatch(
        key: Key, state: TrainState, data: Any, indices: Array, num_steps: Array
    ) -> tuple[TrainState, StepMetrics, Array]:
        new, metrics = scan(key, state, data, indices, num_steps)
        return new, metrics, became_non_finite(state, new)

    return jax.jit(dispatch)


@dataclasses.dataclass(frozen=True)
class _Training:
    """Hold what stays the same from dispatch to dispatch."""

    key: Key
    source: Any
    dispatch: Any
    sizes: tuple[int, int]
    num_steps: int
    validate_fn: ValidateFn | None
    validate_every: int
    patience: int | None
    checkpointer: "Checkpointer | None"
    interrupts: Interrupts = dataclasses.field(default_factory=Interrupts)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, state: FitState, report_fn: ReportFn | None) -> FitResult:
        state = self.restored(state)
        last_save = time.monotonic()
        with self.interrupts.held_back():
            while not self.is_finished(state):
                state, numbers = self.advance(state)
                if report_fn is not None:
                    report_fn(int(state.train.step), numbers)
                if self.interrupts.received:
                    self.stop(state)
                if time.monotonic() - last_save > _SECONDS_BETWEEN_CHECKPOINTS:
                    self.save(state)
                    last_save = time.monotonic()
            self.save(state)
        return self.result(state)

    def restored(self, state: FitState) -> FitState:
        if self.checkpointer is None:
            return state
        arguments = self.key, state.train, self.source, *self.indices(0, 1)
        program = self.dispatch.lower(*arguments).as_text()
        has_validation = self.validate_fn is not None
        self.settings.update(
            fingerprint(
                self.key, state.train.params, self.source, self.sizes[1], program, has_validation
            )
        )
        found = self.checkpointer.load(state, self.settings)
        if found is None:
            return state
        step, state = found
        if step > self.num_steps:
            raise ValueError(
                f"num_steps must be at least {step}, the step of the checkpoint under "
                f"{self.checkpointer.directory}, got {self.num_steps}"
            )
        return state

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
        indices = self.indices(first, num_steps)
        train, metrics, has_ceased = self.dispatch(self.key, state.train, self.source, *indices)
        metrics = jax.tree.map(lambda values: np.asarray(values)[:num_steps], metrics)
        self.refuse_non_finite(metrics, np.asarray(has_ceased), state)
        reported = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm, **metrics.others}
        numbers = {name: float(np.mean(value)) for name, value in reported.items()}
        if self.validate_fn is None or first + num_steps != due:
            return state._replace(train=train), numbers
        numbers["validation"] = value = self.validation(train.average)
        if not np.isfinite(value):
            self.refuse(f"the validation at step {due} is {value}", "", state)
        return _judge(state._replace(train=train), value), numbers

    def indices(self, first: int, num_steps: int) -> tuple[Array, int]:
        """Name the examples of some steps, in an array that has place for a whole dispatch."""
        indices = batch_indices(
            *self.sizes, seed=order_seed(self.key), first_step=first, num_steps=num_steps
        )
        padding = (0, _STEPS_PER_DISPATCH - num_steps), (0, 0)
        return jnp.asarray(np.pad(indices, padding)), num_steps

    def validation(self, average: Params) -> float:
        assert self.validate_fn is not None
        value = self.validate_fn(average)
        if np.shape(value) != ():
            raise ValueError(f"validate_fn must return a scalar, got shape {np.shape(value)}")
        return float(value)

    def refuse_non_finite(
        self, metrics: StepMetrics, has_ceased: np.ndarray, good: FitState
    ) -> None:
        first, loss, norm = int(good.train.step), metrics.loss, metrics.gradient_norm
        bad = ~(np.isfinite(loss) & np.isfinite(norm))
        if bad.any():
            i = int(np.argmax(bad))
            trouble = f"at step {first + i} the loss is {loss[i]} and the gradient norm {norm[i]}"
            self.refuse(trouble, blame(self.source, good.train.params), good)
        if has_ceased.any():
            name = list(leaves.named(good.train))[int(np.argmax(has_ceased))]
            last = first + len(loss) - 1
            trouble = f"{name} is not finite after the update of step {last} or one before"
            self.refuse(trouble, "A lower learning rate or gradient clipping helps", good)

    def refuse(self, trouble: str, cause: str, good: FitState) -> None:
        self.save(good)
        where = "in this error's `state`"
        if self.checkpointer is not None:
            where += f" and under {self.checkpointer.directory}"
        raise NonFiniteError(
            f"{trouble}; training stops. {cause}{cause and '. '}The last good state, of step "
            f"{int(good.train.step)}, is {where}.",
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
        if self.checkpointer is None or self.checkpointer.latest_step() == step:
            return
        last = self.checkpointer.latest_step()
        holds = (
            f"{self.checkpointer.directory} holds {'nothing' if last is None else f'step {last}'}."
        )
        with self.interrupts.writing(f"Saving step {step}; until that is done, {holds}"):
            try:
                self.checkpointer.save(step, state, self.settings)
            except KeyboardInterrupt:
                raise TrainingInterrupted(f"Interrupted in saving step {step}; {holds}") from None

    def result(self, state: FitState) -> FitResult:
        step = int(state.train.step)
        if self.validate_fn is None:
            return FitResult(state.train.average, float("nan"), step, step)
        best = float(state.best_value), int(state.best_step)
        return FitResult(state.best_params, *best, step)


def _judge(state: FitState, value: float) -> FitState:
    if value < float(state.best_value):
        zero = jnp.zeros((), jnp.int32)
        step, best = state.train.step, state.train.average
        return FitState(state.train, best, jnp.array(value), step, zero)
    return state._replace(num_worse=state.num_worse + 1)
