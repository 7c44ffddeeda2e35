import hashlib

import numpy as np
import pytest

from jaxgen.data import _digits as digits


@pytest.fixture(scope="module")
def data():
    return digits.digits()


def test_the_split_has_the_documented_sizes_types_and_range(data):
    for split, size in ((data.train, 1257), (data.valid, 180), (data.test, 360)):
        assert split.x.shape == (size, 64)
        assert split.labels.shape == (size,)
        assert split.x.dtype == split.labels.dtype == np.int32
        assert split.x.min() == 0
        assert split.x.max() == 16
        assert set(split.labels) == set(range(10))
    assert data.num_symbols == 17
    assert data.example_shape == (8, 8)


def test_the_splits_are_disjoint_and_cover_every_example():
    np.testing.assert_array_equal(np.sort(digits.permutation()), np.arange(1797))


def test_the_content_and_its_order_never_change(data):
    arrays = [array for split in (data.train, data.valid, data.test) for array in split]
    content = b"".join(array.astype("<i4").tobytes() for array in arrays)
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "5877c35745c5b4d947e94fc4a322581d021e8ec9b86f3e5e65b03fd78424b52f"


def test_examples_keep_their_labels(data):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    first_test = digits.permutation()[1257 + 180]
    np.testing.assert_array_equal(data.test.x[0], images[first_test].astype(np.int32))
    assert data.test.labels[0] == labels[first_test]
