"""The flags of trainings."""

import contextlib
import json
import pathlib
import subprocess
import sys

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from experiments import _harness as harness
from experiments import _launch as launch_module
from experiments._flags import Launch
from experiments._launch import DryRunError, launched

DATA = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


def loss_fn(key, mean, batch, step):
    return jnp.mean((batch - mean[None]) ** 2)


def fit(**kwargs):
    arguments = random.key(0), jnp.zeros(3), loss_fn, DATA, optax.adam(0.1)
    return harness.fit(*arguments, num_steps=60, batch_size=8, **kwargs)


def test_devices_change_no_number_and_what_is_fitted_lies_on_one():
    plain = fit()
    for launch in (Launch(devices=4), Launch(devices=8, fully_sharded=True)):
        with launched(launch):
            found = fit()
            rows = harness.evaluate(lambda x: 2 * x, DATA, batch_size=16)
        chex.assert_trees_all_close(found.params, plain.params, rtol=1e-5)
        chex.assert_trees_all_close(rows, 2 * DATA, rtol=1e-7)
        assert len(found.params.devices()) == 1
    assert launch_module.mesh() is None


def test_a_dry_run_trains_nothing_and_says_what_it_would_take():
    with launched(Launch(dry_run=True)), pytest.raises(
        DryRunError, match=r"3 parameters; .* MiB and .* FLOPs a step .* for 60 steps"
    ):  # fmt: skip
        fit(report_fn=lambda *_: pytest.fail("a step was reported"))


@pytest.mark.parametrize(
    ("num_reports", "expected"),
    [(5, [0, "start", 1, 2, "stop", 3, 4]), (2, [0, "start", 1, "stop"])],
)
def test_a_profile_is_of_two_dispatches_or_what_there_is(monkeypatch, num_reports, expected):
    seen = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder, **_: seen.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: seen.append("stop"))
    with contextlib.ExitStack() as stack:
        report = launch_module._profiled("folder", stack)
        for i in range(num_reports):
            report(i, {})
            seen.append(i)
    assert sorted(seen, key=str) == sorted(expected, key=str)
    assert seen.index("stop") == {5: 4, 2: 3}[num_reports]


def test_compiled_programs_are_kept_where_it_is_said(tmp_path):
    code = (
        "import pathlib, sys, jax\nfrom experiments._launch import Launch, launched\n"
        "with launched(Launch(compilation_cache=pathlib.Path(sys.argv[1]))):\n"
        "    jax.jit(lambda x: 3 * x)(2.0)"
    )
    root = pathlib.Path(launch_module.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=root)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": 0}, "devices must be at least 1"),
        ({"process": 0}, "process needs --processes and --coordinator"),
        ({"process": -1}, "process must be at least 0"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        Launch(**flags)


def test_more_devices_than_there_are_are_refused():
    with launched(Launch(devices=9)), pytest.raises(ValueError, match="at most 8, got 9"):
        fit()


def test_processes_are_started_here_with_their_numbers(monkeypatch):
    commands = []

    class Popen:
        def __init__(self, command):
            commands.append(command)

        def wait(self):
            return len(commands) - 1

    monkeypatch.setattr("subprocess.Popen", Popen)
    monkeypatch.setattr(sys, "argv", ["experiment", "--processes", "2"])
    assert launch_module.start_processes(Launch(processes=2)) == 1
    assert [command[-1] for command in commands] == ["0", "1"]
    assert len({command[command.index("--coordinator") + 1] for command in commands}) == 1


@pytest.mark.slow
def test_a_command_on_two_processes_of_two_devices_trains_to_the_numbers_of_one(tmp_path):
    found = []
    for name, flags in (("one", ""), ("four", "--processes 2 --devices 2 --fully-sharded")):
        sizes = "--sides 2 --num-hidden 8 --num-steps 100 --log2-samples 3 --num-replicates 2"
        folders = ["--run-dir", tmp_path / name, "--compilation-cache", tmp_path / "programs"]
        command = [sys.executable, "-m", "experiments.sampling_uniforms", *sizes.split()]
        root = pathlib.Path(launch_module.__file__).parent.parent
        subprocess.run([*command, *flags.split(), *folders], check=True, cwd=root, timeout=500)
        results = json.loads((tmp_path / name / "results.json").read_text())
        found.append(results["metrics"]["4_dims/validation_nats"]["value"])
    chex.assert_trees_all_close(found[1], found[0], rtol=1e-5)
