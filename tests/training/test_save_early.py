"""The first checkpoints of a start, for who is cut off again and again."""

import types

import chex
import pytest
from training_task import run

from jaxgen.training._checkpoint import Checkpointer
from jaxgen.training._feed import InMemory


class CutOffError(Exception):
    """As a kill: nothing more is done."""


class UntilFirstSave(Checkpointer):
    """Its process ends behind the first save."""

    def save(self, step, state, settings=None):
        super().save(step, state, settings)
        raise CutOffError


class Noting(Checkpointer):
    """Notes what it saves."""

    def __init__(self, directory):
        super().__init__(directory)
        self.steps = []

    def save(self, step, state, settings=None):
        self.steps.append(step)
        super().save(step, state, settings)


def test_a_training_cut_off_behind_every_first_save_ends_with_the_same_numbers(tmp_path):
    arguments = {"num_steps": 5, "validate_every": 3}
    for step in range(1, 6):
        with pytest.raises(CutOffError):
            run(**arguments, checkpointer=UntilFirstSave(tmp_path))
        assert Checkpointer(tmp_path).latest_step() == step
    again = run(**arguments, checkpointer=Checkpointer(tmp_path))
    chex.assert_trees_all_equal(again, run(**arguments))


def test_saves_come_behind_the_first_step_and_then_at_longer_and_longer_pauses(
    tmp_path, monkeypatch
):
    """By a clock on which a step takes a second; what is reported is what it is without saves."""
    now, reported, checkpointer = [0.0], [], Noting(tmp_path)

    class Slow(InMemory):
        def batches(self, first, length_fn):
            now[0] = first + length_fn(first)
            return super().batches(first, length_fn)

    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("jaxgen.training._loop.time", clock)
    monkeypatch.setattr("jaxgen.training._feed.InMemory", Slow)
    run(
        num_steps=200,
        validate_fn=None,
        checkpointer=checkpointer,
        report_fn=lambda step, numbers: reported.append(step),
    )
    assert checkpointer.steps == [1, 8, 32, 100, 150, 200]
    assert reported == [50, 100, 150, 200]
