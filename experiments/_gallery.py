"""The gallery: every figure in docs/figures with a sentence, its command and where its numbers are.

The sentence is the first of the experiment's docstring, the command that of the results file.
"""

import json
import pathlib
import re
from typing import NamedTuple

from experiments import _figures
from experiments.__main__ import describe, discover

OF_A_ROW = {
    "deep_vae_samples.png": ("iwae", "dynamic/deep_vae"),
    "pixelsnail_samples.png": ("autoregressive_images", "static/pixelsnail"),
}
"""Figures of one training of many: the results file, and the row."""


class Entry(NamedTuple):
    """A figure.

    Attributes:
      name: of its file.
      experiment: what draws it.
      command: the one that drew it.
    """

    name: str
    experiment: str
    command: str


def entries(root: pathlib.Path) -> list[Entry]:
    """The figures that experiments under `root` draw, by experiment."""
    folder = root / "docs" / "figures"
    results = {
        path.stem: json.loads(path.read_text())
        for path in (root / "experiments" / "results").glob("*.json")
    }
    found = [
        Entry(name, source, results[source]["rows"][row]["command"])
        for name, (source, row) in OF_A_ROW.items()
    ]
    for source, content in results.items():
        if content.get("run", {}).get("experiment") == source:
            found += [
                Entry(name, source, content["run"]["command"]) for name in _of(content, folder)
            ]
    return sorted(found, key=lambda entry: (entry.experiment, entry.name))


def _of(results: dict, folder: pathlib.Path) -> list[str]:
    """The figures of a results file: by their digests, or by name where it records none."""
    experiment = results["run"]["experiment"]
    if recorded := results.get("figures"):
        digests = {record["sha256"] for record in recorded.values()}
        return [path.name for path in folder.glob("*.png") if _figures.file_digest(path) in digests]
    drawn = describe(discover()[experiment]).figures
    names = [name for figure in drawn for name in (figure, f"{experiment}_{figure}")]
    return [name for name in names if (folder / name).exists()]


def gallery(root: pathlib.Path) -> str:
    """The entries as Markdown."""
    parts = []
    for name, experiment, command in entries(root):
        sentence = describe(discover()[experiment]).summary
        numbers = _place(root / "docs", experiment)
        picture = f"![The figure of experiments.{experiment}](figures/{name})"
        parts.append(f"{picture}\n\n{sentence} `{command}` ([numbers]({numbers}))")
    return "\n\n".join(parts) + "\n"


def _place(docs: pathlib.Path, experiment: str) -> str:
    """The page and heading above an experiment's table, as a link."""
    for path in sorted(docs.glob("*.md")):
        before, mark, _ = path.read_text().partition(f"<!-- results {experiment} -->")
        if mark:
            heading = re.findall(r"^#+ (.*)", before, re.MULTILINE)[-1].lower()
            anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
            return f"{path.name}#{anchor}"
    raise LookupError(f"no page shows the results of {experiment}")
