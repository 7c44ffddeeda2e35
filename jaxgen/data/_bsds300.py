"""Gray patches of natural images: the 63 dimensions on which flows are compared."""

import functools
import io
import os
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import Parts
from jaxgen.data._errors import DataFormatError

SIDE = 8
NUM_DIMS = SIDE**2 - 1
VALID_EVERY = 10  # of the training images, in the order of their numbers

_MIRROR = (
    "https://raw.githubusercontent.com/BIDS/BSDS500/a04b7c6c3a9f0ace74bf205c72a43d32e1c72722/"
    "BSDS500/data/images"
)
_GRAY = np.array([0.2989, 0.5870, 0.1140])
_WORD, _HALF_WORD = 64, 32
_NOISE_BITS = 24

ARCHIVE = KnownFile(
    "bsds300",
    "bsds300_images.zip",
    "2b325273849dac37b06cd3d0adb3048fa8ea3b8d4489654cc0f2ab32722abc4f",
    22_279_245,
    (),
)
"""All images in one file, for those who have it: folders train and test."""


def bsds300(
    *,
    num_train: int = 1_000_000,
    num_valid: int = 50_000,
    num_test: int = 250_000,
    seed: int = 0,
) -> Parts:
    r"""Draw patches of 8×8 pixels from BSDS300 (Martin et al. 2001), as Zoran & Weiss (2011) do.

    .. math:: x = \frac{g + u}{256} - \text{mean}, \qquad u \sim U[0, 1)^{64}

    with the gray levels g of a patch; the last pixel, which the others determine, is left out
    (Uria, Murray & Larochelle 2013). Training and test patches are of the 200 and the 100 images of
    the published split, and those for validation of every tenth training image, which gives none to
    train on. Every image gives as many patches, anywhere in it.

    Pixels depend on the decoder of the JPEG files, by a level at most.

    Args:
      num_train: patches to train on; a million are 252 megabytes.
      num_valid: patches to choose by.
      num_test: patches to report.
      seed: of places and noise, which depend on no library's random numbers.

    Returns:
      `Parts` of float32 `[N, 63]`.

    Raises:
      DataNotFoundError: an image is neither here nor to be had; it says how to place it.
      DataFormatError: a file is not what it should be.
    """
    sizes = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
    for name, size in sizes.items():
        check_count(name, size)
    check_count("seed", seed, minimum=0)
    train, test = _images("train"), _images("test")
    valid = train[VALID_EVERY - 1 :: VALID_EVERY]
    del train[VALID_EVERY - 1 :: VALID_EVERY]
    return Parts(
        *(
            patches(images, size, seed=seed, stream=stream)
            for stream, (images, size) in enumerate(
                zip((train, valid, test), sizes.values(), strict=True)
            )
        )
    )


def patches(
    images: Sequence[np.ndarray], num_patches: int, *, seed: int, stream: int
) -> np.ndarray:
    """Draw patches from gray images, patch i from image i modulo their number.

    Args:
      images: uint8 `[height, width]` each.
      num_patches: N.
      seed: in [0, 2⁶⁴).
      stream: which of the independent streams of the seed.

    Returns:
      float32 `[N, 63]`.
    """
    # NumPy promises the raw words of a bit generator, but not what its methods make of them.
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw
    x = np.empty((num_patches, NUM_DIMS), np.float32)
    for first, image in enumerate(images[:num_patches]):
        rows = x[first :: len(images)]
        windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))
        height, width = windows.shape[:2]
        places = (words(len(rows)) >> np.uint64(_HALF_WORD)) * np.uint64(height * width)
        row, column = np.divmod(places >> np.uint64(_HALF_WORD), np.uint64(width))
        levels = windows[row, column].reshape(len(rows), SIDE**2)
        noise = words(levels.size) >> np.uint64(_WORD - _NOISE_BITS)
        values = (levels + noise.reshape(levels.shape) * 2.0**-_NOISE_BITS) / 256
        rows[:] = (values - values.mean(axis=1, keepdims=True))[:, :-1]
    return x


def known_files(split: Literal["train", "test"]) -> list[KnownFile]:
    """Return the images of a split, in the order of their numbers."""
    lines = resources.files("jaxgen.data").joinpath("bsds300.txt").read_text().splitlines()
    folder = {"train": "train", "test": "val"}[split]
    known = []
    for line in lines:
        sha256, num_bytes, name = line.split()
        own, file_name = name.split("/")
        if own == split:
            urls = (f"{_MIRROR}/{folder}/{file_name}",)
            known.append(KnownFile(f"bsds300/{split}", file_name, sha256, int(num_bytes), urls))
    return known


def _images(split: Literal["train", "test"]) -> list[np.ndarray]:
    """Return the gray images of a split, uint8 `[height, width]` each."""
    archive = files.locate(ARCHIVE)
    if archive is not None:
        return files.load(ARCHIVE, archive, functools.partial(_unzipped, split=split))
    # One after the other, so that an error names the first that is missing, not three hundred.
    return [files.load(file, files.find([file])[0], gray) for file in known_files(split)]


def _unzipped(content: bytes, path: Path, split: Literal["train", "test"]) -> list[np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [f"{split}/{file.name}" for file in known_files(split)]
            return [gray(archive.read(name), path / name) for name in names]
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataFormatError(path, f"no archive of the images: {error}") from error


def gray(content: bytes, path: str | os.PathLike[str]) -> np.ndarray:
    """Decode an image to gray levels, uint8 `[height, width]`; DataFormatError where it is none."""
    import PIL.Image

    try:
        image = PIL.Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise DataFormatError(path, f"cannot be decoded as an image: {error}") from error
    return np.rint(np.asarray(image) @ _GRAY).astype(np.uint8)
