"""Arrays in files of NumPy, mapped into memory, so that only the rows asked for are read."""

import dataclasses
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxgen.data._errors import DataFormatError
from jaxgen.data._source import Source
from jaxgen.data._stored import StoredFile, digest, find, locate, mapped

_ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: then its name and what is extra
_VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Stored(NamedTuple):
    """An array `[N, ...]` in a file.

    Attributes:
      shape: its shape.
      dtype: its dtype there, in whatever order of bytes.
      offset: where its first byte is.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class Shard(NamedTuple):
    """A file and its arrays by name; the one array of a .npy file has the name ""."""

    file: StoredFile
    arrays: dict[str, Stored]

    @property
    def num_rows(self) -> int:
        """Return N."""
        return next(iter(self.arrays.values())).shape[0]

    @property
    def kind(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return what all shards must have in common."""
        return {name: (a.shape[1:], _native(a.dtype)) for name, a in self.arrays.items()}


@dataclasses.dataclass(frozen=True)
class ArrayFiles(Source):
    """The rows of one or several .npy or .npz files, one after the other, mapped into memory.

    An example of .npy files is an array; of .npz files, a dict of the arrays in them, by name.

    Attributes:
      paths: one file, or several of one kind: equal names, dtypes and shapes but for N.
      fingerprint: a digest of the sizes of the files and of pieces of each.

    Raises:
      DataNotFoundError: a path that leads to no file.
      DataFormatError: a file that is neither .npy nor .npz, is cut short, has arrays in Fortran
        order, of objects, compressed, without rows, or with unequal numbers of rows; or one of
        another kind than the first.
    """

    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    fingerprint: str = dataclasses.field(init=False, repr=False)
    _shards: tuple[Shard, ...] = dataclasses.field(init=False, repr=False, compare=False)
    _ends: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the headers."""
        shards = tuple(_open(file) for file in find(self.paths))
        first = shards[0]
        for shard in shards:
            if shard.kind != first.kind:
                raise DataFormatError(
                    shard.file.path,
                    f"rows are {_words(shard)}, those of {first.file.path.name} {_words(first)}; "
                    "all must be of one kind",
                )
        ends = np.cumsum([shard.num_rows for shard in shards])
        paths = tuple(shard.file.path for shard in shards)
        found = (paths, digest(shard.file for shard in shards), shards, ends)
        for field, value in zip(dataclasses.fields(self), found, strict=True):
            object.__setattr__(self, field.name, value)

    def __len__(self) -> int:
        """Return the number of rows in all files."""
        return int(self._ends[-1])

    def _read(self, rows: np.ndarray) -> Any:
        batch = {
            name: np.empty((len(rows), *shape), dtype)
            for name, (shape, dtype) in self._shards[0].kind.items()
        }
        file, row = locate(rows, self._ends)
        for i in np.unique(file):
            shard, is_here = self._shards[i], file == i
            content = mapped(shard.file)
            for name, (shape, dtype, offset) in shard.arrays.items():
                array: np.ndarray = np.ndarray(shape, dtype, content, offset)
                batch[name][is_here] = array[row[is_here]]
        return batch.get("", batch)


def _open(file: StoredFile) -> Shard:
    with file.path.open("rb") as opened:
        is_zip = opened.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        opened.seek(0)
        if is_zip:
            arrays = _members(opened, file.path)
        else:
            arrays = {"": _header(opened, file.path, file.num_bytes)}
    sizes = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or next(iter(sizes.values())) in ((), (0,)):
        raise DataFormatError(file.path, f"arrays must have one number of rows, got {sizes}")
    return Shard(file, arrays)


def _members(opened: IO[bytes], path: Path) -> dict[str, Stored]:
    """Find the arrays of a .npz file, a zip of .npy files."""
    arrays = {}
    try:
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise DataFormatError(path, f"unreadable .npz file: {error}") from error
    for member in members:
        name = member.filename.removesuffix(".npy")
        if member.compress_type != zipfile.ZIP_STORED:
            remedy = "write the file with numpy.savez, not numpy.savez_compressed"
            raise DataFormatError(
                path, f"array {name} is compressed, so cannot be mapped; {remedy}"
            )
        opened.seek(member.header_offset)
        local = opened.read(_LOCAL_HEADER.size)
        if len(local) < _LOCAL_HEADER.size:
            raise DataFormatError(path, f"file ends inside {name}", member.header_offset)
        start = opened.seek(sum(_LOCAL_HEADER.unpack(local)), os.SEEK_CUR)
        arrays[name] = _header(opened, path, start + member.file_size)
    return arrays


def _header(opened: IO[bytes], path: Path, end: int) -> Stored:
    """Read the header of the .npy array that begins here and reaches up to `end`."""
    try:
        version = np.lib.format.read_magic(opened)
        if version not in _VERSIONS:
            raise ValueError(f"version {version} is not known here")
        shape, is_fortran, dtype = _VERSIONS[version](opened)
    except ValueError as error:
        raise DataFormatError(path, f"unreadable .npy array: {error}") from error
    if dtype.kind not in "biuf":
        raise DataFormatError(path, f"a .npy file must hold an array of numbers, got {dtype}")
    if is_fortran:
        remedy = "write it with numpy.save(path, numpy.ascontiguousarray(array))"
        raise DataFormatError(path, f"array is in Fortran order, its rows are scattered; {remedy}")
    start = opened.tell()
    num_bytes = dtype.itemsize * math.prod(shape)
    if start + num_bytes != end:
        problem = f"array of {dtype} {shape} takes {num_bytes} bytes, the file has {end - start}"
        raise DataFormatError(path, problem, start)
    return Stored(shape, dtype, start)


def _native(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("=")


def _words(shard: Shard) -> str:
    kinds = [f"{name} {dtype} {shape}".strip() for name, (shape, dtype) in shard.kind.items()]
    return ", ".join(kinds)
