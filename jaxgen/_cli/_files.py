"""Files of either kind: which kind one is, and writing so that nobody sees half of one."""

from pathlib import Path

from jaxgen.data import DataFormatError, DataNotFoundError

IDX_MAGIC = b"\0\0\x08"


def is_images(path: Path) -> bool:
    """Whether a path is of images: a folder, a .png or .npy file, or one that starts as IDX does.

    Raises:
      DataNotFoundError: there is nothing at the path.
    """
    if path.is_dir() or path.suffix.lower() in (".png", ".npy"):
        return path.exists() or _missing(path)
    if not path.is_file():
        return _missing(path)
    return content_of(path).startswith(IDX_MAGIC)


def content_of(path: Path) -> bytes:
    """Return the content of a file, uncompressed where it is gzipped.

    Raises:
      DataNotFoundError: there is no such file.
      DataFormatError: a file without content, or a damaged gzip stream.
    """
    from jaxgen.data._content import uncompress

    if not path.is_file():
        _missing(path)
    content = uncompress(path.read_bytes(), path, _MOST_BYTES)
    if not content:
        raise DataFormatError(path, "file is empty")
    return content


_MOST_BYTES = 1 << 32


def _missing(path: Path) -> bool:
    raise DataNotFoundError(f"{path}: there is no such file or folder")
