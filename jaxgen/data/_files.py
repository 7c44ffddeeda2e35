"""Files of a data set: found on this machine or downloaded, then parsed and checked."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.request import OpenerDirector

from jaxgen.data._content import KnownFile, check_sha256, content_of
from jaxgen.data._download import HTTPS_ONLY, download
from jaxgen.data._errors import DataFormatError, DataNotFoundError

T = TypeVar("T")


def find(files: Sequence[KnownFile], opener: OpenerDirector = HTTPS_ONLY) -> list[Path]:
    """Find the files of a data set; download what is missing into the cache.

    `$JAXGEN_DATA` is searched first, then the cache, `$XDG_CACHE_HOME/jaxgen` or `~/.cache/jaxgen`;
    in each the folder of the data set, then the top. A file may be compressed there by gzip or xz.

    Args:
      files: the files of one data set that are needed together.
      opener: what opens URLs; the default refuses all but https.

    Returns:
      A path for each file, in order.

    Raises:
      DataNotFoundError: one or more files could not be had. It names all of those still missing,
        where they were looked for, what went wrong with the download, and how to place them.
    """
    failures: list[str] = []
    for file in files:
        # After one failure the others would most likely wait for the same timeouts.
        if not failures and locate(file) is None:
            failures = download(file, _cache() / file.folder, opener)
    located = [(file, locate(file)) for file in files]
    missing = [file for file, path in located if path is None]
    if missing:
        raise DataNotFoundError(_explain(missing, failures))
    return [path for _, path in located if path is not None]


def load(file: KnownFile, path: Path, parse: Callable[[bytes, Path], T]) -> T:
    """Parse the uncompressed content of a known file and check its sha256.

    It is parsed first, because a parser's error names the byte that is wrong.

    Args:
      file: what the file must be.
      path: where `find` found it.
      parse: `(content, path) -> result`; raises DataFormatError where the content is malformed.

    Raises:
      DataFormatError: from `parse`, for a broken compressed stream, another sha256, or far too many
        bytes.
    """
    with path.open("rb") as opened:
        data = opened.read(file.max_bytes + 1)
    if len(data) > file.max_bytes:
        raise DataFormatError(
            path, f"file goes on far beyond its {file.num_bytes} bytes", len(data)
        )
    content = content_of(file, data, path)
    result = parse(content, path)
    check_sha256(file, content, path)
    return result


def locate(file: KnownFile) -> Path | None:
    """Return where a file is on this machine, compressed or not; None where it is not."""
    for folder in _folders(file.folder):
        for name in (file.name, f"{file.name}.gz", f"{file.name}.xz"):
            if (folder / name).is_file():
                return folder / name
    return None


def _folders(folder: str) -> list[Path]:
    placed = os.environ.get("JAXGEN_DATA")
    roots = [*([Path(placed).expanduser()] if placed else []), _cache()]
    return [place for root in roots for place in (root / folder, root)]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "jaxgen"


def _explain(missing: Sequence[KnownFile], failures: Sequence[str]) -> str:
    folder = missing[0].folder
    unset = [] if os.environ.get("JAXGEN_DATA") else ["  (JAXGEN_DATA is not set)"]
    return "\n".join(
        [
            f"cannot find or download {', '.join(file.name for file in missing)}",
            "looked for them, plain or with .gz or .xz, in",
            *(f"  {place}" for place in _folders(folder)),
            *unset,
            "the download failed:",
            *(f"  {failure}" for failure in failures),
            f"to place them by hand, put into a folder DIR/{folder} and set JAXGEN_DATA=DIR:",
            *(f"  {file.name} from {' or '.join(file.urls)}" for file in missing),
        ]
    )
