"""A folder of PNG images, decoded when they are asked for."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from jaxgen.data import _png as png
from jaxgen.data._errors import DataChangedError, DataFormatError
from jaxgen.data._source import Source
from jaxgen.data._stored import StoredFile, check_unchanged

_HEAD = 4096  # bytes of each file that the fingerprint is made of


@dataclasses.dataclass(frozen=True)
class ImageFolder(Source):
    """The PNG images of a folder, in the order of their names, all of one size and one kind.

    Opening reads the heads of the files and decodes none. An image that cannot be decoded raises
    DataFormatError when it is asked for, or is passed over by `SkipCorrupt`.

    Attributes:
      folder: the folder; what lies in folders in it is no part.
      names: of the files.
      example_shape: `(H, W)` of gray images, `(H, W, 3)` of images in color.
      dtype: uint8, or uint16 for gray images of 16 bits.
      fingerprint: a digest of the sizes and the heads of all files.

    Raises:
      DataNotFoundError: there is no such folder, or no PNG file in it.
      DataFormatError: images of two sizes or kinds, or none with a header.
    """

    folder: str | os.PathLike[str]
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)
    example_shape: tuple[int, ...] = dataclasses.field(init=False, repr=False, compare=False)
    dtype: np.dtype = dataclasses.field(init=False, repr=False, compare=False)
    fingerprint: str = dataclasses.field(init=False, repr=False)
    _stamps: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the heads."""
        folder = Path(self.folder).expanduser()
        names = tuple(png.names_in(folder))
        stamps = np.zeros((len(names), 2), np.int64)
        sha256 = hashlib.sha256()
        kinds: dict[png.Kind, Path] = {}
        corrupt: DataFormatError | None = None
        for i, name in enumerate(names):
            path = folder / name
            with path.open("rb") as file:
                status, head = os.fstat(file.fileno()), file.read(_HEAD)
            stamps[i] = status.st_size, status.st_mtime_ns
            sha256.update(status.st_size.to_bytes(8, "little") + head)
            try:
                kinds.setdefault(png.kind_of(head, path), path)
            except DataFormatError as error:
                corrupt = corrupt or error
        kind = _only(kinds, corrupt)
        found = (folder, names, kind.shape, kind.dtype, sha256.hexdigest(), stamps)
        for field, value in zip(dataclasses.fields(self), found, strict=True):
            object.__setattr__(self, field.name, value)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.example_shape), self.dtype)
        for image, row in zip(images, rows, strict=True):
            image[...] = self._image(int(row))
        return images

    def _image(self, row: int) -> np.ndarray:
        path = Path(self.folder, self.names[row])
        stored = StoredFile(path, *self._stamps[row].tolist())
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataChangedError(f"{path}: the file is gone since it was opened") from error
        check_unchanged(stored)
        image = png.decode(content, path)
        if image.shape != self.example_shape or image.dtype != self.dtype:
            raise DataFormatError(path, f"image is {image.dtype} of shape {image.shape}")
        return image


def _only(kinds: dict[png.Kind, Path], corrupt: DataFormatError | None) -> png.Kind:
    """Return the kind of all images."""
    if not kinds:
        assert corrupt is not None
        raise corrupt
    kind, *others = kinds
    if others:
        raise DataFormatError(
            kinds[others[0]],
            f"image is {others[0]}; {kinds[kind].name} is {kind}: all must be of one size and kind",
        )
    return kind
