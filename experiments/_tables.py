"""The tables in README.md and docs/, generated from `experiments/results/*.json`.

`make tables` writes them; `python -m experiments._tables --check` fails where they differ.
A table stands between `<!-- results NAME -->` and `<!-- end -->`, the figures between
`<!-- gallery -->` and `<!-- end -->`.
"""

import dataclasses
import json
import math
import re
import sys
from typing import Any

import tyro

from experiments._gallery import gallery
from experiments._harness import ROOT, write_text

RESULTS = ROOT / "experiments" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LIKELIHOODS = {
    "test_log_prob": "test log p",
    "test_nats": "test nats",
    "test_bits_per_dim": "test likelihood",
}
GRIDS = {"scaling"}  # their metrics are ROW/COLUMN, all columns for each row
BLOCK = re.compile(r"(<!-- results (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

GALLERY = re.compile(r"(<!-- gallery -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the tables, or check them."""

    check: bool = False
    """Change nothing; exit with 1 where a table differs from its results file."""


def table(results: dict[str, Any]) -> str:
    """A results file as a Markdown table and the line that says where it comes from."""
    if "rows" in results:
        return "\n".join([*_row_lines(results), ""])
    metrics, run = results["metrics"], results["run"]
    ratios = {name: metric for name, metric in metrics.items() if name.endswith("/ratio")}
    if run["experiment"] in GRIDS:
        lines = _grid_lines(metrics)
    else:
        lines = _ratio_lines(metrics, ratios) if ratios else _metric_lines(metrics)
    source = (
        f"`{run['command']}`, commit {(run['commit'] or 'unknown')[:10]}, "
        f"{run['device']}, {run['seconds'] / 60:.1f} minutes, seed {run['seed']}."
    )
    return "\n".join([*lines, "", source, ""])


def _grid_lines(metrics: dict[str, Any]) -> list[str]:
    """A line for each of what the metrics are of, ROW/COLUMN."""
    rows: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        rows.setdefault(name.rpartition("/")[0], []).append(f"{metric['value']:,.4g}")
    headings = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    lines = [f"| of | {' | '.join(headings)} |", "|---|" + "---|" * len(headings)]
    return lines + [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]


def _metric_lines(metrics: dict[str, Any]) -> list[str]:
    lines = ["| metric | value | split |", "|---|---|---|"]
    for name, metric in metrics.items():
        value, error = metric["value"], metric["standard_error"]
        text = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
        if error is not None:
            digits = 2 if error >= 0.05 else max(4, 1 - math.floor(math.log10(error or 1)))
            text = f"{value:.{digits}f} ± {error:.{digits}f}"
        lines.append(f"| {name} | {text} | {metric['split'] or ''} |")
    return lines


def _row_lines(results: dict[str, Any]) -> list[str]:
    """A table gathered by `experiments._publish`: a line for each row, run or not."""
    metrics = results["metrics"]
    found = [
        heading
        for kind, heading in LIKELIHOODS.items()
        if any(f"{name}/{kind}" in metrics for name in results["rows"])
    ]
    lines = [
        f"| row | {found[0] if found else 'test nats'} | published | epochs | minutes | parameters "
        "| device, commit, command |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        if row["run"] is None:
            lines.append(f"| {name} | not run | {row['reference']} | | | | `{row['command']}` |")
            continue
        epochs, minutes, size = (
            metrics.get(f"{name}/{key}", {}).get("value")
            for key in ("epochs", "minutes", "num_params")
        )
        run = row["run"]
        source = f"{run['device']}, {(run['commit'] or 'unknown')[:10]}, `{row['command']}`"
        lines.append(
            f"| {name} | {_likelihood(metrics, name)} | {row['reference']} | {epochs:.0f} "
            f"| {minutes:.0f} | {size:,.0f} | {source} |"
        )
    return lines


def _likelihood(metrics: dict[str, Any], row: str) -> str:
    """The first of the kinds that a row has; bits a dimension say so."""
    kind = next(kind for kind in LIKELIHOODS if f"{row}/{kind}" in metrics)
    metric = metrics[f"{row}/{kind}"]
    digits, unit = (3, " bits a dimension") if kind == "test_bits_per_dim" else (2, "")
    return f"{metric['value']:.{digits}f} ± {metric['standard_error']:.{digits}f}{unit}"


def _ratio_lines(metrics: dict[str, Any], ratios: dict[str, Any]) -> list[str]:
    lines = ["| work | times as fast as the peer | ours, ns | peer, ns |", "|---|---|---|---|"]
    for name, metric in ratios.items():
        row = name.removesuffix("/ratio")
        ours, peer = (metrics[f"{row}/{key}"]["value"] for key in ("ours_ns", "peer_ns"))
        lines.append(f"| {row} | {metric['value']:.3g} | {ours:.3g} | {peer:.3g} |")
    return lines


def regenerate(document: str) -> str:
    """The document with each of its tables, and the gallery if it has one, made anew."""

    def fill(match: re.Match[str]) -> str:
        results = json.loads((RESULTS / f"{match[2]}.json").read_text())
        return match[1] + table(results) + match[4]

    document = BLOCK.sub(fill, document)
    return GALLERY.sub(lambda match: match[1] + gallery(ROOT) + match[2], document)


def main(options: Options) -> None:
    """Write or check every document."""
    stale = []
    for path in DOCUMENTS:
        before = path.read_text()
        after = regenerate(before)
        if before != after:
            stale.append(path.name)
            if not options.check:
                write_text(path, after)
    if options.check and stale:
        sys.exit(f"tables differ from experiments/results in {', '.join(stale)}: run `make tables`")


if __name__ == "__main__":
    main(tyro.cli(Options))
