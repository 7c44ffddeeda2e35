import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments import _harness as harness
from jaxgen.core._lock import lock


@dataclasses.dataclass(frozen=True)
class Config:
    """A pretend experiment."""

    seed: int = 0
    """Seed."""
    steps: int = 3
    """Steps."""
    run_dir: pathlib.Path = pathlib.Path("runs/pretend")
    """Folder."""


@pytest.fixture
def config(tmp_path):
    return Config(run_dir=tmp_path / "run")


def read_rows(run):
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_results_hold_metrics_and_all_that_reproduces_them(config):
    run = harness.start(dataclasses.replace(config, steps=5), "pretend")
    run.finish({"made/test_nats": harness.mean_metric(np.array([1.0, 2.0, 3.0]), "test")})
    results = json.loads((config.run_dir / "results.json").read_text())
    assert results["metrics"]["made/test_nats"] == {
        "value": 2.0,
        "standard_error": pytest.approx(1 / 3**0.5),
        "num_examples": 3,
        "split": "test",
    }
    keys = {"experiment", "command", "config", "seed", "commit", "versions", "device", "seconds"}
    assert set(results["run"]) == keys
    assert results["run"]["command"] == "python -m experiments.pretend --steps 5"


def test_unfinished_run_with_the_same_config_is_continued(config):
    first = harness.start(config, "pretend")
    for step in (1, 2, 3):
        first.log(stage="fit", step=step, loss=float(step))
    again = harness.start(config, "pretend")
    assert [row["step"] for row in again.rows("fit")] == [1, 2, 3]
    again.log(stage="fit", step=2, loss=2.0)  # computed once more after the last checkpoint
    again.log(stage="fit", step=3, loss=3.5)
    assert [(row["step"], row["loss"]) for row in read_rows(again)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.5),
    ]


def test_half_written_last_row_is_dropped(config):
    run = harness.start(config, "pretend")
    run.log(stage="fit", step=1)
    with run.metrics_path.open("a") as file:
        file.write('{"seconds": 2.0, "sta')
    assert [row["step"] for row in harness.start(config, "pretend").rows("fit")] == [1]


@pytest.mark.parametrize("finished", [True, False])
def test_other_runs_are_moved_aside_and_kept(config, finished):
    run = harness.start(config, "pretend")
    run.log(stage="fit", step=1)
    if finished:
        run.finish({})
    other = config if finished else dataclasses.replace(config, seed=1)
    assert harness.start(other, "pretend").rows("fit") == []
    kept = config.run_dir.with_name("run.1")
    assert json.loads((kept / "metrics.jsonl").read_text())["step"] == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_in_the_folder_of_another_process_is_refused_and_moves_nothing(config, seed):
    harness.start(config, "pretend").log(stage="fit", step=1)
    harness._release(config.run_dir)  # so another process can be the first
    program = (
        "import pathlib, sys; sys.path.insert(0, {root!r}); from jaxgen.core._lock import lock; "
        "held = lock(pathlib.Path({path!r})); print('held', flush=True); sys.stdin.read()"
    ).format(root=str(harness.ROOT), path=str(config.run_dir / ".lock"))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"run is in use by another run, process {other.pid}:"):
            harness.start(dataclasses.replace(config, seed=seed), "pretend")
        other.kill()
    assert [path.name for path in config.run_dir.parent.iterdir()] == ["run"]
    assert len(harness.start(config, "pretend").rows("fit")) == 1


def test_a_row_that_cannot_be_logged_says_where_and_what_to_do(config):
    run = harness.start(config, "pretend")
    run.metrics_path.mkdir()
    with pytest.raises(
        OSError, match=rf"^{run.metrics_path} could not be written: .*; the same command goes on"
    ):
        run.log(stage="train", step=1)


def test_a_finished_run_lets_go_of_its_folder(config):
    harness.start(config, "pretend").finish({})
    with lock(config.run_dir / ".lock"):
        pass


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_folder_that_cannot_be_made_is_one_clear_line(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["pretend", "--run-dir", str(tmp_path / folder)])
    monkeypatch.delenv("JAXGEN_TRACEBACK", raising=False)

    def main(config):
        harness.start(config, "pretend")

    with pytest.raises(SystemExit) as exit_info:
        harness.run_experiment(Config, main)
    assert exit_info.value.code == 2
    assert "error: run_dir must be a folder, got " in capsys.readouterr().err


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_process_alone_shows_bits_and_speed_and_logs_rows(
    config, is_first, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(harness, "is_first_process", lambda: is_first)
    run = harness.start(config, "pretend")
    with harness.training_bar(run, "train", 2, format_fn=harness.nats_and_bits(64)) as report:
        for step in (1, 2):
            report(step, {"loss": 64 * np.log(2), "gradient_norm": 1.0})
    shown = capsys.readouterr().err
    if is_first:
        assert "train" in shown
        assert "2/2" in shown
        assert re.search(r"\d/s .*loss 44.36 nats \(1.000 bits/dim\)", shown)
        assert [row["step"] for row in read_rows(run)] == [1, 2]
    else:
        assert shown == ""


def test_unknown_flag_exits_with_usage(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretend", "--stepz", "3"])
    with pytest.raises(SystemExit) as exit_info:
        harness.run_experiment(Config, lambda config: {})
    assert exit_info.value.code == 2
    assert "--steps" in capsys.readouterr().err  # tyro proposes what was meant


def test_help_fills_the_docstring_and_gives_the_command(capsys, monkeypatch):
    doc = "Shows.\n\n    python -m x\n    python -m y\n\nIt is\n12 lines `long`.\n"
    monkeypatch.setattr(sys.modules[__name__], "__doc__", doc)
    monkeypatch.setattr("sys.argv", ["pretend", "--help"])
    with pytest.raises(SystemExit) as exit_info:
        harness.run_experiment(Config, lambda config: {})
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    assert "Shows.\n\n    python -m x\n    python -m y\n\nIt is 12 lines `long`.\n" in printed
    assert f"usage: python -m {__name__} " in printed
