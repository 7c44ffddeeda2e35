"""Common to all experiments: reading flags, keeping a run folder, reporting numbers.

An experiment is a module with a frozen dataclass `Config` (fields `seed` and `run_dir` among them,
and a classmethod `smoke`) and `main(config) -> dict[str, Metric]`. It ends with

    if __name__ == "__main__":
        run_experiment(Config, main)

`main` opens its folder with `start(config)`, logs rows, saves figures, and returns
`run.finish(metrics)`, which writes `results.json` and prints the table.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import rich.console
import rich.table

from experiments._compilation_cache import keep_compiled_programs
from experiments._figures import drawing_digest, file_digest
from experiments._flags import parse
from experiments._launch import DryRunError, launched, start_processes, wait_for_first
from experiments._launch import evaluate as evaluate
from experiments._launch import fit as fit
from experiments._launch import is_first_process as is_first_process
from jaxgen._cli._progress import progress_bar as progress_bar
from jaxgen.core._files import write_bytes as write_bytes
from jaxgen.core._lock import lock
from jaxgen.objectives import bits_per_dim

_LOCK = ".lock"
_held: dict[pathlib.Path, contextlib.ExitStack] = {}  # the folders that this process has locked

VERSIONED = ("jaxgen", "jax", "flax", "optax", "distrax", "numpy")
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Metric(NamedTuple):
    """A number as `results.json` holds it.

    Attributes:
      value: the number; its unit is in the metric's name.
      standard_error: its standard error, or None where it has none (a byte count).
      num_examples: over how many examples it was taken.
      split: the split they came from.
    """

    value: float
    standard_error: float | None = None
    num_examples: int | None = None
    split: str | None = None


def mean_metric(values: Any, split: str) -> Metric:
    """Return the mean of one number an example, with its standard error."""
    n = len(values)
    return Metric(float(values.mean()), float(values.std(ddof=1) / n**0.5), n, split)


class Run:
    """An open run folder: `config.json`, `metrics.jsonl`, figures and at last `results.json`."""

    def __init__(self, config: Any, experiment: str) -> None:
        self.config = config
        self.experiment = experiment
        self.path = pathlib.Path(config.run_dir)
        self._files: list[tuple[str, pathlib.Path]] = []
        self._figures: dict[str, dict[str, str]] = {}
        self._writes = is_first_process()
        self._rows = _open_folder(self.path, _as_json(config)) if self._writes else []
        wait_for_first()
        steps = [(r.get("stage"), r["step"]) for r in self._rows if r.get("step") is not None]
        self._last_step: dict[str | None, int] = dict(steps)
        self._started = time.monotonic() - (self._rows[-1]["seconds"] if self._rows else 0.0)

    @property
    def seconds(self) -> float:
        """Return the seconds spent so far, those before an interruption included."""
        return time.monotonic() - self._started

    def log(self, **row: Any) -> None:
        """Append a row to `metrics.jsonl`; `stage` and `step` order the rows of a training.

        A row that a resumed run computes again replaces the one logged before the interruption.
        """
        row = {"seconds": round(self.seconds, 3), **row}
        stage, step = row.get("stage"), row.get("step")
        if step is not None and step <= self._last_step.get(stage, -1):
            self._rows = [r for r in self._rows if not _is_replaced(r, stage, step)]
            if self._writes:
                write_text(self.metrics_path, "".join(json.dumps(r) + "\n" for r in self._rows))
        self._rows.append(row)
        if step is not None:
            self._last_step[stage] = step
        if not self._writes:
            return
        try:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OSError(
                f"{self.metrics_path} could not be written: {error.strerror}; the same command "
                "goes on from what was saved before"
            ) from error

    @property
    def metrics_path(self) -> pathlib.Path:
        """Return where the rows go."""
        return self.path / "metrics.jsonl"

    @property
    def all_rows(self) -> list[dict[str, Any]]:
        """Return the rows logged for all stages, those before an interruption included."""
        return list(self._rows)

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """Return the rows logged for a stage, those before an interruption included."""
        return [row for row in self._rows if row.get("stage") == stage]

    def save_figure(self, figure: Any, name: str) -> pathlib.Path:
        """Save a figure as PNG and name it below the closing table."""
        path, partial = self.path / name, self.path / f".{name}.partial"
        if not self._writes:
            return path
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight")
        partial.replace(path)
        module = ROOT.joinpath("experiments", *self.experiment.split(".")).with_suffix(".py")
        digests = {"sha256": file_digest(path), "drawn_by": drawing_digest(module)}
        self._figures[name] = digests
        self.note("figure", path)
        return path

    def note(self, kind: str, path: pathlib.Path) -> None:
        """Remember a file to name below the closing table."""
        self._files.append((kind, path))

    def finish(self, metrics: dict[str, Metric]) -> dict[str, Metric]:
        """Write `results.json` and print the table of metrics and the files."""
        if not self._writes:
            return metrics
        results = {
            "metrics": {name: metric._asdict() for name, metric in metrics.items()},
            "run": _describe_run(self),
            "figures": self._figures,
        }
        write_text(self.path / "results.json", json.dumps(results, indent=2) + "\n")
        _release(self.path)
        _print_table(self, metrics)
        return metrics


def start(config: Any, experiment: str) -> Run:
    """Open the run folder of an experiment, named as `python -m experiments.NAME` names it.

    A finished run, or one with another configuration, is moved aside to `FOLDER.1`, `FOLDER.2`, …;
    an unfinished run with the same configuration is continued. The folder is this process's until
    the run is finished or the process ends.

    Raises:
      OSError: the folder cannot be written, or another process has a run in it.
    """
    return Run(config, experiment)


def run_experiment(
    config_class: type, main: Callable[[Any], dict[str, Metric]], *, trains: bool = False
) -> None:
    """Parse the flags into `config_class`, run, and turn expected trouble into one clear line.

    One that trains, by `fit`, also has the flags of `Launch`.
    """
    keep_compiled_programs()
    module = sys.modules[main.__module__]
    name = f"python -m {module.__spec__.name}" if module.__spec__ else None
    try:
        config, launch = parse(config_class, name, module.__doc__, trains=trains)
        if launch.processes is not None and launch.process is None:
            sys.exit(start_processes(launch))
        with launched(launch):
            main(config)
    except DryRunError as found:
        print(found)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Interrupted.'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError) as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(set JAXGEN_TRACEBACK=1 for the traceback)", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def training_bar(
    run: Run,
    stage: str,
    num_steps: int,
    *,
    description: str | None = None,
    steps_per_epoch: int | None = None,
    format_fn: Callable[[float], str] = "{:.2f} nats".format,
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Show a bar for a training and yield what `fit` takes as its `report_fn`.

    Args:
      run: gets a row for each report, with its epoch where `steps_per_epoch` is given.
      stage: the name of the rows.
      num_steps: steps in all.
      description: the name of the bar; None is the stage.
      steps_per_epoch: steps in an epoch.
      format_fn: how a loss stands beside the bar.
    """
    bar = progress_bar(description or stage, num_steps)
    with bar if is_first_process() else contextlib.nullcontext(lambda *_: None) as update:

        def report(step: int, numbers: dict[str, float]) -> None:
            epoch = {} if steps_per_epoch is None else {"epoch": step / steps_per_epoch}
            run.log(stage=stage, step=step, **epoch, **numbers)
            names = [name for name in numbers if name != "gradient_norm"]
            update(step, "  ".join(f"{name} {format_fn(numbers[name])}" for name in names))

        yield report


def nats_and_bits(num_dims: int) -> Callable[[float], str]:
    """Return how a bar shows a loss in nats of a data point of so many coordinates."""

    def show(nats: float) -> str:
        return f"{nats:.2f} nats ({bits_per_dim(-nats, num_dims):.3f} bits/dim)"

    return show


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def _open_folder(path: pathlib.Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the folder ready and return the rows of the run that it continues, if any."""
    config_path = path / "config.json"
    file = next((p for p in (path, *path.parents) if p.is_file()), None)
    if file is not None:
        raise NotADirectoryError(f"run_dir must be a folder, got {path}, where {file} is a file")
    path.mkdir(parents=True, exist_ok=True)
    _hold(path)
    if any(file.name != _LOCK for file in path.iterdir()):
        if _is_unfinished(path, config):
            return _read_rows(path / "metrics.jsonl")
        aside = next(
            p for n in range(1, 10**6) if not (p := path.with_name(f"{path.name}.{n}")).exists()
        )
        path.rename(aside)
        print(f"{path} held another run; it is now {aside}", file=sys.stderr)
        path.mkdir(parents=True, exist_ok=True)
        _hold(path)
    write_text(config_path, json.dumps(config, indent=2) + "\n")
    return []


def _hold(path: pathlib.Path) -> None:
    """Lock a folder against other processes; this one may open it again."""
    _release(path)
    _held[path.absolute()] = lock(path / _LOCK)


def _release(path: pathlib.Path) -> None:
    if held := _held.pop(path.absolute(), None):
        held.close()


def _is_unfinished(path: pathlib.Path, config: dict[str, Any]) -> bool:
    try:
        same = json.loads((path / "config.json").read_text()) == config
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return same and not (path / "results.json").exists()


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # a killed run can leave half a last line
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _is_replaced(old: dict[str, Any], stage: str | None, step: int) -> bool:
    return old.get("stage") == stage and old.get("step", -1) >= step


def _as_json(config: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(config)
    return json.loads(json.dumps(plain, default=str))


def _describe_run(run: Run) -> dict[str, Any]:
    config = _as_json(run.config)
    del config["run_dir"]  # where a run was kept says nothing about its numbers
    return {
        "experiment": run.experiment,
        "command": _command(run.experiment, run.config),
        "config": config,
        "seed": config["seed"],
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED if _installed(name)},
        },
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "seconds": round(run.seconds, 1),
    }


def _command(experiment: str, config: Any) -> str:
    """Return the command that gives this run again, with the flags that are not the default."""
    words = ["python", "-m", f"experiments.{experiment}"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "run_dir" or value == _default(field):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return shlex.join(words)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _commit() -> str | None:
    """Return the commit of the code that ran, `-dirty` where tracked files differ from it."""
    try:
        git = [
            "git",
            "-C",
            str(ROOT),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=40",
            "--exclude=*",
        ]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _print_table(run: Run, metrics: dict[str, Metric]) -> None:
    table = rich.table.Table(title=run.experiment)
    for heading in ("metric", "value", "±", "examples", "split"):
        is_text = heading in ("metric", "split")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for name, metric in metrics.items():
        error = "" if metric.standard_error is None else f"{metric.standard_error:.2g}"
        whole = float(metric.value).is_integer()
        value = f"{metric.value:,.0f}" if whole else f"{metric.value:.5g}"
        table.add_row(name, value, error, str(metric.num_examples or ""), metric.split or "")
    console = rich.console.Console()
    console.print(table)
    console.print(f"all numbers: {run.path / 'results.json'}")
    for kind, path in run._files:
        console.print(f"{kind}: {path}")
