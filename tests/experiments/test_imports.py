"""What imports must leave alone: Matplotlib's backend, and the levels of other libraries' logs."""

import json
import os
import subprocess
import sys

PROGRAM = """
import importlib, json, logging, pkgutil
import absl.logging, matplotlib
from orbax.checkpoint import v1  # what they do themselves is theirs
names = ("", "absl", "orbax", "jax", "matplotlib")
def state():
    levels = {name: logging.getLogger(name).level for name in names}
    filters = {name: len(logging.getLogger(name).filters) for name in names}
    return levels, filters, logging.root.manager.disable
before = state()
for package in ("jaxgen", "experiments"):
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name != "torch":  # a benchmark's peer, which is not installed
                raise
print(json.dumps({
    "backend": matplotlib.get_backend(auto_select=False),
    "is_quiet": state() != before,
    "has_pyplot": "matplotlib.pyplot" in __import__("sys").modules,
}))
"""


def test_imports_choose_no_backend_and_silence_no_logger():
    unset = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=unset, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {"backend": None, "is_quiet": False, "has_pyplot": False}
