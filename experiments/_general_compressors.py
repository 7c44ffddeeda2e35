"""Compressors that know nothing of the data: the standard library's, and what is installed."""

import bz2
import contextlib
import functools
import importlib
import io
import lzma
import math
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WEBP", "lossless": True, "quality": 100},
    "jpeg_xl": {"format": "JXL", "lossless": True, "effort": 9},
}
"""Flags with which Pillow saves pictures without loss."""


def of_bytes(raw: bytes, before: bytes = b"") -> dict[str, int]:
    """Return the bytes that each compressor makes of `raw`, given `before` to learn from.

    What comes first is counted as what the whole takes beyond it; zstd takes it as a dictionary.
    """
    sizes = {
        "xz": _beyond(
            lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), before, raw
        ),
        "bzip2": _beyond(lambda data: bz2.compress(data, 9), before, raw),
    }
    if shutil.which("zstd"):
        sizes["zstd"] = _zstd(before, raw)
    return sizes


def of_images(images: np.ndarray, *, is_binary: bool) -> dict[str, int]:
    """Return the bytes that each makes of images `[N, H, W]`, uint8, laid out as one.

    Args:
      images: bits, or gray levels.
      is_binary: whether they are bits, which are then packed by eights.
    """
    flat = images.reshape(len(images), -1)
    sizes = of_bytes((np.packbits(flat, axis=1) if is_binary else flat).tobytes())
    sheet = PIL.Image.fromarray(_sheet(images.astype(bool) if is_binary else images))
    sizes["png"] = _saved(sheet, **FORMATS["png"])
    try:
        sizes["webp"] = _saved(sheet.convert("RGB"), **FORMATS["webp"])
    except (KeyError, OSError):
        print("Pillow has no WebP here; its row is left out")
    return sizes


def of_picture(pixels: np.ndarray) -> dict[str, int]:
    """Return the bytes that each format of pictures takes for one, uint8 `[H, W, 3]`, losslessly.

    PNG is that of Pillow at its best; JPEG XL wants the package `pillow-jxl-plugin`.
    """
    image, sizes = PIL.Image.fromarray(pixels), {}
    for name, options in _formats().items():
        file = io.BytesIO()
        image.save(file, **options)
        with PIL.Image.open(file) as read:
            if (np.asarray(read) != pixels).any():
                raise ArithmeticError(f"{name} lost what it was given")
        sizes[name] = len(file.getvalue())
    return sizes


@functools.cache
def _formats() -> dict[str, Any]:
    """Return the formats that are here, with the flags of each that lose nothing."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_jxl")
    found = {}
    for name, flags in FORMATS.items():
        try:
            _saved(PIL.Image.new("RGB", (1, 1)), **flags)
            found[name] = flags
        except (KeyError, OSError):
            print(f"Pillow has no {name} here; its row is left out")
    return found


def _beyond(compress_fn: Callable[[bytes], bytes], before: bytes, raw: bytes) -> int:
    first = len(compress_fn(before)) if before else 0
    return len(compress_fn(before + raw)) - first


def _zstd(before: bytes, raw: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        source, known = pathlib.Path(folder) / "source", pathlib.Path(folder) / "known"
        source.write_bytes(raw)
        known.write_bytes(before)
        words = ["zstd", "--ultra", "-22", "-c", "-q", str(source)]
        words += [f"--patch-from={known}"] if before else []
        return len(subprocess.run(words, capture_output=True, check=True).stdout)


def _sheet(images: np.ndarray) -> np.ndarray:
    """Return images `[N, H, W]` side by side, about as many rows as columns."""
    num, height, width = images.shape
    columns = math.isqrt(num)
    rows = -(-num // columns)
    padded = np.zeros((rows * columns, height, width), images.dtype)
    padded[:num] = images
    grid = padded.reshape(rows, columns, height, width).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width)


def _saved(image: PIL.Image.Image, **options: object) -> int:
    file = io.BytesIO()
    image.save(file, **options)  # type: ignore[arg-type]
    return len(file.getvalue())
