import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training._checkpoint import Checkpointer, CheckpointError
from jaxgen.training._loop import NonFiniteError, TrainingInterrupted, fit

DATA = {"x": np.random.default_rng(0).normal(3.0, 1.0, (64, 2)).astype(np.float32)}
START = {"mean": jnp.zeros(2)}


def loss_fn(key, params, batch, step):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)  # so that keys matter to a resume
    return jnp.mean((batch["x"] + noise - params["mean"][None]) ** 2)


def validate_fn(params):
    return float(jnp.mean((DATA["x"].mean(0) - params["mean"]) ** 2))


def run(**kwargs):
    arguments = {
        "loss_fn": loss_fn,
        "source": DATA,
        "optimizer": optax.adam(0.05),
        "num_steps": 60,
        "batch_size": 8,
        "validate_fn": validate_fn,
        "validate_every": 10,
        "average_decay": 0.5,
        **kwargs,
    }
    return fit(jax.random.key(0), START, **arguments)


def interrupt_at(step, number=signal.SIGINT):
    def report(now, numbers):
        if now == step:
            os.kill(os.getpid(), number)

    return report


def test_training_reaches_the_minimum():
    result = run(num_steps=400, validate_every=50, average_decay=0.9)
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
    with pytest.raises(NonFiniteError, match="validation at step 10 is nan"):
        run(validate_fn=lambda params: float("nan"))


def test_patience_stops_and_the_best_parameters_are_kept():
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    kept = {}

    def validate(params):
        value = next(values)
        kept[value] = jax.tree.map(jnp.copy, params)  # training writes over what it shows
        return value

    result = run(num_steps=600, patience=3, validate_fn=validate)
    assert (result.validation, result.best_step, result.num_steps) == (1.0, 20, 50)
    chex.assert_trees_all_equal(result.params, kept[1.0])


def test_callers_arrays_survive_donation():
    run()
    np.testing.assert_array_equal(START["mean"], np.zeros(2))


def test_dispatches_end_where_a_validation_or_the_end_is_due():
    seen = []

    def report(step, numbers):
        seen.append((step, "validation" in numbers))

    assert run(num_steps=130, validate_every=60, report_fn=report).num_steps == 130
    assert seen == [(50, False), (60, True), (110, False), (120, True), (130, True)]


def test_how_often_it_validates_does_not_change_the_training():
    ends = []
    for validate_every in (7, 60):
        kept = []
        run(validate_every=validate_every, validate_fn=lambda p, kept=kept: kept.append(p) or 1.0)
        ends.append(jax.tree.map(np.asarray, kept[-1]))
    chex.assert_trees_all_equal(*ends)


def test_without_validation_the_last_parameters_are_kept(tmp_path):
    kept = []
    run(validate_every=60, validate_fn=lambda params: kept.append(params) or 1.0)
    result = run(validate_fn=None, checkpointer=Checkpointer(tmp_path))
    chex.assert_trees_all_equal(result.params, kept[0])
    assert np.isnan(result.validation)
    assert (result.best_step, result.num_steps) == (60, 60)
    again = run(validate_fn=None, checkpointer=Checkpointer(tmp_path))
    chex.assert_trees_all_equal(again.params, result.params)


def test_batches_visit_every_example_once_an_epoch():
    """The batches name themselves in the parameters, by what follows a step."""

    def after(key, params, batch, step):
        return {**params, "seen": params["seen"].at[batch["index"]].add(1)}

    source = {**DATA, "index": np.arange(64)}
    params = {**START, "seen": jnp.zeros(64)}
    result = fit(
        jax.random.key(0), params, loss_fn, source, optax.sgd(0.0),
        num_steps=24, batch_size=8, after_step_fn=after,
    )  # fmt: skip
    np.testing.assert_array_equal(result.params["seen"], np.full(64, 3.0))


def test_what_follows_a_step_is_resumed_and_published(tmp_path):
    def after(key, params, batch, step):
        return {**params, "noise": params["noise"] + jax.random.normal(key, ())}

    def go(**kwargs):
        params = {**START, "noise": jnp.zeros(())}
        return fit(
            jax.random.key(0), params, loss_fn, DATA, optax.adam(0.05), num_steps=60, batch_size=8,
            validate_fn=validate_fn, validate_every=10, average_decay=0.5, after_step_fn=after,
            **kwargs,
        )  # fmt: skip

    whole = go()
    with pytest.raises(TrainingInterrupted):
        go(checkpointer=Checkpointer(tmp_path), report_fn=interrupt_at(30))
    chex.assert_trees_all_equal(go(checkpointer=Checkpointer(tmp_path)), whole)
    assert float(whole.params["noise"]) != 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"validate_every": 0}, "validate_every must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"patience": 3, "validate_fn": None}, "patience counts validations: give a validate_fn"),
        ({"batch_size": 65}, "batch_size must be at most num_examples, 64, got 65"),
        ({"source": {"x": np.zeros(3), "y": 1.0}}, r"source must be arrays with one leading size"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments)
