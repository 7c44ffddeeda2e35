"""Change the library in small ways, one at a time, and see whether its tests turn red.

    python -m experiments.mutation_testing

About 60 minutes on two CPU cores. A sample of all single changes to samplers, estimators,
objectives, coding and criticism: a sign, a comparison, a number, a condition, a reduction. Each is
tried against the tests of its module in a copy of the project; an error, a failure or a test that
takes ten times as long kills it. Expected: at least 90 % killed. `survivors.txt` shows the rest,
which leave the results as they are, or a test is missing.
"""

import ast
import concurrent.futures
import copy
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

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
            killed = []
            for mutant in share:
                killed.append(is_killed(tree, mutant))
                done.append(killed[-1])
                update(len(done), f"{sum(done)} killed")
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
    """Return a sample of all changes whose modules have tests."""
    packages = PACKAGES if config.package is None else (config.package,)
    paths = [
        path
        for package in packages
        for path in sorted((ROOT / "jaxgen" / package).rglob("_[!_]*.py"))
    ]
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    random.Random(config.seed).shuffle(mutants)
    return mutants[: config.num_mutants]


def mutants_of(path: pathlib.Path) -> Iterator[Mutant]:
    """Yield every single change of a module."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # neither documentation nor types are what tests are for
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    nodes = list(ast.walk(tree))
    for index, node in enumerate(nodes):
        for count in range(num_changes(node)):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[index]
            before = ast.unparse(target)
            change(target, count)
            after = ast.unparse(target)
            if before != after:
                where = str(path.relative_to(ROOT))
                yield Mutant(where, target.lineno, before, after, ast.unparse(changed))


def num_changes(node: ast.AST) -> int:
    """Return how many ways there are to change a node."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            return int(type(node.op) in SWAPS)
        case ast.Compare():
            return int(type(node.ops[0]) in SWAPS)
        case ast.Constant(value=bool()):
            return 1
        case ast.Constant(value=int() | float()):
            return 1
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            return 1
        case ast.Call(func=ast.Attribute(attr=name)):
            return int(name in CALLS or name == "where")
        case ast.If() | ast.IfExp():
            return 1
    return 0


def change(node: ast.AST, _: int) -> None:
    """Change a node in place."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            node.op = SWAPS[type(node.op)]()
        case ast.Compare():
            node.ops[0] = SWAPS[type(node.ops[0])]()
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int() | float()):
            node.value = node.value + 1 if isinstance(node.value, int) else 1.5 * node.value + 0.1
        case ast.UnaryOp():
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
            if isinstance(node.op, ast.Not):
                node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.Call(func=ast.Attribute(attr="where")) if len(node.args) == 3:
            node.args = [node.args[0], node.args[2], node.args[1]]
        case ast.Call(func=ast.Attribute(attr=name)) if name in CALLS:
            node.func.attr = CALLS[name]
        case ast.If() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)


def copied(folder: pathlib.Path) -> pathlib.Path:
    """Copy the library to a folder, with links to all that its tests need."""
    shutil.copytree(ROOT / "jaxgen", folder / "jaxgen", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "experiments", "docs", "pyproject.toml", "README.md", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def tests_of(path: str) -> list[str]:
    """Return the test files of a module: its mirror, or those of its package that use its names."""
    parts = pathlib.PurePath(path).parts
    package, stem = parts[1], parts[-1].removesuffix(".py").strip("_")
    folder = ROOT / "tests" / package
    mirrors = sorted(folder.rglob(f"test_{stem}*.py"))
    if not mirrors:
        stub = (ROOT / "jaxgen" / package / "__init__.pyi").read_text()
        module = ".".join(parts[2:]).removesuffix(".py")
        names = [
            line.split(" as ")[-1]
            for line in stub.splitlines()
            if line.startswith(f"from .{module} ")
        ] or [parts[2].strip("_")]
        mirrors = [
            file
            for file in sorted((ROOT / "tests").rglob("test_*.py"))
            if any(f"{name}" in file.read_text() for name in names)
            and (package in file.parts or "models" in file.parts)
        ]
    return [str(file.relative_to(ROOT)) for file in mirrors]


def is_killed(tree: pathlib.Path, mutant: Mutant) -> bool:
    """Test a change in its copy of the project, and undo it."""
    path = tree / mutant.path
    original = path.read_text()
    path.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--quick-compiler", "-p", "no:randomly"]
    # One thread each, so that the copies do not wait for each other.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            [*command, *tests_of(mutant.path)],
            cwd=tree,
            env=environment,
            capture_output=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(original)
    return ended.returncode != 0


if __name__ == "__main__":
    harness.run_experiment(Config, main)
