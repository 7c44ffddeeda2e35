"""Ctrl-C and SIGTERM, held back to where a training can stop without loss."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2


class Interrupts:
    """Signals that came and were held back.

    The first is held back until the one who asks `received` stops; the next acts as it would have.
    While something is `writing`, one more is held back and answered by a line on stderr.
    """

    def __init__(self) -> None:
        self.received = False
        self._answer: str | None = None
        self._previous: dict[int, Any] = {}

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Hold back signals inside, in the main thread; elsewhere Python has no say in them."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            self._restore()

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Answer a signal inside by what is on disk, which `what` says, once."""
        self._answer = what
        try:
            yield
        finally:
            self._answer = None

    def _note(self, number: int, frame: Any) -> None:
        if not self.received:
            self.received = True
        elif self._answer is not None:
            line = f"\n{self._answer} Once more stops at once.\n"
            self._answer = None
            os.write(_STDERR, line.encode())  # `print` must not be entered twice
        else:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
