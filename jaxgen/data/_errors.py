"""Errors of data files: one is not there, or is not what it should be."""

import os


class DataNotFoundError(FileNotFoundError):
    """Files of a data set are neither on this machine nor to be had over the network."""


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
