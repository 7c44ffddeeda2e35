"""Whether the figures in docs/figures are those that their experiments draw now.

A run's `results.json` keeps, for each figure, the digest of its file and of the code that drew it.
So a figure of another run than its table's, or of code that has changed since, is found without
running anything.
"""

import ast
import hashlib
import json
import pathlib
from typing import Any


def file_digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def drawing_digest(module: pathlib.Path) -> str:
    """A digest of a module's functions that return a figure, and of those of its own they call.

    Where none returns one, of those that save one.
    Docstrings, spaces, line breaks and lines of comment do not count. Nor does what other modules
    draw with.
    """
    source = module.read_text()
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    chosen = {
        name
        for name, node in functions.items()
        if node.returns is not None and ast.unparse(node.returns).endswith("Figure")
    } or {name for name, node in functions.items() if _saves(node)}
    while called := {n for c in chosen for n in _names(functions[c]) & functions.keys()} - chosen:
        chosen |= called
    code = [_code(source.splitlines(), functions[name]) for name in sorted(chosen)]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


def _saves(node: ast.AST) -> bool:
    return any(
        isinstance(inner, ast.Attribute) and inner.attr == "save_figure" for inner in ast.walk(node)
    )


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _code(lines: list[str], node: ast.FunctionDef) -> str:
    """The text of a function; the tree itself is written otherwise by another version of Python."""
    first = node.body[0]
    is_told = ast.get_docstring(node) is not None
    left_out = range(first.lineno - 1, first.end_lineno or 0) if is_told else ()
    kept = [lines[i] for i in range(node.lineno - 1, node.end_lineno or 0) if i not in left_out]
    return "".join("".join(line.split()) for line in kept if not line.strip().startswith("#"))


def stale_figures(root: pathlib.Path) -> list[str]:
    """Say which figures under `root`/docs/figures are not what the results files record, and why.

    Figures of results files that record none are not judged.
    """
    found = []
    for path in sorted((root / "experiments" / "results").glob("*.json")):
        results = json.loads(path.read_text())
        for name, record in results.get("figures", {}).items():
            experiment = results["run"]["experiment"]
            found += _complaints(root, experiment, name, record)
    return found


def _complaints(
    root: pathlib.Path, experiment: str, name: str, record: dict[str, Any]
) -> list[str]:
    figures = root / "docs" / "figures"
    shown = [figures / name, figures / f"{experiment}_{name}"]
    path = next((path for path in shown if path.exists()), None)
    if path is None:
        return []
    module = root.joinpath("experiments", *experiment.split(".")).with_suffix(".py")
    complaints = []
    if file_digest(path) != record["sha256"]:
        complaints.append(f"{path.name} is of another run than the results of {experiment}")
    if drawing_digest(module) != record["drawn_by"]:
        complaints.append(f"{path.name} was drawn before the code of {experiment} changed")
    return complaints
