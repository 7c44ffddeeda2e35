"""Run tests of one copy of the project again and again, each time in a fork of a warm process.

Started by `experiments.mutation_testing` with the copy as working directory. What takes seconds to
import and is the same for every change (JAX, Flax, SciPy, pytest) is imported once, and nothing of
the project: a fork imports that as it stands on the disk. No device is touched before forking.
"""

import json
import os
import pathlib
import signal
import sys
from typing import Any

# Not BlackJAX, which computes while it is imported: a fork would wait for threads it has not.
WARM = (
    "jax.numpy flax.linen optax distrax chex scipy.stats scipy.integrate sklearn.neighbors "
    "pytest hypothesis hypothesis.strategies jaxtyping"
)
SECONDS = pathlib.Path("seconds.json")
"""What a fork leaves of the tests that passed."""


def main() -> None:
    """Answer each line on the input, a request, with a line on the output.

    A request has the test `files`, a `limit` in seconds for all of them, and, where known, the
    `seconds` of each test; an answer the exit `status` and the seconds of each test that passed.
    """
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in WARM.split():
        __import__(name)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        SECONDS.write_text("{}")
        child = os.fork()
        if not child:
            _test(**json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = json.loads(SECONDS.read_text())
        print(json.dumps({"status": status, "seconds": seconds}), file=answers, flush=True)


class Order:
    """A pytest plugin: the shortest tests first, and the seconds that each takes."""

    def __init__(self, seconds: dict[str, float]) -> None:
        """Take what is known of the tests' seconds."""
        self._known = seconds
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put the tests in order, and leave out those not named, where any is."""
        if self._known:
            items[:] = [item for item in items if item.nodeid in self._known]
            items.sort(key=lambda item: self._known[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up set-up, call and what comes after."""
        before = self.seconds.get(report.nodeid, 0.0)
        self.seconds[report.nodeid] = before + report.duration


def _test(files: list[str], limit: float, seconds: dict[str, float]) -> None:
    import pytest

    signal.setitimer(signal.ITIMER_REAL, limit)  # what no longer ends is ended
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(pathlib.Path.cwd()))
    order, status = Order(seconds), 1
    options = ["-x", "-q", "--quick-compiler", "--assert=plain", "-p", "no:cacheprovider"]
    try:
        status = int(pytest.main([*options, *files], plugins=[order]))
        SECONDS.write_text(json.dumps(order.seconds))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
