"""Which command is run, and how trouble is told."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxgen._cli._settings import Compress, Fill, Inspect, Restore, Sample, Score, Train

_WHERE = {  # what computes is imported when it is asked for: help takes a fraction of a second
    Train: ("_train", "train"),
    Sample: ("_draw", "sample"),
    Score: ("_score", "score"),
    Fill: ("_draw", "fill"),
    Compress: ("_compress", "compress"),
    Restore: ("_compress", "restore"),
    Inspect: ("_inspect", "inspect"),
}
_Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Fill, tyro.conf.subcommand("fill")]
    | Annotated[Compress, tyro.conf.subcommand("compress")]
    | Annotated[Restore, tyro.conf.subcommand("restore")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxgen`; files that are not what they should be end it with one clear line."""
    try:
        settings = tyro.cli(
            _Command,
            prog="python -m jaxgen",
            description="Train a model on images or text of your own, and use it.",
            args=arguments,
        )
        module, function = _WHERE[type(settings)]
        getattr(importlib.import_module(f"jaxgen._cli.{module}"), function)(settings)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Interrupted.'}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ArithmeticError, ModuleNotFoundError) as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(set JAXGEN_TRACEBACK=1 for the traceback)", file=sys.stderr)
        sys.exit(2)
