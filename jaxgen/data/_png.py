"""PNG images: found in a folder, their headers, their pixels, and written."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.data._errors import DataFormatError, DataNotFoundError

HEADER_BYTES = 33  # the signature and the chunk IHDR

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY = 0  # the color type


class Kind(NamedTuple):
    """What is the same for all images of a set.

    Attributes:
      shape: height and width, and 3 for colors.
      num_bits: of a pixel's gray level or of a color: 16, or 8, which fewer are widened to.
    """

    shape: tuple[int, ...]
    num_bits: int

    @property
    def dtype(self) -> np.dtype:
        """Return what pixels are kept as."""
        return np.dtype(np.uint16 if self.num_bits == 16 else np.uint8)

    def __str__(self) -> str:
        """Return it in words."""
        color = "gray" if len(self.shape) == 2 else "in color"
        return f"{self.shape[0]}x{self.shape[1]} pixels, {color}, of {self.num_bits} bits"


def names_in(folder: Path) -> list[str]:
    """Return the names of the PNG files in a folder, sorted.

    Raises:
      DataNotFoundError: there is no such folder, or no PNG file in it.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder}: there is no such folder")
    with os.scandir(folder) as entries:
        found = sorted(e.name for e in entries if e.name.lower().endswith(".png") and e.is_file())
    if not found:
        raise DataNotFoundError(f"{folder}: the folder holds no PNG file")
    return found


def kind_of(head: bytes, path: str | os.PathLike[str]) -> Kind:
    """Read the kind of an image from the first `HEADER_BYTES` of its file.

    Palettes count as colors, and transparency does not count: `decode` refuses it.

    Raises:
      DataFormatError: no PNG header, a broken one, or one of colors of 16 bits, which Pillow would
        round.
    """
    header = head[12:29]
    checksum = zlib.crc32(header).to_bytes(4, "big")
    if head[:8] != _SIGNATURE or header[:4] != b"IHDR" or head[29:HEADER_BYTES] != checksum:
        raise DataFormatError(path, "unreadable PNG: no header, or a broken one")
    width, height, num_bits, color_type = struct.unpack(">IIBB", header[4:14])
    if color_type != _GRAY and num_bits > 8:
        raise DataFormatError(path, f"colors have {num_bits} bits; save the image with 8")
    shape = (height, width) if color_type == _GRAY else (height, width, 3)
    return Kind(shape, max(num_bits, 8))


def decode(content: bytes, path: str | os.PathLike[str]) -> np.ndarray:
    """Decode a PNG image.

    Args:
      content: of its file.
      path: what errors call it.

    Returns:
      Gray levels, uint8 or uint16 `[H, W]`, or red, green and blue, uint8 `[H, W, 3]`.

    Raises:
      DataFormatError: it is no whole PNG image, is transparent in places or animated, or has
        colors of 16 bits.
    """
    import PIL.Image

    kind = kind_of(content[:HEADER_BYTES], path)
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if getattr(image, "is_animated", False):
                raise DataFormatError(path, "image is animated; save one of its frames")
            if len(kind.shape) == 2:
                return np.array(image if kind.num_bits == 16 else image.convert("L"), kind.dtype)
            if image.mode == "RGB" and "transparency" not in image.info:
                return np.array(image)
            colors = np.array(image.convert("RGBA"))
    except DataFormatError:
        raise
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataFormatError(path, f"unreadable PNG: {error}") from error
    if (colors[..., 3] < 255).any():
        raise DataFormatError(path, "image is transparent in places; put it on white or black")
    return colors[..., :3]


def encode(image: np.ndarray) -> bytes:
    """Return the content of the PNG file of an image, uint8 `[H, W]` or `[H, W, 3]`."""
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
