"""MNIST: 70,000 handwritten digits of 28×28 pixels in 256 gray levels."""

from pathlib import Path

import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.data import _files as files
from jaxgen.data import _idx as idx
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import DataSet, Split
from jaxgen.data._errors import DataFormatError

NUM_TRAIN, NUM_TEST = 60_000, 10_000

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)


_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def known_files(
    folder: str, mirrors: tuple[str, ...], sha256: tuple[str, str, str, str]
) -> tuple[KnownFile, ...]:
    """Return the four files of a data set that comes as MNIST does, by their digests."""
    return tuple(
        KnownFile(folder, name, digest, size, tuple(f"{mirror}/{name}.gz" for mirror in mirrors))
        for (name, size), digest in zip(_SIZES.items(), sha256, strict=True)
    )


FILES = known_files(
    "mnist",
    _MIRRORS,
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def mnist(num_valid: int = 10_000) -> DataSet:
    """Load MNIST (LeCun, Cortes & Burges 1998), from this machine or over the network.

    The standard split for likelihoods is 50,000 / 10,000 / 10,000: the last 10,000 training images
    are for validation (Larochelle & Murray 2011).

    Args:
      num_valid: how many of the last of the 60,000 training images are for validation; 0 trains on
        all of them and leaves the validation split empty.

    Returns:
      A `DataSet` with `x` uint8 `[N, 784]` of intensities 0 to 255, and `labels` 0 to 9.

    Raises:
      DataNotFoundError: files are neither here nor to be had; it says how to place them.
      DataFormatError: a file is not what it should be.
    """
    return load("mnist", FILES, num_valid)


def load(name: str, known: tuple[KnownFile, ...], num_valid: int) -> DataSet:
    """Load a data set that comes as MNIST does, from its four files in MNIST's order."""
    check_count("num_valid", num_valid, 0)
    if num_valid >= NUM_TRAIN:
        raise ValueError(f"num_valid must be below {NUM_TRAIN}, got {num_valid}")
    paths = files.find(known)
    parts = [
        files.load(file, path, parse_labels if "labels" in file.name else parse_images)
        for file, path in zip(known, paths, strict=True)
    ]
    x, labels, test_x, test_labels = parts
    cut = NUM_TRAIN - num_valid
    return DataSet(
        name,
        Split(x[:cut], labels[:cut]),
        Split(x[cut:], labels[cut:]),
        Split(test_x, test_labels),
        num_symbols=256,
        example_shape=(28, 28),
    )


def parse_images(content: bytes, path: Path) -> np.ndarray:
    """Read an IDX file of 28×28 images as uint8 `[N, 784]`; DataFormatError for other shapes."""
    images = idx.parse(content, path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataFormatError(path, f"expected images of [N, 28, 28], got {images.shape}", 3)
    return images.reshape(-1, 784)


def parse_labels(content: bytes, path: Path) -> np.ndarray:
    """Read an IDX file of labels as int32 `[N]`; DataFormatError for one outside 0 to 9."""
    labels = idx.parse(content, path)
    if labels.ndim != 1:
        raise DataFormatError(path, f"expected labels of [N], got {labels.shape}", 3)
    if labels.size and labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataFormatError(path, f"label {labels[first]} is not a digit", 8 + first)
    return labels.astype(np.int32)
