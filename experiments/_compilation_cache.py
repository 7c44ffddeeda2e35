"""Compiled programs kept between runs, in the user's cache folder."""

import hashlib
import os
import pathlib
import platform
import time

import jax

LOCK = pathlib.Path(__file__).resolve().parent.parent / "requirements.lock"
MAX_DAYS = 30


def keep_compiled_programs(directory: pathlib.Path | None = None) -> None:
    """Let JAX read and write the programs it compiles in a folder.

    Args:
      directory: the folder, in which nothing is deleted. None takes one under
        `~/.cache/jaxgen/compiled`, unless `JAX_COMPILATION_CACHE_DIR` is set, which is taken at its
        word; set to nothing, no program is kept.
    """
    if directory is None:
        if "JAX_COMPILATION_CACHE_DIR" in os.environ:
            return
        root = _root()
        _forget_unused(root)
        directory = root / _setting()
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Eager operations compile in milliseconds each, and there are thousands.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _root() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "jaxgen" / "compiled"


def _setting() -> str:
    """Return the name of the folder: the versions in the lock, JAX's, and the processor.

    JAX's own key has the program, its options and XLA's flags, but not what the processor can do.
    """
    try:
        about = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor = [line for line in about if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        processor = [platform.machine(), platform.processor()]
    parts = [LOCK.read_text(), jax.__version__, platform.python_version(), *processor]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _forget_unused(root: pathlib.Path) -> None:
    """Delete what no run has read or written for `MAX_DAYS`."""
    oldest = time.time() - MAX_DAYS * 24 * 3600
    for file in root.glob("*/*"):
        try:
            status = file.stat()
            if max(status.st_atime, status.st_mtime) < oldest:
                file.unlink()
        except FileNotFoundError:
            continue  # another run was there first
