"""Handwritten digits of 8×8 pixels that come with the package: real images, no download."""

import hashlib
import pathlib

import numpy as np

from jaxgen.data._data_set import DataSet, Split

NUM_TRAIN, NUM_VALID, NUM_TEST = 1257, 180, 360
NUM_EXAMPLES = NUM_TRAIN + NUM_VALID + NUM_TEST

_FILE = pathlib.Path(__file__).with_name("digits.npz")


def digits() -> DataSet:
    """Load 1,797 digits, 8×8 pixels of 17 gray levels, split 70/10/20.

    The images are the test part of Alpaydin & Kaynak (1998), "Optical recognition of handwritten
    digits", as scikit-learn has them. The split is `permutation()`: the first 1,257 are for
    training, the next 180 for validation and the last 360 for testing.

    Returns:
      A `DataSet` with `x` int32 `[N, 64]` of gray levels 0 to 16, and `labels` 0 to 9.

    >>> data = digits()
    >>> data.train.x.shape, data.valid.x.shape, data.test.x.shape
    ((1257, 64), (180, 64), (360, 64))
    """
    with np.load(_FILE, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    order = permutation()
    x, labels = images.astype(np.int32)[order], labels.astype(np.int32)[order]
    train, valid, test = (
        Split(*parts)
        for parts in zip(
            np.split(x, [NUM_TRAIN, NUM_TRAIN + NUM_VALID]),
            np.split(labels, [NUM_TRAIN, NUM_TRAIN + NUM_VALID]),
            strict=True,
        )
    )
    return DataSet("digits", train, valid, test, num_symbols=17, example_shape=(8, 8))


def permutation() -> np.ndarray:
    """Return the fixed order in which the digits are split, int64 `[1797]`.

    Index i is placed by the SHA-256 digest of its four big-endian bytes. So the split depends on no
    library's random numbers, and anyone can make it again in any language.
    """
    digests = [hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(NUM_EXAMPLES)]
    return np.array(sorted(range(NUM_EXAMPLES), key=digests.__getitem__))
