"""Gray images in files: PNG one by one, NumPy arrays, IDX."""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen._cli import _files as files
from jaxgen.core._files import write_bytes
from jaxgen.data import DataFormatError, DataNotFoundError, GrayLevels
from jaxgen.data import _idx as idx
from jaxgen.data import _png as png

_LINE = 1  # pixels between the images of a sheet
_SMALLEST = 56  # pixels of an image on a sheet, which is enlarged up to that


class Images(NamedTuple):
    """Images as they stand in files.

    Attributes:
      pixels: integers or booleans, or floating-point numbers in [0, 1], `[N, H, W]`.
      names: what each is called.
    """

    pixels: np.ndarray
    names: list[str]


def read(path: Path) -> Images:
    """Read a folder of PNG files, one PNG file, a .npy array or an IDX file.

    Raises:
      DataNotFoundError: there is nothing at the path, or no PNG file in the folder.
      DataFormatError: a file that cannot be read, is in color, or of another size or depth than
        those before it.
    """
    if path.is_dir():
        return _read_pngs([path / name for name in png.names_in(path)])
    if path.suffix.lower() == ".png":
        return _read_pngs([path])
    content = files.content_of(path)
    if path.suffix != ".npy" and not content.startswith(files.IDX_MAGIC[:2]):
        raise DataFormatError(path, "neither PNG files, nor a .npy array, nor an IDX file")
    pixels = _parse_npy(content, path) if path.suffix == ".npy" else idx.parse(content, path)
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise DataFormatError(path, f"images must be [N, H, W], got shape {list(pixels.shape)}")
    return Images(pixels, [str(i) for i in range(len(pixels))])


def levels_of(images: Images, num: int | None, max_intensity: int | None) -> GrayLevels:
    """Return the gray levels that images are to be rounded to.

    Args:
      images: the images.
      num: levels; None takes 16, or all where there are fewer.
      max_intensity: of integers; None takes 255, or 65535 where that is too low.
    """
    pixels = images.pixels
    if max_intensity is None:
        deep = pixels.dtype == np.uint16 or (pixels.dtype.kind in "iu" and pixels.max() > 255)
        max_intensity = 1 if pixels.dtype == bool else 65535 if deep else 255
    if num is None:
        num = min(16, max_intensity + 1)
    return GrayLevels(pixels.shape[1:], num, max_intensity)


def encode(levels: GrayLevels, images: Images, path: Path) -> np.ndarray:
    """Return the gray levels of images, int32 `[N, D]`; errors name the file."""
    pixels = images.pixels.astype(np.uint8) if images.pixels.dtype == bool else images.pixels
    if pixels.shape[1:] != levels.image_shape:
        raise DataFormatError(
            path,
            f"images are {_size(pixels.shape[1:])} pixels, the model's are "
            f"{_size(levels.image_shape)}",
        )
    try:
        return levels.encode(pixels)
    except (TypeError, ValueError) as error:
        raise DataFormatError(path, str(error)) from error


def write(path: Path, images: np.ndarray, levels: GrayLevels, *, num_columns: int = 0) -> None:
    """Write images `[N, H, W]`: a .npy array, a .png sheet, or PNG files in a folder.

    Args:
      path: its suffix says which; without one it is a folder.
      images: intensities up to the levels' `max_intensity`, white.
      levels: what they are of.
      num_columns: of a sheet; 0 makes it about square.
    """
    if path.suffix == ".npy":
        return write_bytes(path, as_npy(images))
    if path.suffix.lower() == ".png":
        columns = num_columns or math.ceil(len(images) ** 0.5)
        return write_bytes(path, png.encode(_sheet(_bytes(images, levels), columns)))
    if path.suffix:
        raise ValueError(f"{path}: images are written as .png, .npy or into a folder")
    digits = len(str(len(images) - 1))
    for i, image in enumerate(_bytes(images, levels)):
        write_bytes(path / f"{i:0{digits}}.png", png.encode(image))
    return None


def as_npy(array: np.ndarray) -> bytes:
    """Return the content of a .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _parse_npy(content: bytes, path: Path) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataFormatError(path, f"unreadable .npy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataFormatError(path, f"a .npy file must hold an array of numbers, got {kind}")
    return array


def _read_pngs(paths: list[Path]) -> Images:
    first = _read_png(paths[0])
    pixels = np.zeros((len(paths), *first.shape), first.dtype)
    for i, path in enumerate(paths):
        image = _read_png(path) if i else first
        if image.shape != first.shape:
            raise DataFormatError(
                path,
                f"image is {_size(image.shape)} pixels, {paths[0].name} is {_size(first.shape)}; "
                "all must be of one size",
            )
        if image.dtype != first.dtype:
            problem = f"image has {image.itemsize} bytes a pixel, {paths[0].name} {first.itemsize}"
            raise DataFormatError(path, problem)
        pixels[i] = image
    return Images(pixels, [path.name for path in paths])


def _read_png(path: Path) -> np.ndarray:
    """Return the gray pixels of a PNG file, uint8 or uint16 `[H, W]`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: there is no such file or folder") from error
    pixels = png.decode(content, path)
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., :1] != pixels[..., 1:]).any():
        raise DataFormatError(path, "image is in color; convert it to gray")
    return pixels[..., 0]


def _bytes(images: np.ndarray, levels: GrayLevels) -> np.ndarray:
    return np.floor(images * (255 / levels.max_intensity) + 0.5).astype(np.uint8)


def _sheet(images: np.ndarray, num_columns: int) -> np.ndarray:
    """Return images as one, with a gray line around each."""
    scale = max(1, _SMALLEST // max(images.shape[1:]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    num_rows = -(-len(images) // num_columns)
    rest = num_rows * num_columns - len(images)
    images = np.pad(images, ((0, rest), (0, 0), (0, 0)))
    images = np.pad(images, ((0, 0), (_LINE, _LINE), (_LINE, _LINE)), constant_values=128)
    height, width = images.shape[1:]
    rows = images.reshape(num_rows, num_columns, height, width).swapaxes(1, 2)
    return rows.reshape(num_rows * height, num_columns * width)
