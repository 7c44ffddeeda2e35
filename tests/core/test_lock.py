import pytest

from jaxgen.core._lock import lock


def test_a_lock_is_held_by_one_and_taken_again_after_it_is_closed(tmp_path):
    for _ in range(2):
        with (
            lock(tmp_path / "a"),
            pytest.raises(BlockingIOError, match=r"is in use by another run, process \d+:"),
        ):
            lock(tmp_path / "a")
    with pytest.raises(OSError, match="none"):
        lock(tmp_path / "none" / "a")
