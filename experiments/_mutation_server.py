"""Run tests of one copy of the project again and again, each time in a fork of a warm process.

Started by `experiments.mutation_testing` with the copy as working directory. What takes seconds to
import and is the same for every change (JAX, Flax, SciPy, pytest) is imported once, and nothing of
the project: a fork imports that as it stands on the disk. No device is touched before forking.
"""

import os
import pathlib
import signal
import sys

# Not BlackJAX, which computes while it is imported: a fork would wait for threads it has not.
WARM = (
    "jax.numpy flax.linen optax distrax chex scipy.stats scipy.integrate sklearn.neighbors pytest"
)


def main() -> None:
    """Answer each line of test files on the input with an exit status on the output."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in WARM.split():
        __import__(name)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        seconds, *files = line.split()
        child = os.fork()
        if not child:
            _test(int(seconds), files)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, file=answers, flush=True)


def _test(seconds: int, files: list[str]) -> None:
    import pytest

    signal.alarm(seconds)  # what no longer ends is ended
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(pathlib.Path.cwd()))
    status = 1
    try:
        status = int(
            pytest.main(["-x", "-q", "--quick-compiler", "-p", "no:cacheprovider", *files])
        )
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
