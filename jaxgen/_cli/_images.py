"""Gray images in files: PNG one by one, NumPy arrays, IDX."""

import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jaxgen._cli import _files as files
from jaxgen.core._files import write_bytes, writing
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
        paths = [path / name for name in png.names_in(path)]
        return _read_pngs(paths, paths[0], _read_png(paths[0]))
    if path.suffix.lower() == ".png":
        return _read_pngs([path], path, _read_png(path))
    content = files.content_of(path)
    if path.suffix != ".npy" and not content.startswith(files.IDX_MAGIC[:2]):
        raise DataFormatError(path, "neither PNG files, nor a .npy array, nor an IDX file")
    pixels = _parse_npy(content, path) if path.suffix == ".npy" else idx.parse(content, path)
    return _as_images(pixels, path)


def _as_images(pixels: np.ndarray, path: Path) -> Images:
    """Return an array as images, if it can be some."""
    if pixels.dtype.kind not in "biuf":
        problem = f"a .npy file must hold an array of numbers, got {pixels.dtype}"
        raise DataFormatError(path, problem)
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise DataFormatError(path, f"images must be [N, H, W], got shape {list(pixels.shape)}")
    return Images(pixels, [str(i) for i in range(len(pixels))])


class InParts(NamedTuple):
    """Images that are read a few at a time.

    Attributes:
      num_images: of all parts.
      parts: the images, in their order.
    """

    num_images: int
    parts: Iterator[Images]


def in_parts(path: Path, num_images: int) -> InParts:
    """Read images as `read` does, so many at a time: PNG files, and a .npy array that is mapped.

    Other files are read whole, and then dealt out.

    Raises:
      DataNotFoundError, DataFormatError: as `read`; a PNG file's, when it is its turn.
    """
    if path.is_dir():
        paths = [path / name for name in png.names_in(path)]
        few = (paths[i : i + num_images] for i in range(0, len(paths), num_images))
        first = _read_png(paths[0])
        return InParts(len(paths), (_read_pngs(part, paths[0], first) for part in few))
    found = _mapped_npy(path) if path.suffix == ".npy" else read(path)
    slices = (slice(i, i + num_images) for i in range(0, len(found.pixels), num_images))
    dealt = (Images(found.pixels[part], found.names[part]) for part in slices)
    return InParts(len(found.pixels), dealt)


def _mapped_npy(path: Path) -> Images:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):  # compressed, or what `read` has words for
        return read(path)
    return _as_images(pixels, path) if isinstance(pixels, np.ndarray) else read(path)


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
    return write_parts(path, [images], len(images), levels)


def write_parts(
    path: Path, parts: Iterable[np.ndarray], num_images: int, levels: GrayLevels
) -> None:
    """Write images `[N, H, W]` that come in parts: a .npy array, or PNG files in a folder."""
    if path.suffix and path.suffix != ".npy":
        raise ValueError(f"{path}: images are written as .png, .npy or into a folder")
    if path.suffix == ".npy":
        with writing(path) as file:
            for i, part in enumerate(parts):
                if not i:
                    _write_npy_header(file, (num_images, *part.shape[1:]), part.dtype)
                file.write(part.tobytes())
        return
    digits = len(str(num_images - 1))
    written = (image for part in parts for image in _bytes(part, levels))
    for i, image in enumerate(written):
        write_bytes(path / f"{i:0{digits}}.png", png.encode(image))


def _write_npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


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


def _read_pngs(paths: list[Path], first_path: Path, first: np.ndarray) -> Images:
    """Read PNG files of the size and depth of a first one."""
    pixels = np.zeros((len(paths), *first.shape), first.dtype)
    for i, path in enumerate(paths):
        image = _read_png(path)
        if image.shape != first.shape:
            raise DataFormatError(
                path,
                f"image is {_size(image.shape)} pixels, {first_path.name} is {_size(first.shape)}; "
                "all must be of one size",
            )
        if image.dtype != first.dtype:
            problem = (
                f"image has {image.itemsize} bytes a pixel, {first_path.name} {first.itemsize}"
            )
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
