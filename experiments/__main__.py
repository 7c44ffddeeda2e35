"""List the experiments: `python -m experiments`."""

import ast
import pathlib

import rich.console
import rich.table


def discover() -> dict[str, pathlib.Path]:
    """The experiments, as `python -m experiments.NAME` names them, and their files."""
    here = pathlib.Path(__file__).parent
    files = [*here.glob("*.py"), *here.glob("benchmarks/*.py")]
    named = {".".join(f.relative_to(here).with_suffix("").parts): f for f in sorted(files)}
    return {name: f for name, f in named.items() if not f.name.startswith("_")}


def main() -> None:
    """Print a line for each experiment, without importing any."""
    table = rich.table.Table("command", "what it shows", title="Experiments")
    for name, file in discover().items():
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        table.add_row(f"python -m experiments.{name}", docstring.partition("\n")[0])
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
