import hashlib

import chex
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
    chex.assert_trees_all_equal(np.sort(digits.permutation()), np.arange(1797))


def test_the_content_and_its_order_never_change(data):
    arrays = [array for split in (data.train, data.valid, data.test) for array in split]
    content = b"".join(array.astype("<i4").tobytes() for array in arrays)
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "5877c35745c5b4d947e94fc4a322581d021e8ec9b86f3e5e65b03fd78424b52f"


def test_images_and_labels_are_scikit_learns(data):
    from sklearn.datasets import load_digits

    parts = zip(data.train, data.valid, data.test, strict=True)
    for ours, theirs in zip(parts, load_digits(return_X_y=True), strict=True):
        chex.assert_trees_all_equal(np.concatenate(ours), theirs[digits.permutation()])


def test_the_file_is_small_and_has_its_license_beside():
    assert digits._FILE.stat().st_size < 40_000
    license_text = digits._FILE.with_name("digits_license.txt").read_text()
    assert "creativecommons.org/licenses/by/4.0" in license_text
