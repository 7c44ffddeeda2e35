"""Binarized MNIST: the static bits that published likelihoods are compared on."""

import functools
import os

import numpy as np

from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile
from jaxgen.data._data_set import DataSet, Split
from jaxgen.data._errors import DataFormatError

NUM_TRAIN, NUM_VALID, NUM_TEST = 50_000, 10_000, 10_000
NUM_DIMS = 784

_MIRROR = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"


def _known(split: str, num_lines: int, sha256: str) -> KnownFile:
    name = f"binarized_mnist_{split}.amat"
    num_bytes = num_lines * 2 * NUM_DIMS
    return KnownFile("binarized_mnist", name, sha256, num_bytes, (f"{_MIRROR}/{name}",))


FILES = (
    _known("train", NUM_TRAIN, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
    _known("valid", NUM_VALID, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
    _known("test", NUM_TEST, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
)


def binarized_mnist() -> DataSet:
    """Load the static binarization of MNIST (Salakhutdinov & Murray 2008).

    The files and their split are those of Larochelle & Murray (2011).

    Returns:
      A `DataSet` of 50,000 / 10,000 / 10,000 with `x` uint8 `[N, 784]` of zeros and ones, without
      labels.

    Raises:
      DataNotFoundError: files are neither here nor to be had; it says how to place them.
      DataFormatError: a file is not what it should be.
    """
    paths = files.find(FILES)
    train, valid, test = (
        Split(files.load(file, path, functools.partial(parse_amat, num_lines=num_lines)), None)
        for file, path, num_lines in zip(
            FILES, paths, (NUM_TRAIN, NUM_VALID, NUM_TEST), strict=True
        )
    )
    return DataSet("binarized_mnist", train, valid, test, num_symbols=2, example_shape=(28, 28))


def parse_amat(
    content: bytes,
    path: str | os.PathLike[str],
    num_lines: int,
    num_dims: int = NUM_DIMS,
    separator: bytes = b" ",
) -> np.ndarray:
    r"""Read lines of zeros and ones with one separator between them.

    Args:
      content: the whole uncompressed file; the last line may lack its newline.
      path: what errors call the file.
      num_lines: how many lines there must be.
      num_dims: how many numbers a line must hold.
      separator: the byte between two numbers, a space or a comma.

    Returns:
      uint8 `[num_lines, num_dims]`.

    Raises:
      DataFormatError: anything but a zero or a one, a line too short or too long, or a line missing
        or too many; with the line and the byte.

    >>> parse_amat(b"0 1\n1 1\n", "small.amat", num_lines=2, num_dims=2).tolist()
    [[0, 1], [1, 1]]
    """
    width = 2 * num_dims
    if len(content) % width == width - 1:
        content += b"\n"
    text = np.frombuffer(content, np.uint8)
    num_whole, num_left = divmod(len(text), width)
    # Every line is the line of zeros but for the lowest bit of its digits: one pass over the bytes.
    zeros = np.frombuffer((b"0" + separator) * (num_dims - 1) + b"0\n", np.uint8)
    allowed = np.tile(np.array([1, 0], np.uint8), num_dims)
    lines = text[: num_whole * width].reshape(num_whole, width) ^ zeros
    rest = text[num_whole * width :] ^ zeros[:num_left]
    for start, wrong in ((0, lines > allowed), (lines.size, rest > allowed[:num_left])):
        if wrong.any():
            raise _malformed(content, path, start + int(np.argmax(wrong)), width, separator)
    if num_left:
        raise DataFormatError(path, f"file ends inside line {num_whole + 1}", len(content))
    if num_whole != num_lines:
        problem = f"file has {num_whole} lines, expected {num_lines}"
        raise DataFormatError(path, problem, min(num_whole, num_lines) * width)
    return np.ascontiguousarray(lines[:, ::2])


def _malformed(
    content: bytes, path: str | os.PathLike[str], offset: int, width: int, separator: bytes
) -> DataFormatError:
    line, column = divmod(offset, width)
    found, number = content[offset : offset + 1], column // 2 + 1
    if found == b"\n":
        num_found = (column + 1) // 2
        problem = f"line {line + 1} has {num_found} numbers, expected {width // 2}"
    elif column == width - 1:
        problem = f"line {line + 1} goes on after {width // 2} numbers"
    elif column % 2:
        expected = {b" ": "a space", b",": "a comma"}[separator]
        problem = f"line {line + 1} has {found!r} after number {number}, expected {expected}"
    else:
        problem = f"line {line + 1} has {found!r} as number {number}, expected 0 or 1"
    return DataFormatError(path, problem, offset)
