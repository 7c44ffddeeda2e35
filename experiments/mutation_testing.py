"""Change the library in small ways, one at a time, and see whether its tests turn red.

    python -m experiments.mutation_testing

About 60 minutes on two CPU cores. A sample of all single changes to samplers, estimators,
objectives, coding and criticism: a sign, a comparison, a number, a condition, a reduction. Each is
tried against the tests of its module in a copy of the project; an error, a failure or tests
that do not end kill it. Expected: at least 90 % killed. `survivors.txt` shows the rest,
which leave the results as they are, or a test is missing.
"""

import ast
import concurrent.futures
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from experiments import _harness as harness
from experiments._harness import ROOT, Metric
from jaxgen.core import check_count

PACKAGES = ("samplers", "estimators", "objectives", "coding", "criticism")
TIMEOUT = 300
"""Seconds after which a test that no longer ends counts as red."""
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

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("num_mutants", self.num_mutants)
        check_count("num_workers", self.num_workers)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(num_mutants=1, num_workers=1, package="criticism", seed=3)


class Mutant(NamedTuple):
    """One change.

    Attributes:
      path: the module, from the root of the project.
      line: where in it.
      before: the changed expression as it was.
      after: and as it is.
      source: the whole module with the change.
    """

    path: str
    line: int
    before: str
    after: str
    source: str


def main(config: Config) -> dict[str, Metric]:
    """Try each change; see the module docstring."""
    run = harness.start(config, "mutation_testing")
    mutants = sampled(config)
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(config.num_workers) as pool,
        harness.progress_bar("mutants", len(mutants)) as update,
    ):
        trees = [copied(pathlib.Path(folder) / str(i)) for i in range(config.num_workers)]
        shares = [mutants[i :: config.num_workers] for i in range(config.num_workers)]
        done: list[bool] = []

        def work(tree: pathlib.Path, share: list[Mutant]) -> list[bool]:
            killed, server = [], Server(tree)
            for mutant in share:
                killed.append(server.is_killed(mutant))
                done.append(killed[-1])
                update(len(done), f"{sum(done)} killed")
            server.close()
            return killed

        results = list(pool.map(work, trees, shares))
    verdicts = [
        (mutant, was_killed)
        for share, killed in zip(shares, results, strict=True)
        for mutant, was_killed in zip(share, killed, strict=True)
    ]
    survivors = sorted(mutant for mutant, was_killed in verdicts if not was_killed)
    lines = [f"{m.path}:{m.line}: {m.before}  ->  {m.after}\n" for m in survivors]
    harness.write_text(run.path / "survivors.txt", "".join(lines))
    run.note("survivors", run.path / "survivors.txt")
    return run.finish(scores(verdicts))


def scores(verdicts: list[tuple[Mutant, bool]]) -> dict[str, Metric]:
    """Return the share that was killed, of each package and of all."""
    metrics = {}
    for package in (*PACKAGES, ""):
        killed = [k for m, k in verdicts if m.path.startswith(f"jaxgen/{package}")]
        if killed:
            name = f"killed/{package or 'all'}"
            metrics[name] = Metric(sum(killed) / len(killed), None, len(killed))
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
    return tree


def mutant_at(path: pathlib.Path, index: int) -> Mutant:
    """Return the change of one node of a module."""
    tree = code_of(path)
    node: Any = list(ast.walk(tree))[index]
    before, line = ast.unparse(node), node.lineno
    change(node)
    return Mutant(str(path.relative_to(ROOT)), line, before, ast.unparse(node), ast.unparse(tree))


def is_changeable(place: ast.AST) -> bool:
    """Whether there is a way to change a node."""
    node: Any = place  # each kind has fields of its own
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
    """Copy the library to a folder, with links to all that its tests need."""
    shutil.copytree(
        ROOT / "jaxgen", folder / "jaxgen", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (
        "tests",
        "experiments",
        "docs",
        "pyproject.toml",
        "README.md",
        "requirements.lock",
    ):
        (folder / name).symlink_to(ROOT / name)
    return folder


ELSEWHERE = {
    "jaxgen/criticism/_findings.py": ["tests/criticism/test_criticise.py"],
    "jaxgen/criticism/_simulation.py": ["tests/criticism/test_criticise.py"],
    "jaxgen/objectives/_elbo.py": ["tests/objectives/test_linear_gaussian.py"],
    "jaxgen/objectives/_multi_sample.py": [
        "tests/objectives/test_linear_gaussian.py",
        "tests/objectives/test_bound_gradients.py",
    ],
    "jaxgen/objectives/_vector_quantization.py": ["tests/models/latent/test_vector_quantized.py"],
    "jaxgen/samplers/_refill.py": [
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


class Server:
    """A warm process that forks to run tests in one copy of the project."""

    def __init__(self, tree: pathlib.Path) -> None:
        """Start the process, which imports what does not change."""
        self._tree = tree
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

    def is_killed(self, mutant: Mutant) -> bool:
        """Test a change in the copy, and undo it."""
        path = self._tree / mutant.path
        original = path.read_text()
        path.write_text(mutant.source)
        try:
            return self.is_red(tests_of(mutant.path))
        finally:
            path.write_text(original)

    def is_red(self, files: list[str]) -> bool:
        """Whether these tests do not pass, or do not end."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join([str(TIMEOUT), *files]) + "\n")
        self._process.stdin.flush()
        return self._answer() != "0"

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
