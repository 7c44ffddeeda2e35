"""Tables gathered from rows that ran apart."""

import dataclasses
import json
import sys
import types

import pytest

from experiments import _publish, _tables


@dataclasses.dataclass(frozen=True)
class Row:
    """A pretend row."""

    reference: str


@pytest.fixture
def table(monkeypatch):
    module = types.ModuleType("experiments.pretend")
    module.ROWS = {"a/x": Row("1.0 (A)"), "b/y": Row("2.0 (B)"), "b/smoke": Row("")}
    monkeypatch.setitem(sys.modules, "experiments.pretend", module)


def write_run(runs_dir, row, nats):
    folder = runs_dir / "pretend" / row.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    names = {"test_nats": nats, "epochs": 3.0, "minutes": 1.5, "num_params": 1000}
    metrics = {
        f"{row}/{name}": {"value": value, "standard_error": 0.1, "split": "test"}
        for name, value in names.items()
    }
    run = {"command": f"run {row}", "config": {"row": row}, "device": "cpu", "commit": "c" * 40}
    (folder / "results.json").write_text(json.dumps({"metrics": metrics, "run": run}))


def test_rows_that_ran_and_rows_that_did_not_stand_in_the_order_of_the_table(table, tmp_path):
    write_run(tmp_path, "b/y", 80.0)
    gathered = _publish.gather("pretend", tmp_path, {})
    assert list(gathered["rows"]) == ["a/x", "b/y"]
    assert gathered["rows"]["a/x"]["run"] is None
    text = _tables.table(gathered)
    assert "| a/x | not run | 1.0 (A) |" in text
    assert "`python -m experiments.pretend --row a/x`" in text
    assert "| b/y | 80.00 ± 0.10 | 2.0 (B) | 3 | 2 | 1,000 | cpu, cccccccccc, `run b/y` |" in text


def test_a_row_that_is_not_run_again_keeps_its_numbers(table, tmp_path):
    write_run(tmp_path / "first", "b/y", 80.0)
    first = _publish.gather("pretend", tmp_path / "first", {})
    write_run(tmp_path / "second", "a/x", 90.0)
    second = _publish.gather("pretend", tmp_path / "second", first)
    assert second["metrics"]["b/y/test_nats"]["value"] == 80.0
    assert second["metrics"]["a/x/test_nats"]["value"] == 90.0
    write_run(tmp_path / "third", "b/y", 79.0)
    third = _publish.gather("pretend", tmp_path / "third", second)
    assert third["metrics"]["b/y/test_nats"]["value"] == 79.0
