"""Trainings whose numbers cease to be finite."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_task import DATA, START, interrupt_at, loss_fn, run

from jaxgen.training._checkpoint import Checkpointer
from jaxgen.training._loop import NonFiniteError, TrainingInterrupted, fit


def test_nan_stops_the_training_and_names_the_step(tmp_path):
    def poisoned(key, params, batch, step):
        return loss_fn(key, params, batch, step) + jnp.where(step == 27, jnp.nan, 0.0)

    with pytest.raises(
        NonFiniteError, match=r"at step 27 the loss is nan.*last good.*step 27"
    ) as info:
        run(loss_fn=poisoned, checkpointer=Checkpointer(tmp_path))
    assert int(info.value.state.train.step) == 27
    assert np.isfinite(info.value.state.train.params["mean"]).all()
    assert Checkpointer(tmp_path).latest_step() == 27


def poison_at(step, value):
    """An optimizer whose update number `step` is infinite."""
    return optax.sgd(lambda count: jnp.where(count == step, value, 0.01))


def test_an_update_that_overflows_is_not_saved_as_good(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"params/mean is not finite after the update of step 57;"
    ) as info:
        run(optimizer=poison_at(57, jnp.inf), validate_fn=None, checkpointer=Checkpointer(tmp_path))
    straight = run(num_steps=57, optimizer=optax.sgd(0.01), validate_fn=None)
    assert int(info.value.state.train.step) == 57
    chex.assert_trees_all_equal(info.value.state.train.average, straight.params)
    assert Checkpointer(tmp_path).latest_step() == 57


def test_an_optimizer_state_that_overflows_is_seen_though_the_loss_is_finite():
    def update(gradient, state, params=None):
        return gradient, {"seen": jnp.where(jnp.isfinite(state["seen"]), 3e38, 1.0) * 1.2}

    optimizer = optax.GradientTransformation(lambda _: {"seen": jnp.ones(())}, update)
    with pytest.raises(NonFiniteError, match=r"opt_state/seen is not finite after .* step 0;"):
        run(optimizer=optimizer, num_steps=7, validate_fn=None)


def test_what_was_infinite_from_the_start_may_stay_so():
    params = {**START, "logits": jnp.array([0.0, -jnp.inf])}

    def loss(key, params, batch, step):
        return loss_fn(key, params, batch, step) - jax.nn.log_softmax(params["logits"])[0]

    result = fit(
        jax.random.key(0), params, loss, DATA, optax.sgd(0.1), num_steps=3, batch_size=8
    )  # fmt: skip
    assert result.params["logits"].tolist() == [0.0, -np.inf]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {"x": np.where(np.arange(128) == 11, np.nan, 1.0).reshape(64, 2)}},
         r"source x holds nan at \(5, 1\)"),
        ({"params": {"mean": jnp.array([0.0, jnp.inf])}}, r"params mean holds inf at \(1,\)"),
        ({"loss_fn": lambda key, p, batch, step: jnp.log(-jnp.sum(p["mean"] ** 2))},
         "Data and parameters are finite, so it comes from loss_fn"),
    ],
)  # fmt: skip
def test_a_loss_that_is_not_finite_names_where_it_comes_from(change, message):
    with pytest.raises(
        NonFiniteError, match=rf"at step \d the loss is .*; training stops. {message}"
    ):
        run(num_steps=8, validate_fn=None, **change)


def test_nan_gradient_is_seen_in_its_own_step():
    def poisoned(key, params, batch, step):
        zero = jnp.where(step == 13, 0.0, 1.0)
        return loss_fn(key, params, batch, step) + jnp.sqrt(
            jnp.sum(params["mean"] ** 2) * (1 - zero)
        )

    with pytest.raises(NonFiniteError, match=r"at step \d+ the loss"):
        run(loss_fn=poisoned)


def poisoned_at(*steps):
    """The loss, NaN at some steps."""

    def loss(key, params, batch, step):
        is_bad = jnp.any(step == jnp.array(steps))
        return loss_fn(key, params, batch, step) + jnp.where(is_bad, 0.0, 1.0) / (~is_bad)

    return loss


def test_some_steps_may_be_skipped_and_are_counted(tmp_path):
    seen = []
    arguments = {"loss_fn": poisoned_at(3, 27, 28), "validate_fn": None, "num_steps": 60}
    result = run(
        **arguments,
        max_skipped=3,
        report_fn=lambda step, numbers: seen.append((step, numbers.get("num_skipped"))),
        checkpointer=Checkpointer(tmp_path),
    )
    assert seen == [(50, 3), (60, None)]
    assert result.num_steps == 60
    assert np.isfinite(result.params["mean"]).all()
    with pytest.raises(
        NonFiniteError,
        match=r"at step 28 the loss is nan .*, and 2 steps were skipped before; .* of step 28",
    ) as info:
        run(**arguments, max_skipped=2)
    assert int(info.value.state.train.num_skipped) == 2


def test_the_count_of_skipped_steps_goes_on_after_an_interruption(tmp_path):
    arguments = {"loss_fn": poisoned_at(3, 57), "validate_fn": None, "max_skipped": 1}
    with pytest.raises(TrainingInterrupted):
        run(**arguments, report_fn=interrupt_at(50), checkpointer=Checkpointer(tmp_path))
    with pytest.raises(NonFiniteError, match=r"at step 57 .* 1 steps were skipped"):
        run(**arguments, checkpointer=Checkpointer(tmp_path))


def test_nan_validation_stops_the_training():
    with pytest.raises(NonFiniteError, match="validation at step 10 is nan"):
        run(validate_fn=lambda params: float("nan"))
