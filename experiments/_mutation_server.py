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
ANSWER = pathlib.Path("answer.json")
"""What a fork leaves that came to its end."""


def main() -> None:
    """Answer each line on the input, a request, with a line on the output.

    A request has the test `files`, names of `tests`, whether these are `asked` for, in this order,
    or all others are, and a `limit` in seconds of computing. An answer has the exit `status`, the
    `seconds` of each test that ran, and which `failed`, if any.
    """
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in WARM.split():
        __import__(name)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        ANSWER.write_text("{}")
        child = os.fork()
        if not child:
            _test(**json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = {"status": status, **json.loads(ANSWER.read_text())}
        print(json.dumps(answer), file=answers, flush=True)


class Order:
    """A pytest plugin: tests in the order wanted, the seconds that each takes, and what failed."""

    def __init__(self, tests: list[str], asked: bool) -> None:
        """Take the names of the tests that are asked for, or of those that are not."""
        self._asked = asked
        self._places = {name: place for place, name in enumerate(tests)}
        self.seconds: dict[str, float] = {}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the tests not asked for, and put the others in order."""
        items[:] = [item for item in items if (item.nodeid in self._places) == self._asked]
        if self._asked:
            items.sort(key=lambda item: self._places[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up set-up, call and what comes after."""
        before = self.seconds.get(report.nodeid, 0.0)
        self.seconds[report.nodeid] = before + report.duration
        if report.failed:
            self.failed = report.nodeid


def _test(files: list[str], tests: list[str], asked: bool, limit: float) -> None:
    import pytest

    # What no longer ends is ended. Others may compute too, so time on the wall tells less.
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, 20 * limit)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(pathlib.Path.cwd()))
    order, status = Order(tests, asked), 1
    options = ["-x", "-q", "--quick-compiler", "--assert=plain", "-p", "no:cacheprovider"]
    try:
        status = int(pytest.main([*options, *files], plugins=[order]))
        ANSWER.write_text(json.dumps({"seconds": order.seconds, "failed": order.failed}))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
