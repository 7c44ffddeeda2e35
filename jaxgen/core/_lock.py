"""One at a time: a lock on a file that the system drops when its holder ends, however it ends."""

import os
import pathlib
from typing import IO


def lock(path: pathlib.Path) -> IO[str]:
    """Lock a file, which is made if missing, until what is returned is closed or the process ends.

    Where the system has no such locks, as on Windows, it only opens the file.

    Args:
      path: the file; the holder's process number stands in it.

    Raises:
      BlockingIOError: another holds it; it says which process.
      OSError: the file cannot be written.
    """
    file = path.open("a+")
    try:
        import fcntl
    except ImportError:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read()
        file.close()
        raise BlockingIOError(
            f"{path.parent} is in use by another run, process {holder}: wait for it to end, or "
            "take another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
