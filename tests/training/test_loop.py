import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training.checkpoint import Checkpointer, CheckpointError
from jaxgen.training.loop import NonFiniteError, Schedule, TrainingInterrupted, fit

DATA = {"x": np.random.default_rng(0).normal(3.0, 1.0, (64, 2)).astype(np.float32)}
START = {"mean": jnp.zeros(2)}


def loss_fn(key, params, batch, step):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)  # so that keys matter to a resume
    return jnp.mean((batch["x"] + noise - params["mean"][None]) ** 2)


def indices_fn(first_step, num_steps):
    order = [
        np.random.default_rng(s).permutation(64)[:8]
        for s in range(first_step, first_step + num_steps)
    ]
    return np.array(order, np.int32)


def validate_fn(params):
    return float(jnp.mean((DATA["x"].mean(0) - params["mean"]) ** 2))


def run(schedule=None, **kwargs):
    arguments = {
        "data": DATA,
        "loss_fn": loss_fn,
        "optimizer": optax.adam(0.05),
        "indices_fn": indices_fn,
        "validate_fn": validate_fn,
        "average_decay": 0.5,
        **kwargs,
    }
    schedule = schedule or Schedule(60, validate_every=20, steps_per_dispatch=10)
    return fit(jax.random.key(0), START, schedule=schedule, **arguments)


def interrupt_at(step, number=signal.SIGINT):
    def report(now, numbers):
        if now == step:
            os.kill(os.getpid(), number)

    return report


def test_training_reaches_the_minimum():
    result = run(Schedule(400, validate_every=50), average_decay=0.9)
    np.testing.assert_allclose(result.params["mean"], DATA["x"].mean(0), atol=0.05)
    assert result.num_steps == 400


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_resumes_to_the_same_numbers(tmp_path, number):
    whole = run()
    with pytest.raises(
        TrainingInterrupted, match=r"step 30; the state is saved under .*same command"
    ):
        run(checkpointer=Checkpointer(tmp_path), report_fn=interrupt_at(30, number))
    seen = []
    resumed = run(
        checkpointer=Checkpointer(tmp_path), report_fn=lambda step, numbers: seen.append(step)
    )
    assert seen == [40, 50, 60]
    chex.assert_trees_all_equal(resumed.params, whole.params)
    assert resumed[1:] == whole[1:]


def test_handlers_are_put_back_after_an_interrupt(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="no checkpoint to go on from"):
        run(report_fn=interrupt_at(10))
    assert signal.getsignal(signal.SIGINT) is before


def test_finished_training_returns_at_once(tmp_path):
    first = run(checkpointer=Checkpointer(tmp_path))
    again = run(
        checkpointer=Checkpointer(tmp_path), report_fn=lambda *_: pytest.fail("trained again")
    )
    chex.assert_trees_all_equal(again.params, first.params)


def test_half_written_checkpoint_is_passed_over(tmp_path):
    with pytest.raises(TrainingInterrupted):
        run(checkpointer=Checkpointer(tmp_path), report_fn=interrupt_at(20))
    with pytest.raises(TrainingInterrupted):
        run(checkpointer=Checkpointer(tmp_path), report_fn=interrupt_at(40))
    for file in (tmp_path / "40").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    seen = []
    resumed = run(
        checkpointer=Checkpointer(tmp_path), report_fn=lambda step, numbers: seen.append(step)
    )
    assert seen[0] == 30
    chex.assert_trees_all_equal(resumed.params, run().params)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    Checkpointer(tmp_path).save(3, {"weights": jnp.zeros(7)})
    with pytest.raises(CheckpointError, match=r"no checkpoint under .* can be read"):
        run(checkpointer=Checkpointer(tmp_path))


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(checkpointer=Checkpointer(tmp_path / "file" / "checkpoints"))


def test_nan_stops_the_training_and_names_the_step(tmp_path):
    def poisoned(key, params, batch, step):
        return loss_fn(key, params, batch, step) + jnp.where(step == 27, jnp.nan, 0.0)

    with pytest.raises(
        NonFiniteError, match=r"at step 27 the loss is nan.*last good.*step 20"
    ) as info:
        run(loss_fn=poisoned, checkpointer=Checkpointer(tmp_path))
    assert int(info.value.state.train.step) == 20
    assert np.isfinite(info.value.state.train.params["mean"]).all()
    assert Checkpointer(tmp_path).latest_step() == 20


def test_nan_gradient_is_seen_in_its_own_step():
    def poisoned(key, params, batch, step):
        zero = jnp.where(step == 13, 0.0, 1.0)
        return loss_fn(key, params, batch, step) + jnp.sqrt(
            jnp.sum(params["mean"] ** 2) * (1 - zero)
        )

    with pytest.raises(NonFiniteError, match=r"at step \d+ the loss"):
        run(loss_fn=poisoned)


def test_nan_validation_stops_the_training():
    with pytest.raises(NonFiniteError, match="validation at step 20 is nan"):
        run(validate_fn=lambda params: float("nan"))


def test_patience_stops_and_the_best_parameters_are_kept():
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    kept = {}

    def validate(params):
        value = next(values)
        kept[value] = jax.tree.map(jnp.copy, params)  # training writes over what it shows
        return value

    result = run(
        Schedule(600, validate_every=10, patience=3, steps_per_dispatch=10), validate_fn=validate
    )
    assert (result.validation, result.best_step, result.num_steps) == (1.0, 20, 50)
    chex.assert_trees_all_equal(result.params, kept[1.0])


def test_callers_arrays_survive_donation():
    run()
    np.testing.assert_array_equal(START["mean"], np.zeros(2))


def test_number_of_steps_need_not_fit_the_dispatches():
    assert run(Schedule(25, validate_every=20, steps_per_dispatch=10)).num_steps == 25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        (
            {"validate_every": 25},
            "validate_every must be a multiple of steps_per_dispatch=50, got 25",
        ),
        ({"patience": 0}, "patience must be at least 1, got 0"),
    ],
)
def test_bad_schedules_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"num_steps": 10, **fields})
