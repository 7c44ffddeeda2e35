"""The IDX format of MNIST: a magic number, big-endian sizes, then the bytes of an array."""

import math
import os

import numpy as np

from jaxgen.data._errors import DataFormatError

_UNSIGNED_BYTE = 0x08
_MAX_RANK = 64  # NumPy's


def parse(data: bytes, path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of unsigned bytes (LeCun, Cortes & Burges 1998).

    The layout is `00 00 08 R`, then R sizes of four big-endian bytes, then the array in C order.

    Args:
      data: the whole uncompressed content.
      path: what errors call the file.

    Returns:
      A read-only uint8 array with the R sizes as its shape; it shares memory with `data`.

    Raises:
      DataFormatError: a wrong magic number, another type than unsigned bytes, or more or fewer
        bytes than the header promises.

    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "two").tolist()
    [7, 9]
    """
    if len(data) < 4:
        raise DataFormatError(path, "file ends inside the IDX magic number", len(data))
    if data[:2] != b"\0\0":
        magic = data[:4].hex(" ")
        raise DataFormatError(path, f"an IDX file starts with 00 00, this one with {magic}", 0)
    if data[2] != _UNSIGNED_BYTE:
        raise DataFormatError(path, f"IDX type must be 08 (unsigned byte), got {data[2]:02x}", 2)
    rank = data[3]
    if rank == 0:
        raise DataFormatError(path, "an IDX array must have one dimension or more, got 0", 3)
    if rank > _MAX_RANK:
        raise DataFormatError(path, f"an array has at most {_MAX_RANK} dimensions, got {rank}", 3)
    start = 4 + 4 * rank
    if len(data) < start:
        problem = f"file ends inside the sizes of its {rank} dimensions"
        raise DataFormatError(path, problem, len(data))
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", rank, 4))
    end = start + math.prod(shape)  # of Python integers, which do not overflow
    if len(data) < end:
        problem = f"file ends {end - len(data)} bytes short of the {shape} its header promises"
        raise DataFormatError(path, problem, len(data))
    if len(data) > end:
        problem = f"{len(data) - end} bytes follow the {shape} that the header promises"
        raise DataFormatError(path, problem, end)
    try:
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except ValueError as error:  # no bytes, and sizes beside the 0 that no array has
        raise DataFormatError(path, f"no array has the sizes {shape}", 4) from error
