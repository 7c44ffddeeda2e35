"""Errors of data files: one is not there, is not what it should be, or does not stay so."""

import os


class DataNotFoundError(FileNotFoundError):
    """Files of a data set are neither on this machine nor to be had over the network."""


class DataChangedError(RuntimeError):
    """A file that a source reads from is gone, or another one, since the source was opened."""


class DataFormatError(ValueError):
    """A file does not hold what its format or its checksum promises.

    Attributes:
      path: the file.
      offset: the first byte that is wrong, counted in the uncompressed content unless `problem`
        says otherwise; None where the file is wrong as a whole.
    """

    def __init__(
        self, path: str | os.PathLike[str], problem: str, offset: int | None = None
    ) -> None:
        where = "" if offset is None else f", at byte {offset}"
        super().__init__(f"{os.fspath(path)}: {problem}{where}")
        self.path = os.fspath(path)
        self.offset = offset
