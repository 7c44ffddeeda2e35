"""Runnable studies: `python -m experiments.NAME`, one file each."""

import importlib.util
import sys


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is there a package to look in
        return False


def _name(arguments: list[str]) -> str:
    """Return what `python -m` is to run."""
    return arguments[arguments.index("-m") + 1] if "-m" in arguments else ""


def _check_name(arguments: list[str]) -> None:
    """Exit with what was meant where `python -m experiments.NAME` names no experiment."""
    name = _name(arguments)
    if name.startswith("experiments.") and not _is_module(name):
        from experiments.__main__ import propose

        print(f"error: {propose(name)}", file=sys.stderr)
        sys.exit(2)


def _explain(name: str) -> None:
    """Print an experiment's help and exit, before it is imported: that takes seconds."""
    from experiments.__main__ import discover
    from experiments._flags import explain

    file = discover().get(name.removeprefix("experiments."))
    if file is not None:
        explain(name, file)


if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module that it is to run
    _check_name(sys.orig_argv)
    if {"-h", "--help"} & set(sys.argv[1:]):
        _explain(_name(sys.orig_argv))
