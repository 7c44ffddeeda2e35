"""Training with validation, early stopping, checkpoints and exact resume."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._types import Key, Params
from jaxgen.training import _leaves as leaves
from jaxgen.training._diagnosis import blame
from jaxgen.training._dispatch import FitState, Start, as_array, build_dispatch
from jaxgen.training._feed import Feed, feed
from jaxgen.training._interrupts import Interrupts
from jaxgen.training._layout import Layout, ParamSharding, any_process, place
from jaxgen.training._settings import fingerprint
from jaxgen.training._step import AfterStepFn, LossFn, StepFn, StepMetrics, build_step

if TYPE_CHECKING:  # Orbax takes long to import
    from jaxgen.training._checkpoint import Checkpointer

ValidateFn = Callable[[Params], Any]
"""`validate_fn(params) -> nats`, a scalar, lower is better; a fixed function."""

ReportFn = Callable[[int, dict[str, float]], None]
"""`report_fn(step, numbers)`: told of some steps; `validation` is there where there was one."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 30.0  # seconds from one checkpoint to the next


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
    max_skipped: int = 0,
    mesh: Mesh | None = None,
    param_sharding: ParamSharding = "replicated",
) -> FitResult:
    """Fit parameters to data: minimize a loss, keep what validates best, stop where nothing does.

    Batches are drawn without replacement within an epoch, in an order that is a function of the key
    and the step. So, with a checkpointer, a training that was cut off goes on from its newest
    checkpoint to the very numbers of an uninterrupted one, and one that was finished returns at
    once. `num_steps` and `patience` may then be larger than they were, and validations as often as
    they will; a checkpoint of another key, data, start, loss, optimizer or JAX is refused.

    On a mesh each device computes its own part of every batch, and the numbers are those of one
    device but for the order of sums; a checkpoint goes on in any layout. With several processes
    (`jax.distributed.initialize`) all call `fit` with the same arguments.

    Args:
      key: a typed key; the loss of step t draws from `fold_in(key, t)`.
      params: parameters to start from.
      loss_fn: `(key, params, batch, step) -> scalar`, or a tuple of that and a dict of other
        scalars, such as the parts of a bound, which are reported beside it.
      source: the data: a pytree of arrays `[N, ...]`, kept on every device; or an object with
        `len(source)` and `source[indices]`, which gives the examples of an int64 array of indices
        as such a pytree and is read from another thread, ahead of the steps. Its attribute
        `fingerprint`, where it has one, tells it from other data on resuming.
      optimizer: any Optax transformation.
      num_steps: steps at most.
      batch_size: B, examples in a batch, which is a pytree like `source` of arrays `[B, ...]`.
      validate_fn: `params -> nats`, what decides; it is given the averaged parameters. None keeps
        the last ones.
      validate_every: steps between validations; there is one at the end, too.
      patience: validations without improvement after which to stop; None trains to the end.
      average_decay: of the moving average of parameters; 0 for none.
      checkpointer: where to save: behind the first step after every start, then after 5, 10, 20
        and every 30 seconds, and at the end. What is computed between two steps, such as a long
        validation, is not saved.
      report_fn: told of every 50 steps or fewer, `(step, {"loss": ..., "gradient_norm": ...,
        ...})`, means over them; what else the loss function returns stands there by its name.
      after_step_fn: `(key, params, batch, step) -> params`, pure: changes what the optimizer left
        where no gradient does, such as statistics of the activations.
      max_skipped: steps that may be left out in all because their loss or gradient is not finite.
      mesh: devices to train on, over all of which a batch is spread; None is one device.
      param_sharding: whether each device of a mesh holds all parameters, averages and optimizer's
        state, or of each array a part, along its largest axis that their number divides.

    Raises:
      TypeError: an argument is of another kind than said above, or what a function returns.
      ValueError: a count is below one, the batch larger than the data, patience has nothing to wait
        for, a loss or validation is no scalar, the checkpoint is of a step beyond `num_steps`, or
        the batch no multiple of the devices.
      CheckpointError: the checkpoint belongs to another training or is not to be read; another
        process trains in its folder; or the disk is full or read-only: it says what is saved.
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
    check_count("max_skipped", max_skipped, 0)
    if patience is not None and validate_fn is None:
        raise ValueError(
            f"patience counts validations: give a validate_fn or no patience={patience}"
        )
    _check_is_checkpointer(checkpointer)
    layout = Layout(mesh, param_sharding)
    step, spread_step = (
        build_step(fn, optimizer, average_decay=average_decay, after_step_fn=after_step_fn)
        for fn in (loss_fn, layout.spread(loss_fn))
    )
    start = Start(params, optimizer, average_decay > 0, validate_fn is not None, layout)
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(feed(source, key, batch_size, layout)))
        if checkpointer is not None:
            stack.enter_context(checkpointer.locked())
        training = _Training(
            key,
            batches,
            step,
            spread_step,
            start,
            batch_size,
            num_steps,
            validate_fn,
            validate_every,
            patience,
            max_skipped,
            checkpointer,
        )
        return training.run(report_fn)


def _check_is_checkpointer(checkpointer: "Checkpointer | None") -> None:
    if checkpointer is not None and not hasattr(checkpointer, "locked"):
        raise TypeError(
            f"checkpointer must be a Checkpointer, got {checkpointer!r}: "
            "jaxgen.training.Checkpointer(folder) makes one"
        )


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


@dataclasses.dataclass
class _Training:
    """Hold what stays the same from dispatch to dispatch."""

    key: Key
    feed: Feed
    step: StepFn
    spread_step: StepFn
    start: Start
    batch_size: int
    num_steps: int
    validate_fn: ValidateFn | None
    validate_every: int
    patience: int | None
    max_skipped: int
    checkpointer: "Checkpointer | None"
    first_step: int = 0
    interrupts: Interrupts = dataclasses.field(default_factory=Interrupts)

    @functools.cached_property
    def dispatch(self) -> Any:
        return build_dispatch(self.spread_step, self.feed, self.max_skipped, self.start.layout)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Say what a checkpoint belongs to, whatever the layout."""
        state = jax.eval_shape(self.start.initial, jax.tree.map(as_array, self.start.params))
        program = jax.jit(self.step).lower(self.key, state.train, self.feed.shapes()).as_text()
        about, has_validation = self.feed.about(), self.validate_fn is not None
        return fingerprint(
            self.key, self.start.params, about, self.batch_size, program, has_validation
        )

    def run(self, report_fn: ReportFn | None) -> FitResult:
        """Train, and save: behind the first step, then at pauses that double up to the longest.

        So one that is cut off again and again gets on as soon as its first step is compiled.
        """
        state = self.resumed()
        self.first_step = int(state.train.step)
        next_save, pause = time.monotonic(), _SHORTEST_PAUSE
        metrics: list[StepMetrics] = []
        with self.interrupts.held_back():
            while not self.is_finished(state):
                due = self.report_due(int(state.train.step))
                state, some, validated = self.advance(state)
                metrics.append(some)
                if int(state.train.step) == due:
                    if report_fn is not None:
                        report_fn(due, {**_means(metrics), **validated})
                    metrics.clear()
                if any_process(self.interrupts.received):
                    self.stop(state)
                if any_process(time.monotonic() > next_save):
                    self.save(state)
                    next_save = time.monotonic() + pause
                    pause = min(2 * pause, _LONGEST_PAUSE)
            self.save(state)
        return self.result(state)

    def resumed(self) -> FitState:
        """Return the newest checkpoint, or the start where there is none."""
        state = self.start.state()
        found = None
        if self.checkpointer is not None:
            found = self.checkpointer.load(state, self.settings)
        if found is None:
            return state
        step, state = found
        if step > self.num_steps:
            assert self.checkpointer is not None
            raise ValueError(
                f"num_steps must be at least {step}, the step of the checkpoint under "
                f"{self.checkpointer.directory}, got {self.num_steps}"
            )
        return state

    def is_finished(self, state: FitState) -> bool:
        out_of_patience = self.patience is not None and int(state.num_worse) >= self.patience
        return out_of_patience or int(state.train.step) >= self.num_steps

    def due(self, step: int) -> int:
        """Return the step of the next validation, or of the end."""
        if self.validate_fn is None:
            return self.num_steps
        return min(self.num_steps, step - step % self.validate_every + self.validate_every)

    def report_due(self, step: int) -> int:
        """Return the step of the next report, wherever the training was cut off before."""
        since = step if self.validate_fn is None else step % self.validate_every
        return min(self.due(step), step - since % self.feed.max_steps + self.feed.max_steps)

    def length(self, step: int) -> int:
        """Return how many steps the dispatch has that starts at one: up to a report at most.

        Where there are checkpoints, it is no longer than all before it since the start, so that
        the first of them need not wait for many long steps.
        """
        most = self.report_due(step) - step
        return most if self.checkpointer is None else min(most, max(1, step - self.first_step))

    def advance(self, state: FitState) -> tuple[FitState, StepMetrics, dict[str, float]]:
        """One dispatch, and a validation where one is due, by its name."""
        first = int(state.train.step)
        rows, num_steps = self.feed.batches(first, self.length), self.length(first)
        train, metrics, has_ceased = self.dispatch(
            self.key, state.train, self.feed.data, rows, num_steps
        )
        state = state._replace(train=train)
        metrics = jax.tree.map(lambda values: np.asarray(values)[:num_steps], metrics)
        if np.any(np.asarray(has_ceased)):
            self.refuse_update(first)
        if int(train.num_skipped) > self.max_skipped:
            self.refuse_skip(int(train.step) - 1, first, metrics, state)
        if self.validate_fn is None or first + num_steps != self.due(first):
            return state, metrics, {}
        params = _copy(train.averaged)  # the next dispatch writes over the originals
        value = self.validation(params)
        if not np.isfinite(value):
            trouble = f"the validation at step {first + num_steps} is {value}"
            self.refuse(trouble, "", state, is_saved=False)
        return _judge(state, params, value), metrics, {"validation": value}

    def validation(self, average: Params) -> float:
        assert self.validate_fn is not None
        value = self.validate_fn(average)
        if np.shape(value) != ():
            raise ValueError(f"validate_fn must return a scalar, got shape {np.shape(value)}")
        return float(value)

    def refuse_skip(self, step: int, first: int, metrics: StepMetrics, state: FitState) -> None:
        """Raise for a step that was one more to skip than may be; it changed nothing."""
        train = state.train
        good = train._replace(step=train.step - 1, num_skipped=train.num_skipped - 1)
        loss, norm = metrics.loss[step - first], metrics.gradient_norm[step - first]
        trouble = f"at step {step} the loss is {loss} and the gradient norm {norm}"
        if self.max_skipped:
            trouble += f", and {self.max_skipped} steps were skipped before"
        source, rows = self.feed.suspects(step)
        cause = blame(source, train.params, rows)
        self.refuse(trouble, cause, state._replace(train=good))

    def refuse_update(self, first: int) -> None:
        """Raise for an update that is not finite, in one of the steps from `first` on.

        The state before it was written over. All steps are a function of the start, or of a
        checkpoint, so it is computed again.
        """
        state = self.resumed()
        while int(state.train.step) < first:
            state, _, _ = self.advance(state)
        while True:
            good, step = _copy(state.train), int(state.train.step)
            rows = self.feed.batches(step, self.length)
            train, _, has_ceased = self.dispatch(self.key, state.train, self.feed.data, rows, 1)
            if np.any(np.asarray(has_ceased)):
                break
            state = state._replace(train=train)
        name = list(leaves.named(good))[int(np.argmax(np.asarray(has_ceased)))]
        trouble = f"{name} is not finite after the update of step {step}"
        help_ = "A lower learning rate or gradient clipping helps"
        self.refuse(trouble, help_, state._replace(train=good))

    def refuse(
        self, trouble: str, cause: str, good: FitState, *, is_saved: bool = True
    ) -> NoReturn:
        where = "in this error's `state`"
        if self.checkpointer is not None and is_saved:
            self.save(good)
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
            return FitResult(state.train.averaged, float("nan"), step, step)
        best = float(state.best_value), int(state.best_step)
        return FitResult(state.best_params, *best, step)


def _means(some: list[StepMetrics]) -> dict[str, float]:
    """Return the means over the steps that were taken, and how many were not if any."""
    metrics = jax.tree.map(lambda *values: np.concatenate(values), *some)
    reported = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm, **metrics.others}
    is_taken = np.asarray(metrics.is_taken)
    with np.errstate(invalid="ignore"):  # where none was taken
        numbers = {
            name: float(value[is_taken].sum() / is_taken.sum()) for name, value in reported.items()
        }
    if not is_taken.all():
        numbers["num_skipped"] = float(np.sum(~is_taken))
    return numbers


def _judge(state: FitState, params: Params, value: float) -> FitState:
    if value < float(state.best_value):
        numbers = np.float32(value), int(state.train.step), 0
        like = state.best_value, state.best_step, state.num_worse
        placed = [
            place(np.asarray(number, old.dtype), old.sharding)
            for number, old in zip(numbers, like, strict=True)
        ]
        return FitState(state.train, params, *placed)
    return state._replace(num_worse=state.num_worse + 1)
