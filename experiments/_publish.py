"""Gather the rows of a table, each run in a folder of its own, into one results file.

    python -m experiments._publish autoregressive_images

Reads `runs/NAME/*/results.json` and writes `experiments/results/NAME.json`: the metrics of all rows
side by side, and for each row the run that gave them. A row that was not run again keeps what the
file said of it; one that never ran stands there as not run, with the command that would run it.
"""

import dataclasses
import importlib
import json
import pathlib
from typing import Any

import tyro

from experiments._harness import ROOT, write_text

RESULTS = ROOT / "experiments" / "results"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which table to gather."""

    name: tyro.conf.Positional[str]
    """The experiment, which has a dictionary `ROWS`."""
    runs_dir: pathlib.Path = pathlib.Path("runs")
    """Where the folders of the runs are."""


def gather(name: str, runs_dir: pathlib.Path, old: dict[str, Any]) -> dict[str, Any]:
    """Return a results file: rows in the order of the experiment, metrics of all that ran."""
    table = importlib.import_module(f"experiments.{name}").ROWS
    metrics, rows = dict(old.get("metrics", {})), {}
    found = {}
    for path in sorted((runs_dir / name).glob("*/results.json")):
        results = json.loads(path.read_text())
        found[results["run"]["config"]["row"]] = results
    for row, definition in table.items():
        if not definition.reference:
            continue  # a row without a published number is not part of the table
        run = old.get("rows", {}).get(row, {}).get("run")
        if row in found:
            run = found[row]["run"]
            metrics = {k: v for k, v in metrics.items() if not k.startswith(f"{row}/")}
            metrics |= found[row]["metrics"]
        command = run["command"] if run else f"python -m experiments.{name} --row {row}"
        rows[row] = {"reference": definition.reference, "command": command, "run": run}
    return {"metrics": metrics, "rows": rows}


def main(options: Options) -> None:
    """Write the results file."""
    path = RESULTS / f"{options.name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    gathered = gather(options.name, options.runs_dir, old)
    write_text(path, json.dumps(gathered, indent=2) + "\n")
    ran = [row for row, entry in gathered["rows"].items() if entry["run"]]
    print(f"{path}: {len(ran)} of {len(gathered['rows'])} rows ran")


if __name__ == "__main__":
    main(tyro.cli(Options))
