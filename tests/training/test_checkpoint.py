import logging
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from training_trees import assert_same, every_kind

from jaxgen.training._checkpoint import Checkpointer, CheckpointError

KEY = jax.random.key(0)
STATE = {"x": np.arange(5000.0), "y": np.zeros((), np.int32)}


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
def test_loggers_are_left_as_they_were(tmp_path, level):
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        checkpointer = Checkpointer(tmp_path)
        checkpointer.save(1, {"x": jnp.zeros(2)})
        assert checkpointer.load({"x": jnp.ones(2)})[0] == 1
        with pytest.raises(CheckpointError):
            checkpointer.load({"y": jnp.ones(3)})
        checkpointer.close()
        assert [logger.level for logger in loggers] == [level, level]
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


def test_nothing_is_warned_of_where_all_is_well(tmp_path, caplog):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 1, 2, 3, 4):
        checkpointer.save(step, {"x": jnp.zeros(2)})
    assert checkpointer.load({"x": jnp.zeros(2)})[0] == 4
    checkpointer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_leaves_of_every_kind_come_back_as_they_were(tmp_path):
    tree = {**every_kind(), "int4": np.ones(2, jnp.int4), "no keys": jax.random.split(KEY, 0)}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, tree)
    assert_same(checkpointer.load(tree)[1], tree)
    for step, tree in enumerate((STATE["x"], {"": np.ones(1), "é/ü.x": np.ones(2)}, {}), 2):
        checkpointer.save(step, tree)
        found, state = checkpointer.load(tree)
        assert found == step
        assert_same(state, tree)


def test_the_template_says_where_arrays_go(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"x": jnp.asarray(STATE["y"])})
    assert isinstance(checkpointer.load({"x": np.zeros((), np.int32)})[1]["x"], np.ndarray)
    abstract = {"x": jax.ShapeDtypeStruct((), jnp.int32)}
    assert isinstance(checkpointer.load(abstract)[1]["x"], jax.Array)


@pytest.mark.parametrize(
    ("template", "difference"),
    [
        ({"x": STATE["x"]}, "it lacks nothing and has y beside"),
        ({**STATE, "y": np.zeros(1, np.int32)}, r"y is int32\[\] there and int32\[1\] here"),
        ({**STATE, "y": np.zeros((), np.float32)}, r"y is int32\[\] there and float32\[\] here"),
    ],
)
def test_another_structure_shape_or_dtype_is_refused_and_nothing_cast(
    tmp_path, template, difference
):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, STATE)
    with pytest.raises(CheckpointError, match=f"step 3 .* something else: {difference}"):
        checkpointer.load(template)


def test_other_settings_are_refused_by_name(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, STATE, {"rate": 0.1, "data": "abc"})
    assert checkpointer.load(STATE, {"rate": 0.1, "data": "abc"})[0] == 3
    assert checkpointer.load(STATE)[0] == 3
    with pytest.raises(CheckpointError, match=r"something else: rate is 0\.1 there and 0\.2 here;"):
        checkpointer.load(STATE, {"rate": 0.2, "data": "abc"})


def test_a_damaged_file_is_passed_over_aloud_or_does_not_matter(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    state = {"x": np.random.default_rng(0).normal(size=5000), "y": np.zeros((), np.int32)}
    for step in (1, 2):
        checkpointer.save(step, state)
    steps = []
    for file in [p for p in (tmp_path / "2").rglob("*") if p.is_file() and p.stat().st_size]:
        content = bytearray(file.read_bytes())
        for position in (len(content) // 3, -len(content) // 3):
            content[position] ^= 0x10
            file.write_bytes(content)
            with warnings.catch_warnings(record=True, action="always") as told:
                step, found = checkpointer.load(state)
            assert_same(found, state)
            assert len(told) == 2 - step
            steps.append(step)
            content[position] ^= 0x10
        file.write_bytes(content)
    assert {1, 2} == set(steps)
    assert checkpointer.latest_step() == 1
    checkpointer.save(2, state)
    assert checkpointer.latest_step() == 2
    assert checkpointer.load(state)[0] == 2


def test_silent_changes_of_an_array_are_seen_and_the_array_named(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, STATE)
    content = ocp.load(tmp_path / "1")
    content["leaves/x"][17] += 1
    checkpointer._checkpointer.save(2, content, force=True)
    with pytest.warns(UserWarning, match="step 2 .*: its digests are not those of x$"):
        assert checkpointer.load(STATE)[0] == 1


def test_damaged_metadata_are_passed_over_aloud(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, STATE)
    for file in [p for p in (tmp_path / "2").rglob("*") if p.is_file()]:
        file.write_bytes(file.read_bytes()[:7])
    with pytest.warns(UserWarning, match="passing over the checkpoint of step 2 under"):
        assert checkpointer.load(STATE)[0] == 1


def test_a_foreign_checkpoint_is_refused_in_our_words(tmp_path):
    ocp.training.Checkpointer(tmp_path).save(7, {"weights": np.zeros(3)}, force=True)
    with (
        pytest.warns(UserWarning, match="passing over"),
        pytest.raises(CheckpointError, match=r"no checkpoint under .* step 7: it is damaged, or"),
    ):
        Checkpointer(tmp_path).load(STATE)


def test_one_process_at_a_time_holds_a_folder_and_its_death_lets_go(tmp_path):
    held = f"""
import pathlib, sys
sys.path.insert(0, {str(sys.path[0])!r})
from jaxgen.core._lock import lock
file = lock(pathlib.Path({str(tmp_path)!r}) / ".lock")
print("held", flush=True)
sys.stdin.read()
"""
    checkpointer = Checkpointer(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match=f"in use by another run, process {other.pid}:"),
            checkpointer.locked(),
        ):
            pass
        other.kill()
    with checkpointer.locked(), pytest.raises(CheckpointError), checkpointer.locked():
        pass
    with checkpointer.locked():
        pass


def test_what_another_training_is_writing_is_left_alone(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, STATE)
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    with checkpointer.locked():
        assert Checkpointer(tmp_path).load(STATE)[0] == 1
        assert half.exists()
    assert Checkpointer(tmp_path).load(STATE)[0] == 1
    assert not half.exists()
