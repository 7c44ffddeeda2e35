"""Flags of an experiment: reading them, and explaining them without importing what computes."""

import ast
import dataclasses
import inspect
import pathlib
import shutil
import sys
import textwrap
import typing
from typing import Annotated, Any

import tyro

import jaxgen as jg  # which imports nothing until it is used


@dataclasses.dataclass(frozen=True)
class Launch:
    """Devices, and what is shown."""

    devices: int | None = None
    """Devices to train on, of each process; None is one. Of a CPU they are made of its threads."""
    fully_sharded: bool = False
    """Give each device a part of all parameters, instead of each all."""
    processes: int | None = None
    """Processes that train together, started here unless `--process` says which one this is."""
    process: int | None = None
    """The number of this process, from 0, where each is started by itself."""
    coordinator: str | None = None
    """HOST:PORT of process 0, at which the others find it."""
    dry_run: bool = False
    """Train nothing: say what the first training would take, by compiling it and a few steps."""
    profile: pathlib.Path | None = None
    """Folder for a trace of two dispatches, for Perfetto or XProf."""
    compilation_cache: pathlib.Path | None = None
    """Folder of compiled programs, kept for later runs; None is one under `~/.cache/jaxgen`."""
    tensorboard: pathlib.Path | None = None
    """Folder for TensorBoard's event files (`pip install 'jaxgen[tensorboard]'`)."""
    wandb: str | None = None
    """Project of Weights & Biases to report to (`pip install 'jaxgen[wandb]'`)."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        for name in ("devices", "processes"):
            if getattr(self, name) is not None:
                jg.core.check_count(name, getattr(self, name))
        if self.process is not None:
            jg.core.check_count("process", self.process, 0)
            if self.coordinator is None or self.processes is None:
                raise ValueError("process needs --processes and --coordinator beside it")


def parse(
    config_class: type, name: str | None, docstring: str | None, *, trains: bool
) -> tuple[Any, Launch]:
    """Read the flags of the command line, those of `Launch` among them for one that trains.

    Exits after `--help`, and where a flag is wrong.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_filled(docstring or ""), end="\n\n")
    if not trains:
        return tyro.cli(config_class, prog=name, description=""), Launch()
    fields = [("config", config_class), ("launch", Launch)]
    both = dataclasses.make_dataclass("Flags", fields, frozen=True)
    markers = (tyro.conf.OmitArgPrefixes,)
    flags: Any = tyro.cli(both, prog=name, description="", config=markers)
    return flags.config, flags.launch


def explain(name: str, file: pathlib.Path) -> None:
    """Print the help of an experiment, as its module would after seconds of imports, and exit.

    Args:
      name: as `python -m` has it.
      file: its source.
    """
    tree = ast.parse(file.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    trains = any(word.arg == "trains" for call in calls for word in call.keywords)
    parse(stand_in(tree), f"python -m {name}", ast.get_docstring(tree), trains=trains)


def stand_in(tree: ast.Module) -> type:
    """Return a dataclass with the fields of an experiment's `Config` and nothing more.

    So annotations and defaults there are written in words of Python's own.
    """
    config = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
    words = {"pathlib": pathlib, **vars(typing)}
    fields = []
    for field, text in zip(config.body, config.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert field.value is not None
            kind, default = (
                eval(ast.unparse(part), words) for part in (field.annotation, field.value)
            )
            help_ = tyro.conf.arg(help=inspect.cleandoc(ast.literal_eval(text.value)))
            fields.append((field.target.id, Annotated[kind, help_], default))
    named = {"__doc__": ast.get_docstring(config)}
    return dataclasses.make_dataclass("Config", fields, frozen=True, namespace=named)


def _filled(docstring: str) -> str:
    """Fill paragraphs to the terminal, 100 columns at most; indented commands stay as they are.

    The parser's own help keeps some line breaks of a docstring and drops others.
    """
    width = min(100, shutil.get_terminal_size().columns)
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width)
        for paragraph in docstring.strip().split("\n\n")
    )
