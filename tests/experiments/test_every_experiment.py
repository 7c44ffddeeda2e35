"""Every experiment runs in its smoke form and says what a reader needs to know."""

import ast
import dataclasses
import importlib
import itertools
import json

import jax
import pytest

from experiments.__main__ import discover


def smoke_runs():
    """All experiments; the benchmarks are marked."""
    return [
        pytest.param(name, marks=pytest.mark.benchmark if "benchmarks" in name else ())
        for name in discover()
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
