import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_task import DATA, START, interrupt_at, loss_fn, run, validate_fn

from jaxgen.training import _loop
from jaxgen.training._checkpoint import Checkpointer, CheckpointError
from jaxgen.training._loop import TrainingInterrupted, fit


def test_training_reaches_the_minimum():
    result = run(num_steps=400, validate_every=50, average_decay=0.9)
    chex.assert_trees_all_close(result.params["mean"], DATA["x"].mean(0), atol=0.05, rtol=1e-7)
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


def parts_fn(key, params, batch, step):
    loss = loss_fn(key, params, batch, step)
    return loss, {"first": loss, "step_of": step + 0.0}


def test_what_stands_beside_the_loss_is_reported_and_resumed(tmp_path):
    rows = {}

    def report(step, numbers):
        rows[step] = numbers

    plain = run()
    chex.assert_trees_all_equal(run(loss_fn=parts_fn, report_fn=report), plain)
    assert list(rows[10]) == ["loss", "gradient_norm", "first", "step_of", "validation"]
    assert [numbers["first"] for numbers in rows.values()] == [n["loss"] for n in rows.values()]
    assert [numbers["step_of"] for numbers in rows.values()] == [4.5, 14.5, 24.5, 34.5, 44.5, 54.5]
    whole = dict(rows)
    checkpointer, resumed = Checkpointer(tmp_path), {"loss_fn": parts_fn}
    with pytest.raises(TrainingInterrupted):
        run(**resumed, checkpointer=checkpointer, report_fn=interrupt_at(30))
    rows.clear()
    chex.assert_trees_all_equal(run(**resumed, checkpointer=checkpointer, report_fn=report), plain)
    assert rows == {step: numbers for step, numbers in whole.items() if step > 30}


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
    with pytest.warns(UserWarning, match="passing over the checkpoint of step 40"):
        resumed = run(
            checkpointer=Checkpointer(tmp_path), report_fn=lambda step, numbers: seen.append(step)
        )
    assert seen[0] == 30
    chex.assert_trees_all_equal(resumed.params, run().params)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    Checkpointer(tmp_path).save(3, {"weights": jnp.zeros(7)})
    with pytest.raises(CheckpointError, match=r"something else: it lacks batch_size, data x"):
        run(checkpointer=Checkpointer(tmp_path))


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(checkpointer=Checkpointer(tmp_path / "file" / "checkpoints"))


def test_patience_stops_and_the_best_parameters_are_kept():
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    kept = {}

    def validate(params):
        value = next(values)
        kept[value] = params
        return value

    result = run(num_steps=600, patience=3, validate_fn=validate)
    assert (result.validation, result.best_step, result.num_steps) == (1.0, 20, 50)
    chex.assert_trees_all_equal(result.params, kept[1.0])


def test_callers_arrays_survive_donation():
    run()
    chex.assert_trees_all_equal(START["mean"], np.zeros(2))


def test_dispatches_end_where_a_validation_or_the_end_is_due():
    seen = []

    def report(step, numbers):
        seen.append((step, "validation" in numbers))

    assert run(num_steps=130, validate_every=60, report_fn=report).num_steps == 130
    assert seen == [(50, False), (60, True), (110, False), (120, True), (130, True)]


def test_one_program_is_compiled_whatever_kind_of_number_a_parameter_is(monkeypatch):
    programs = []
    build = _loop.build_dispatch
    monkeypatch.setattr(
        _loop, "build_dispatch", lambda *rest: programs.append(build(*rest)) or programs[0]
    )

    def loss(key, params, batch, step):
        return loss_fn(key, params, batch, step) + params["weak"] ** 2 + params["python"] ** 2

    params = {**START, "weak": jnp.array(3.0), "python": 2.0}
    run(loss_fn=loss, params=params, validate_fn=None)
    assert programs[0]._cache_size() == 1


def test_how_often_it_validates_does_not_change_the_training():
    ends = []
    for validate_every in (7, 60):
        kept = []
        run(validate_every=validate_every, validate_fn=lambda p, kept=kept: kept.append(p) or 1.0)
        ends.append(jax.tree.map(np.asarray, kept[-1]))
    chex.assert_trees_all_equal(*ends)


def test_a_resumed_training_validates_when_a_straight_one_does(tmp_path):
    def go(stop=None, **kwargs):
        seen = []

        def report(step, numbers):
            seen.append((step, numbers.get("validation")))
            if step == stop:
                signal.raise_signal(signal.SIGINT)

        arguments = {"num_steps": 400, "validate_every": 120, "report_fn": report, **kwargs}
        try:
            return seen, run(**arguments)
        except TrainingInterrupted:
            return seen, None

    straight, expected = go()
    assert [step for step, value in straight if value is not None] == [120, 240, 360, 400]
    first, _ = go(50, checkpointer=Checkpointer(tmp_path))
    rest, result = go(checkpointer=Checkpointer(tmp_path))
    assert first + rest == straight
    chex.assert_trees_all_equal(result, expected)


def test_an_optimizer_state_of_every_kind_is_resumed(tmp_path):
    def init(params):
        half = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), params)
        return {"key": jax.random.key(5), "count": 0, "none": jnp.zeros((0, 2)), "half": half}

    def update(gradient, state, params=None):
        key, draw = jax.random.split(state["key"])
        half = jax.tree.map(lambda a, g: (a + g).astype(a.dtype), state["half"], gradient)
        noise = 0.01 * jax.random.normal(draw, ())
        updates = jax.tree.map(lambda g: -0.01 * g + noise, gradient)
        return updates, {**state, "key": key, "count": state["count"] + 1, "half": half}

    optimizer = optax.GradientTransformation(init, update)
    kwargs = {"optimizer": optimizer, "validate_fn": None}
    run(num_steps=3, checkpointer=Checkpointer(tmp_path), **kwargs)
    resumed = run(num_steps=9, checkpointer=Checkpointer(tmp_path), **kwargs)
    chex.assert_trees_all_equal(resumed.params, run(num_steps=9, **kwargs).params)


def other_loss(key, params, batch, step):
    return loss_fn(key, params, batch, step) + 0.1 * jnp.sum(params["mean"] ** 2)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"source": {"x": DATA["x"] + 1}}, "data x"),
        ({"source": {**DATA, "y": DATA["x"]}}, "it lacks data y and has nothing beside"),
        ({"key": jax.random.key(1)}, "key"),
        ({"params": {"mean": jnp.ones(2)}}, "start of the parameters"),
        ({"batch_size": 4}, "batch_size is 8 there and 4 here"),
        ({"loss_fn": other_loss}, "program of loss_fn and optimizer"),
        ({"optimizer": optax.adam(0.06)}, "program of loss_fn and optimizer"),
        ({"optimizer": optax.sgd(0.05)}, "program of loss_fn and optimizer"),
        ({"validate_fn": None}, "has validate_fn is True there and False here"),
    ],
)  # fmt: skip
def test_a_finished_training_of_something_else_is_refused_by_name(finished, change, name):
    with pytest.raises(CheckpointError, match=f"belongs to something else: {name}"):
        run(checkpointer=Checkpointer(finished), **{"num_steps": 10, **change})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(num_steps=10, checkpointer=Checkpointer(folder))
    return folder


def test_a_finished_training_goes_on_to_more_steps_but_not_to_fewer(tmp_path):
    run(num_steps=20, checkpointer=Checkpointer(tmp_path))
    longer = run(checkpointer=Checkpointer(tmp_path))
    chex.assert_trees_all_equal(longer, run())
    with pytest.raises(ValueError, match=r"num_steps must be at least 60, the step .*, got 20"):
        run(num_steps=20, checkpointer=Checkpointer(tmp_path))


def test_a_second_training_in_the_same_folder_is_refused(tmp_path):
    def report(step, numbers):
        with pytest.raises(CheckpointError, match="is in use by another run, process"):
            run(checkpointer=Checkpointer(tmp_path))

    run(num_steps=10, checkpointer=Checkpointer(tmp_path), report_fn=report)


class Interrupted(Checkpointer):
    """Signals arrive while a save runs."""

    def __init__(self, directory, num_signals, step):
        super().__init__(directory)
        self.num_signals, self.step = num_signals, step

    def save(self, step, state, settings=None):
        if step == self.step:
            for _ in range(self.num_signals):
                signal.raise_signal(signal.SIGINT)  # at once; two that wait would be one
        super().save(step, state, settings)


def test_a_second_interrupt_while_a_save_runs_is_one_line_that_says_what_is_on_disk(
    tmp_path, capfd
):
    with pytest.raises(TrainingInterrupted):
        run(checkpointer=Checkpointer(tmp_path), report_fn=interrupt_at(20))
    with pytest.raises(TrainingInterrupted, match="Interrupted at step 30; the state is saved"):
        run(checkpointer=Interrupted(tmp_path, 1, step=30), report_fn=interrupt_at(30))
    assert capfd.readouterr().err.strip() == (
        f"Saving step 30; until that is done, {tmp_path} holds step 21. Once more stops at once."
    )
    assert Checkpointer(tmp_path).latest_step() == 30


def test_a_third_interrupt_stops_at_once_and_says_what_is_on_disk(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"in saving step 1; .* holds nothing\.$") as info:
        run(checkpointer=Interrupted(tmp_path, 3, step=1))
    assert info.value.__suppress_context__
    assert signal.getsignal(signal.SIGINT) is before
    assert Checkpointer(tmp_path).latest_step() is None


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
    chex.assert_trees_all_equal(result.params["seen"], np.full(64, 3.0))


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
    ("arguments", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1, got 0"),
        ({"num_steps": -3}, ValueError, "num_steps must be at least 1, got -3"),
        ({"num_steps": 1e3}, TypeError, "num_steps must be a Python integer, got 1000.0"),
        ({"validate_every": 0}, ValueError, "validate_every must be at least 1, got 0"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"patience": 3, "validate_fn": None}, ValueError, "patience counts validations: give a"),
        ({"batch_size": 65}, ValueError, "batch_size must be at most num_examples, 64, got 65"),
        ({"source": {"x": np.zeros(3), "y": 1.0}}, ValueError, "source must be arrays with one"),
        ({"source": [[1.0, 2.0]] * 64}, TypeError, "source must be an array .* got a list of 64"),
        ({"source": "words " * 20}, TypeError, "source must be an array .* got a str of 120: "),
        ({"source": b"words " * 20}, TypeError, "source must be an array .* got a bytes of 120: "),
        ({"source": {"x": np.array(["a"] * 64)}}, TypeError, "source x must hold numbers, got <U1"),
        ({"source": np.full(64, 2**40)}, ValueError, "source must fit int32, got 1099511627776 to"),
        ({"key": 0}, TypeError, r"key must be a typed key from jax\.random\.key\(seed\), got 0"),
        ({"optimizer": optax.adam}, TypeError, r"optimizer must be an Optax transformation"),
        ({"checkpointer": "runs/a"}, TypeError, "checkpointer must be a Checkpointer, got 'runs/"),
        ({"params": {"mean": jnp.zeros(2, int)}}, TypeError, r"numbers, got mean of int32\[2\]"),
        ({"loss_fn": lambda k, p, b, s: b["x"] @ p["mean"]}, ValueError,
         r"loss_fn must return a scalar, got shape \(8,\); take the mean over the batch"),
        ({"loss_fn": lambda k, p, b, s: (jnp.sum(p["mean"]), 3)}, TypeError,
         "loss_fn must return a loss, or a loss and a dict, got int beside"),
        ({"loss_fn": lambda k, p, b, s: s}, TypeError, r"one floating-point number, got int32\[\]"),
        ({"validate_fn": lambda p: p["mean"], "num_steps": 1}, ValueError,
         r"validate_fn must return a scalar, got shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        run(**arguments)
