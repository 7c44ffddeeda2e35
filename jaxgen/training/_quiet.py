"""What Orbax and its threads say of a failure beside raising it: pages, and no word more."""

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_LOGGERS = ("absl", "asyncio")
_is_hushed = False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what threads and tasks of Orbax say of an error that is raised.

    Some say it late, so after an error they are kept quiet from then on.
    """
    global _is_hushed
    if _is_hushed:
        yield
        return
    thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook

    def of_thread(told: Any) -> None:
        if not _is_of_orbax(told.exc_traceback):
            thread_hook(told)

    def unraisable(told: Any) -> None:
        is_late = str(told.exc_value) == "Event loop is closed"  # a write of one that has failed
        if not is_late and not _is_of_orbax(told.exc_traceback):
            unraisable_hook(told)

    threading.excepthook, sys.unraisablehook = of_thread, unraisable
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_of_others)
    _is_hushed = True
    yield
    threading.excepthook, sys.unraisablehook = thread_hook, unraisable_hook
    for name in _LOGGERS:
        logging.getLogger(name).removeFilter(_is_of_others)
    _is_hushed = False


def system_reason(error: BaseException) -> str:
    """Return in a line why the system refused at first, or else what the error says."""
    told = str(error).partition("\n")[0]
    one: BaseException | None = error
    while one is not None:
        number = getattr(one, "errno", None)
        if number is None and (found := re.search(r"os_error_code='(\d+)'", str(one))):
            number = int(found[1])
        told = told if number is None else os.strerror(number)
        one = one.__cause__ or one.__context__
    return told


def _is_of_others(record: logging.LogRecord) -> bool:
    traceback = record.exc_info[2] if record.exc_info else None
    is_error = record.levelno >= logging.ERROR
    return not (is_error and ("orbax" in record.pathname or _is_of_orbax(traceback)))


def _is_of_orbax(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__")).startswith("orbax."):
            return True
        traceback = traceback.tb_next
    return False
