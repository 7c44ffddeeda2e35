import signal

import pytest


@pytest.fixture(autouse=True)
def interrupts_are_answered():
    """Python raises KeyboardInterrupt, also where a shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
