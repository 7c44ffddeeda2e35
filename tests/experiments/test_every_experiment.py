"""Every experiment runs in its smoke form and says what a reader needs to know."""

import ast
import dataclasses
import importlib
import itertools
import json
import shlex

import jax
import pytest

from experiments import _harness as harness
from experiments.__main__ import discover
from experiments._launch import Launch

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
    assert harness._parsed(type(config), None, trains=True) == (config, Launch())


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
