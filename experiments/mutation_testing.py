"""Change the library in small ways, one at a time, and see whether its tests turn red.

    python -m experiments.mutation_testing

About 30 minutes on two CPU cores. A sample of all single changes to samplers, estimators,
objectives, coding and criticism: a sign, a comparison, a number, a condition, a reduction. Each is
tried against the tests of its module in a copy of the project; an error, a failure or tests
that do not end kill it. Where a module has long tests, a first try takes the shortest, half a
minute of them. Expected: at least 75 % killed. `survivors.txt` shows the rest, which leave the
results as they are, or a test is missing. The survivors of a finished run are tried again, by
new tests and by more of the longer ones, less those whose line is gone, with

    python -m experiments.mutation_testing --again runs/mutation_testing --run-dir runs/again
"""

import ast
import concurrent.futures
import dataclasses
import itertools
import json
import os
import pathlib
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from experiments import _harness as harness
from experiments._harness import ROOT, Metric
from jaxgen.core import check_count

PACKAGES = ("samplers", "estimators", "objectives", "coding", "criticism")
PATIENCE = (1.5, 30.0)
"""Tests no longer end that compute for so many times what they took, and seconds on top."""
LATE = (-signal.SIGPROF, -signal.SIGALRM)
"""Exit statuses of tests that do not end."""
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
ENOUGH_SECONDS, AGAIN_SECONDS = 25.0, 90.0
"""A change meets the shortest tests, no more of them than take so long together; when it is tried
again, more of them, after all new ones."""
GREEN = (0, 5)
"""Exit statuses of pytest: all tests passed, or there were none."""
MOST_SECONDS = 900.0
"""For the tests of a file without a change."""
CALLS = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "sum": "mean",
    "mean": "sum",
    "any": "all",
    "all": "any",
    "log1p": "log",
    "expm1": "exp",
    "argmax": "argmin",
    "argmin": "argmax",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How many changes, and of what."""

    seed: int = 0
    """Which changes are sampled."""
    run_dir: pathlib.Path = pathlib.Path("runs/mutation_testing")
    """Folder of the run."""
    num_mutants: int = 400
    """Changes to try."""
    num_workers: int = 2
    """Copies of the project that are tested at once."""
    package: str | None = None
    """One package alone; None takes all five."""
    again: pathlib.Path | None = None
    """Folder of a finished run whose survivors are tried again, by new tests and longer ones."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("num_mutants", self.num_mutants)
        check_count("num_workers", self.num_workers)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(num_mutants=1, num_workers=1, package="criticism", seed=39)


class Mutant(NamedTuple):
    """One change.

    Attributes:
      path: the module, from the root of the project.
      line: where in it.
      column: and where in the line.
      text: the line, without what it is indented by.
      before: the changed expression as it was.
      after: and as it is.
      source: the whole module with the change.
    """

    path: str
    line: int
    column: int
    text: str
    before: str
    after: str
    source: str


def main(config: Config) -> dict[str, Metric]:
    """Try each change; see the module docstring."""
    run = harness.start(config, "mutation_testing")
    earlier = [] if config.again is None else rows_of(config.again, "mutant")
    killed_before = [row for row in earlier if row["killed"]]
    found = [found_again(row) for row in earlier if not row["killed"]]
    mutants = sampled(config) if config.again is None else [m for m in found if m is not None]
    tried = {identity(row) for row in run.rows("mutant")}
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(config.num_workers) as pool,
        harness.progress_bar("mutants", len(mutants)) as update,
    ):
        servers: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for i in range(config.num_workers):
            servers.put(Server(copied(pathlib.Path(folder) / str(i)), run))

        def attempt(mutant: Mutant) -> None:
            server = servers.get()
            if identity(mutant._asdict()) not in tried:
                server.test(mutant)
            servers.put(server)
            rows = run.rows("mutant")
            update(len(rows), f"{sum(row['killed'] for row in rows)} killed")

        list(pool.map(attempt, mutants))
        for _ in range(config.num_workers):
            servers.get().close()
    rows = run.rows("mutant")
    write_survivors(run, rows)
    metrics = scores(killed_before + rows, "killed")
    if earlier:
        metrics |= scores(earlier, "killed before")
        metrics["gone"] = Metric(found.count(None), None, len(earlier))
    return run.finish(metrics)


_logging = threading.Lock()


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells one change from another."""
    return tuple(row[name] for name in ("path", "line", "column", "before", "after"))


def rows_of(run_dir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
    """Return what a finished run says of each change, or of each file of tests.

    Raises:
      ValueError: there is no finished run.
    """
    if not (run_dir / "results.json").exists():
        raise ValueError(f"again must be the folder of a finished run, got {run_dir}")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


def found_again(row: dict[str, Any]) -> "Mutant | None":
    """Return an earlier run's change, of the module as it is now; None where its line is gone."""
    path = ROOT / row["path"]
    lines = path.read_text().splitlines()
    mutants = [
        mutant_at(path, i)
        for i, node in enumerate(ast.walk(code_of(path)))
        if isinstance(node, ast.expr | ast.stmt)
        and is_changeable(node)
        and lines[node.lineno - 1].strip() == row["text"]
        and ast.unparse(node) == row["before"]
    ]
    same = [mutant for mutant in mutants if mutant.after == row["after"]]
    distances = [(abs(m.column - row["column"]), abs(m.line - row["line"])) for m in same]
    return same[distances.index(min(distances))] if same else None


def write_survivors(run: harness.Run, rows: list[dict[str, Any]]) -> None:
    """Write a line for each change that no test saw."""
    survivors = sorted(identity(row) for row in rows if not row["killed"])
    lines = [f"{path}:{line}: {was}  ->  {now}\n" for path, line, _, was, now in survivors]
    harness.write_text(run.path / "survivors.txt", "".join(lines))
    run.note("survivors", run.path / "survivors.txt")


def scores(rows: list[dict[str, Any]], name: str) -> dict[str, Metric]:
    """Return the share that was killed, of each package and of all."""
    metrics = {}
    for package in (*PACKAGES, ""):
        killed = [row["killed"] for row in rows if row["path"].startswith(f"jaxgen/{package}")]
        if killed:
            label = f"{name}/{package or 'all'}"
            metrics[label] = Metric(sum(killed) / len(killed), None, len(killed))
    return metrics


def sampled(config: Config) -> list[Mutant]:
    """Return a sample of all changes."""
    packages = PACKAGES if config.package is None else (config.package,)
    places = [
        (path, index)
        for package in packages
        for path in sorted((ROOT / "jaxgen" / package).rglob("_[!_]*.py"))
        for index, node in enumerate(ast.walk(code_of(path)))
        if is_changeable(node)
    ]
    random.Random(config.seed).shuffle(places)
    return [mutant_at(path, index) for path, index in places[: config.num_mutants]]


def code_of(path: pathlib.Path) -> ast.Module:
    """Read a module, without the types, which no test is for."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.AnnAssign):  # fields have their types still
            for part in ast.walk(node.annotation):
                part.is_type = True  # type: ignore[attr-defined]
    return tree


def mutant_at(path: pathlib.Path, index: int) -> Mutant:
    """Return the change of one node of a module."""
    tree = code_of(path)
    node: Any = list(ast.walk(tree))[index]
    before, name = ast.unparse(node), str(path.relative_to(ROOT))
    change(node)
    after, source = ast.unparse(node), ast.unparse(tree)
    text = path.read_text().splitlines()[node.lineno - 1].strip()
    return Mutant(name, node.lineno, node.col_offset, text, before, after, source)


def is_changeable(place: ast.AST) -> bool:
    """Whether there is a way to change a node."""
    node: Any = place  # each kind has fields of its own
    if hasattr(node, "is_type"):
        return False
    match place:
        case ast.BinOp() | ast.BoolOp():
            return type(node.op) in SWAPS
        case ast.Compare():
            return type(node.ops[0]) in SWAPS
        case ast.Constant():
            return isinstance(node.value, bool | int | float)
        case ast.UnaryOp():
            return isinstance(node.op, ast.USub)
        case ast.Call(func=ast.Attribute()):
            return node.func.attr in CALLS or (node.func.attr == "where" and len(node.args) == 3)
    return isinstance(place, ast.If | ast.IfExp)


def change(place: ast.AST) -> None:
    """Change a node in place."""
    node: Any = place  # each kind has fields of its own
    match place:
        case ast.BinOp() | ast.BoolOp():
            node.op = SWAPS[type(node.op)]()
        case ast.Compare():
            node.ops[0] = SWAPS[type(node.ops[0])]()
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant():
            node.value = node.value + 1 if isinstance(node.value, int) else 1.5 * node.value + 0.1
        case ast.UnaryOp():
            node.op = ast.UAdd()
        case ast.Call() if node.func.attr == "where":
            node.args = [node.args[0], node.args[2], node.args[1]]
        case ast.Call():
            node.func.attr = CALLS[node.func.attr]
        case _:
            node.test = ast.UnaryOp(ast.Not(), node.test)


def copied(folder: pathlib.Path) -> pathlib.Path:
    """Copy the library and its tests to a folder, with links to all else that they need."""
    for name in ("jaxgen", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("experiments", "docs", "pyproject.toml", "README.md", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    return folder


ELSEWHERE = {
    "jaxgen/coding/_code.py": ["tests/coding/test_chain.py", "tests/coding/test_bits_back.py"],
    "jaxgen/coding/_decisions.py": ["tests/coding/test_portable.py"],
    "jaxgen/coding/_file.py": ["tests/coding/test_chain.py", "tests/coding/test_bits_back.py"],
    "jaxgen/coding/_inspect.py": ["tests/coding/test_chain.py", "tests/coding/test_bits_back.py"],
    "jaxgen/coding/_latents.py": ["tests/coding/test_bits_back.py"],
    "jaxgen/coding/_stack.py": ["tests/coding/test_chain.py", "tests/coding/test_bits_back.py"],
    "jaxgen/criticism/_findings.py": ["tests/criticism/test_criticise.py"],
    "jaxgen/criticism/_simulation.py": ["tests/criticism/test_criticise.py"],
    "jaxgen/objectives/_elbo.py": ["tests/objectives/test_linear_gaussian.py"],
    "jaxgen/objectives/_multi_sample.py": [
        "tests/objectives/test_linear_gaussian.py",
        "tests/objectives/test_bound_gradients.py",
    ],
    "jaxgen/objectives/_vector_quantization.py": ["tests/models/latent/test_vector_quantized.py"],
    "jaxgen/samplers/_refill.py": [
        "tests/samplers/test_refill.py",
        "tests/samplers/test_gamma.py",
        "tests/samplers/test_rejection.py",
    ],
}
"""Where a module is tested that has no test file of its own name."""


def tests_of(path: str) -> list[str]:
    """Return the test files of a module: those of its name, or else of its folder's."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    parts = pathlib.PurePath(path).parts
    folder = ROOT / "tests" / parts[1]
    for name in (parts[-1].removesuffix(".py"), parts[2]):
        stem = name.strip("_")
        found = {*folder.rglob(f"test_{stem}*.py"), *folder.glob(f"{stem}/test_*")}
        files = sorted(found)
        if files:
            return [str(file.relative_to(ROOT)) for file in files]
    raise ValueError(f"{path} has no tests under {folder}; name them in ELSEWHERE")


def shortest(seconds: dict[str, float], most: float) -> dict[str, float]:
    """Return the shortest tests that take no longer than `most` together."""
    ordered = sorted(seconds.items(), key=lambda item: item[1])
    sums = itertools.accumulate(s for _, s in ordered)
    return dict(pair for pair, total in zip(ordered, sums, strict=True) if total <= most)


class Server:
    """A warm process that forks to run tests in one copy of the project."""

    def __init__(self, tree: pathlib.Path, run: harness.Run) -> None:
        """Start the process, which imports what does not change; rows go into the run."""
        self._tree, self._run = tree, run
        self._process = subprocess.Popen(
            # Without its own folder on the path: experiments have names that others import.
            [sys.executable, "-P", str(ROOT / "experiments" / "_mutation_server.py")],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def test(self, mutant: Mutant) -> None:
        """Test a change in the copy, undo it, and log what came of it."""
        path = self._tree / mutant.path
        files, original = tests_of(mutant.path), path.read_text()
        seconds = {test: s for file in files for test, s in self._unchanged(file).items()}
        known = {test for file in files for test in self._earlier(file)}
        new = {test: s for test, s in seconds.items() if known and test not in known}
        seconds = new | shortest(seconds, AGAIN_SECONDS if known else ENOUGH_SECONDS)
        before = [row.get("killed_by") for row in self._run.rows("mutant")]
        # New ones first, then what saw other changes; then the shortest, or those not met before.
        sign = -1 if known else 1
        tests = sorted(seconds, key=lambda t: (t not in new, -before.count(t), sign * seconds[t]))
        factor, more = PATIENCE
        path.write_text(mutant.source)
        started = time.monotonic()
        try:
            answer = self._ask(files, tests, factor * sum(seconds.values()) + more, asked=True)
        finally:
            path.write_text(original)
        status = answer["status"]
        if status not in (*GREEN, 1, 2, *LATE):
            raise RuntimeError(f"{files} with a change must pass, fail or not end, got {answer}")
        row = mutant._asdict()
        del row["source"]
        row |= {"killed": status not in GREEN, "killed_by": answer.get("failed")}
        row |= {"is_late": status in LATE}
        self._log("mutant", **row, test_seconds=round(time.monotonic() - started, 1))

    def _unchanged(self, file: str) -> dict[str, float]:
        """Return the seconds of each test without a change; failing there, it kills everything."""
        known = {row["file"]: row["tests"] for row in self._run.rows("unchanged")}
        if file not in known:
            before = self._earlier(file)
            answer = self._ask([file], list(before), MOST_SECONDS, asked=False)
            if answer["status"] not in GREEN:
                raise ValueError(f"{file} must pass without a change, got {answer['status']}")
            known[file] = before | {test: round(s, 2) for test, s in answer["seconds"].items()}
            self._log("unchanged", file=file, tests=known[file])
        return known[file]

    def _earlier(self, file: str) -> dict[str, float]:
        """Return the seconds of the tests that there were in the run whose survivors are tried."""
        again = self._run.config.again
        rows = [] if again is None else rows_of(again, "unchanged")
        return next((row["tests"] for row in rows if row["file"] == file), {})

    def _log(self, stage: str, **row: Any) -> None:
        with _logging:
            self._run.log(stage=stage, **row)

    def _ask(
        self, files: list[str], tests: list[str], limit: float, *, asked: bool
    ) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"files": files, "tests": tests, "asked": asked, "limit": limit}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            self.close()
            raise RuntimeError(f"the process that runs tests in {self._tree} has ended")
        return answer


if __name__ == "__main__":
    harness.run_experiment(Config, main)
