"""One at a time: a lock on a file that the system drops when its holder ends, however it ends."""

import contextlib
import os
import pathlib


def lock(path: pathlib.Path) -> contextlib.ExitStack:
    """Lock a file, which is made if missing, until what is returned is closed or the process ends.

    Where the system has no such locks, as on Windows, it only makes the file.

    Args:
      path: the file; the holder's process number stands in it.

    Raises:
      BlockingIOError: another holds it; it says which process.
      OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.ExitStack() as held:
        held.callback(os.close, descriptor)
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return held.pop_all()
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace")
            raise BlockingIOError(
                f"{path.parent} is in use by another run, process {holder}: wait for it to end, or "
                "take another folder"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        return held.pop_all()
