"""CIFAR-10: 60,000 photographs of 32×32 pixels in three channels of 256 levels."""

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import DataSet, Split
from jaxgen.data._errors import DataFormatError

NUM_BATCHES, BATCH_SIZE = 5, 10_000
_NUM_PIXELS, _NUM_CHANNELS = 1024, 3
_RECORD = 1 + _NUM_PIXELS * _NUM_CHANNELS

ARCHIVE = KnownFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    is_archive=True,
)

FILES = tuple(
    KnownFile("cifar10", name, sha256, _RECORD * BATCH_SIZE, ())
    for name, sha256 in {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    }.items()
)
"""The five training batches and the test batch, as they are in the archive."""


def cifar10(num_valid: int = 5_000, *, num_batches: int = NUM_BATCHES) -> DataSet:
    """Load CIFAR-10 (Krizhevsky 2009), from this machine or over the network.

    Args:
      num_valid: how many of the last training images are for validation; 0 trains on all.
      num_batches: how many of the five training batches of 10,000 images to take, the first ones.

    Returns:
      A `DataSet` with `x` uint8 `[N, 3072]` of intensities 0 to 255, row by row, column by column
      and red before green before blue, and `labels` 0 to 9.

    Raises:
      DataNotFoundError: files are neither here nor to be had; it says how to place them.
      DataFormatError: a file is not what it should be.
    """
    check_count("num_batches", num_batches)
    check_in_range("num_batches", num_batches, 1, NUM_BATCHES)
    check_count("num_valid", num_valid, 0)
    num_train = num_batches * BATCH_SIZE
    if num_valid >= num_train:
        raise ValueError(f"num_valid must be below {num_train}, got {num_valid}")
    known = (*FILES[:num_batches], FILES[-1])
    parts = [files.load(file, path, parse) for file, path in zip(known, _find(known), strict=True)]
    x, labels = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    cut = num_train - num_valid
    return DataSet(
        "cifar10",
        Split(x[:cut], labels[:cut]),
        Split(x[cut:], labels[cut:]),
        Split(*parts[-1]),
        num_symbols=256,
        example_shape=(32, 32, 3),
    )


def parse(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read records of a label and three planes as uint8 `[N, 3072]` and int32 labels `[N]`."""
    if len(content) % _RECORD:
        raise DataFormatError(path, f"records of {_RECORD} bytes end within one", len(content))
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int32)
    if labels.size and labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataFormatError(path, f"label {labels[first]} is no class", first * _RECORD)
    planes = records[:, 1:].reshape(-1, _NUM_CHANNELS, _NUM_PIXELS)
    return np.ascontiguousarray(planes.swapaxes(1, 2)).reshape(len(records), -1), labels


def _find(known: Sequence[KnownFile]) -> list[Path]:
    """Find the batches; where one is missing, take all out of the archive."""
    paths = [files.locate(file) for file in known]
    if None in paths:
        (archive,) = files.find([ARCHIVE])
        _extract(archive)
        paths = [files.locate(file) for file in known]
    return [path for path in paths if path is not None]


def _extract(archive: Path) -> None:
    """Write the batches beside the archive, each whole or not at all."""
    try:
        with tarfile.open(archive) as opened:
            for file in FILES:
                member = opened.extractfile(f"cifar-10-batches-bin/{file.name}")
                content = b"" if member is None else member.read(file.num_bytes + 1)
                part = archive.with_name(f".{file.name}.{os.getpid()}.part")
                part.write_bytes(content)
                part.replace(archive.with_name(file.name))
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DataFormatError(archive, f"no archive of the images: {error}") from error
