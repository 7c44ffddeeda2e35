"""Packages that only a part of the library needs."""

import importlib
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """Import a module of a package that an extra of jaxgen installs.

    Args:
      module: its full name.
      extra: the extra's name in pyproject.toml.

    Raises:
      ModuleNotFoundError: the package is not installed; it says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # it is installed, and lacks something itself
        raise ModuleNotFoundError(
            f'{package} is not installed: pip install "jaxgen[{extra}]" brings it', name=package
        ) from error
