"""Every experiment runs in its smoke form and says what a reader needs to know."""

import ast
import dataclasses
import importlib
import itertools
import json
import re
import shlex
import subprocess
import sys
import typing

import jax
import pytest

from experiments import _harness as harness
from experiments.__main__ import discover
from experiments._flags import Launch, parse, stand_in

DEMO = "digits"  # what `make demo` runs


def smoke_runs():
    """All experiments; those that `make test` leaves out are marked."""
    return [
        pytest.param(name, marks=() if name == DEMO else pytest.mark.slow) for name in discover()
    ]


@pytest.mark.parametrize("name", smoke_runs())
def test_smoke(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"experiments.{name}")
    config = dataclasses.replace(module.Config.smoke(), run_dir=tmp_path / "run")
    # Experiments are programs: they may broadcast as NumPy does.
    with jax.numpy_rank_promotion("allow"):
        metrics = module.main(config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["metrics"]) == set(metrics)
    assert results["run"]["experiment"] == name


@pytest.mark.parametrize("name", discover())
def test_the_command_of_a_run_gives_its_settings_again(name, monkeypatch):
    """Settings are in their ranges, and have flags that say them."""
    module = importlib.import_module(f"experiments.{name}")
    config = module.Config.smoke()
    words = shlex.split(harness._command(name, config))
    assert words[:3] == ["python", "-m", f"experiments.{name}"]
    monkeypatch.setattr("sys.argv", words[2:])
    assert parse(type(config), None, None, trains=True) == (config, Launch())


@pytest.mark.parametrize("name", discover())
def test_docstring_gives_command_minutes_and_expectation(name):
    docstring = ast.get_docstring(ast.parse(discover()[name].read_text()))
    assert f"python -m experiments.{name}" in docstring
    assert "minute" in docstring
    assert "xpected" in docstring


@pytest.mark.parametrize("name", discover())
def test_every_flag_is_explained(name):
    module = importlib.import_module(f"experiments.{name}")
    tree = ast.parse(discover()[name].read_text())
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
    explained = {
        field.target.id
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    assert explained == {field.name for field in dataclasses.fields(module.Config)}


@pytest.mark.parametrize("name", discover())
def test_help_is_of_the_fields_that_there_are(name):
    config = importlib.import_module(f"experiments.{name}").Config
    shown = stand_in(ast.parse(discover()[name].read_text()))
    assert typing.get_type_hints(shown) == typing.get_type_hints(config)
    for field, other in zip(dataclasses.fields(shown), dataclasses.fields(config), strict=True):
        assert field.default == other.default


def test_help_is_what_the_module_would_print_and_imports_nothing_that_computes(monkeypatch, capsys):
    command = [sys.executable, "-X", "importtime", "-m", "experiments.iwae", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tyro" in found.stderr
    assert [name for name in ("jax", "numpy", "matplotlib") if f" {name}\n" in found.stderr] == []
    module = importlib.import_module("experiments.iwae")
    monkeypatch.setattr("sys.argv", ["iwae", "--help"])
    with pytest.raises(SystemExit):
        harness.run_experiment(module.Config, module.main, trains=True)
    printed = capsys.readouterr().out  # in other boxes than a pipe gets
    assert re.findall(r"[\w./]+", found.stdout) == re.findall(r"[\w./]+", printed)
