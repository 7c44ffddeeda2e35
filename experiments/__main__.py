"""List the experiments: `python -m experiments`."""

import ast
import difflib
import pathlib
import re
import sys
from typing import NamedTuple

import rich.console
import rich.table


class Entry(NamedTuple):
    """What the list says of an experiment, read from its file without importing it.

    Attributes:
      summary: its docstring's first line.
      minutes: how long it takes, as its docstring says it.
      figures: names of the figures it leaves in its run folder.
    """

    summary: str
    minutes: str
    figures: list[str]


def discover() -> dict[str, pathlib.Path]:
    """The experiments, as `python -m experiments.NAME` names them, and their files."""
    here = pathlib.Path(__file__).parent
    files = [*here.glob("*.py"), *here.glob("benchmarks/*.py")]
    named = {".".join(f.relative_to(here).with_suffix("").parts): f for f in sorted(files)}
    return {name: f for name, f in named.items() if not f.name.startswith("_")}


def describe(file: pathlib.Path) -> Entry:
    """Read an experiment's line, minutes and figures off its source."""
    tree = ast.parse(file.read_text())
    docstring = ast.get_docstring(tree) or ""
    time = re.search(
        r"(?:about|under|less than|between) "
        r"(.{0,20}?(?:seconds|minutes?)(?: and [\d.]+ hours)?)",
        " ".join(docstring.split()),
        re.IGNORECASE,
    )
    figures = [
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "save_figure"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    return Entry(
        docstring.partition("\n")[0], time[1].replace(" and ", " to ") if time else "", figures
    )


def propose(word: str) -> str:
    """Say what was meant by a word after `python -m experiments`, with a space or a dot."""
    name = word.removeprefix("experiments.").removesuffix(".py").replace("-", "_")
    meant = difflib.get_close_matches(name, discover(), n=3, cutoff=0.5)
    if name in discover():
        meant = [name]
    commands = " or ".join(f"python -m experiments.{one}" for one in meant)
    return f"{word!r} is no experiment; " + (
        f"perhaps you meant {commands}" if meant else "python -m experiments names them all"
    )


def main() -> None:
    """Print a line for each experiment, without importing any."""
    words = [word for word in sys.argv[1:] if word not in ("-h", "--help")]
    if words:
        print(f"error: {propose(words[0])}", file=sys.stderr)
        sys.exit(2)
    table = rich.table.Table(title="Experiments", show_lines=True)
    table.add_column("python -m experiments.…", no_wrap=True)
    table.add_column("what it shows, and its figures")
    table.add_column("about", max_width=13)
    for name, file in discover().items():
        entry = describe(file)
        table.add_row(name, "\n".join([entry.summary, *entry.figures]), entry.minutes)
    console = rich.console.Console()
    console.print(table)
    console.print("--help explains a command's flags; figures and numbers go to runs/NAME/.")


if __name__ == "__main__":
    main()
