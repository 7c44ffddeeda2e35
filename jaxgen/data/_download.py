"""Downloads over https: resumable, verified, and in place only when whole."""

import contextlib
import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError

from jaxgen.data._content import GZIP_MAGIC, KnownFile, check_sha256, content_of
from jaxgen.data._errors import DataFormatError

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30.0


def _build_https_only() -> urllib.request.OpenerDirector:
    # With no handler for http, ftp, file or data, such a URL is an error, also after a redirect.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


HTTPS_ONLY = _build_https_only()
"""Opens https URLs, through `https_proxy` where that is set, and refuses every other scheme."""


def download(
    file: KnownFile, folder: Path, opener: urllib.request.OpenerDirector = HTTPS_ONLY
) -> list[str]:
    """Download a file from the first of its mirrors that has it.

    What arrives goes to a hidden `.part` file, which a later call takes up where it ended. When it
    is whole, and its uncompressed content has the right sha256, it is renamed to its place.

    Args:
      file: what to download; gzipped content gets `.gz` after the name.
      folder: where to; made if missing.
      opener: what opens URLs.

    Returns:
      Failures, one line for each mirror tried; empty when the file is in place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"cannot make the folder {folder}: {error}"]
    failures = []
    for url in file.urls:
        try:
            with _locked(folder):
                _download_from(url, file, folder, opener)
        except (OSError, http.client.HTTPException, DataFormatError) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
        else:
            return []
    return failures


def _download_from(
    url: str, file: KnownFile, folder: Path, opener: urllib.request.OpenerDirector
) -> None:
    if any((folder / name).is_file() for name in (file.name, f"{file.name}.gz")):
        return  # another process brought it while this one waited for the lock
    # Mirrors may compress differently, so each has a part of its own.
    part = folder / f".{file.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
    _fetch(url, part, opener, file.max_bytes)
    data = part.read_bytes()
    try:
        check_sha256(file, content_of(file, data, file.name), file.name)
    except DataFormatError as error:
        part.unlink()
        raise OSError(f"{error}; discarded, the next try starts afresh") from error
    is_gzipped = data.startswith(GZIP_MAGIC) and not file.is_archive
    part.replace(folder / (f"{file.name}.gz" if is_gzipped else file.name))


def _fetch(url: str, part: Path, opener: urllib.request.OpenerDirector, max_bytes: int) -> None:
    """Complete `part`, from where it ends if the server can, else from the start."""
    size = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "jaxgen"} | ({"Range": f"bytes={size}-"} if size else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = opener.open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == 416 and size:
            return  # nothing past what is here: it is whole, or its checksum will tell
        raise
    with response:
        start = _start(response, size, part)
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with part.open("ab" if start else "wb") as sink:
            received = start + _copy(response, sink, part.name, start, total, max_bytes)
            sink.flush()
            os.fsync(sink.fileno())
    if received > max_bytes:
        part.unlink()
        raise OSError("the server sends far more than the file has; discarded")
    if total is not None and received != total:
        raise OSError(
            f"the connection ended after {received} of {total} bytes; run again to resume"
        )


def _start(response: Any, size: int, part: Path) -> int:
    """Return where the answer to a request for the bytes from `size` starts."""
    if response.status != 206:
        return 0  # the server ignores ranges and sends the whole
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {size}-"):
        part.unlink()
        raise OSError(f"asked for bytes {size}-, got {content_range!r}; discarded the partial file")
    return size


def _copy(
    source: Any, sink: IO[bytes], name: str, start: int, total: int | None, max_bytes: int
) -> int:
    """Copy to the end of `source`, or just beyond `max_bytes`; return the bytes copied.

    A progress bar is on stderr.
    """
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    copied = 0
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, completed=start, total=total)
        while start + copied <= max_bytes and (chunk := source.read(_CHUNK)):
            sink.write(chunk)
            copied += len(chunk)
            bar.update(task, completed=start + copied)
    return copied


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time download into a folder; the others wait."""
    import fcntl  # not on Windows, where files placed by hand still load

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
