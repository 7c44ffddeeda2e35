"""Made files stand in for the 70,000 images."""

import gzip
import hashlib
import struct

import chex
import numpy as np
import pytest

from jaxgen.data import _mnist as mnist
from jaxgen.data._errors import DataFormatError, DataNotFoundError


def idx_bytes(array):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Six training and two test images under the names of the real files, two of them gzipped."""
    numbers = np.random.default_rng(3)
    arrays = [
        numbers.integers(0, 256, (6, 28, 28)),
        np.arange(6),
        numbers.integers(0, 256, (2, 28, 28)),
        np.array([9, 8]),
    ]
    known = []
    for index, (file, array) in enumerate(zip(mnist.FILES, arrays, strict=True)):
        content = idx_bytes(array)
        known.append(
            file._replace(
                sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content), urls=()
            )
        )
        (tmp_path / "mnist").mkdir(exist_ok=True)
        path = tmp_path / "mnist" / (file.name if index % 2 else f"{file.name}.gz")
        path.write_bytes(content if index % 2 else gzip.compress(content))
    monkeypatch.setattr(mnist, "FILES", tuple(known))
    monkeypatch.setattr(mnist, "NUM_TRAIN", 6)
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "mnist", arrays


def test_the_last_training_images_are_for_validation(made):
    _, (images, labels, test_images, test_labels) = made
    data = mnist.mnist(num_valid=2)
    chex.assert_trees_all_equal(data.train.x, images[:4].reshape(4, 784))
    chex.assert_trees_all_equal(data.valid.x, images[4:].reshape(2, 784))
    chex.assert_trees_all_equal(data.test.x, test_images.reshape(2, 784))
    chex.assert_trees_all_equal(data.train.labels, labels[:4])
    chex.assert_trees_all_equal(data.valid.labels, labels[4:])
    chex.assert_trees_all_equal(data.test.labels, test_labels)
    assert data.train.x.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert (data.num_symbols, data.example_shape) == (256, (28, 28))


def test_without_validation_all_training_images_are_for_training(made):
    data = mnist.mnist(num_valid=0)
    assert data.train.x.shape == (6, 784)
    assert data.valid.x.shape == (0, 784)


@pytest.mark.parametrize("num_valid", [-1, 60_000])
def test_an_impossible_split_is_refused(num_valid):
    with pytest.raises(ValueError, match="num_valid must be"):
        mnist.mnist(num_valid)


def test_a_file_cut_short_is_refused_with_its_name_and_the_byte(made):
    folder, _ = made
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataFormatError, match=r"train-labels-idx1-ubyte: .*at byte 13"):
        mnist.mnist(num_valid=2)


def test_a_changed_image_is_refused_by_its_checksum(made):
    folder, _ = made
    path = folder / "t10k-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataFormatError, match=r"t10k-images-idx3-ubyte\.gz: content has sha256"):
        mnist.mnist(num_valid=2)


def test_all_missing_files_are_in_one_error(made):
    folder, _ = made
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).unlink()
    names = "train-labels-idx1-ubyte, t10k-labels-idx1-ubyte"
    with pytest.raises(DataNotFoundError, match=f"cannot find or download {names}"):
        mnist.mnist(num_valid=2)


@pytest.mark.parametrize(
    ("parse", "array", "words"),
    [
        (mnist.parse_images, np.zeros((2, 27, 28)), r"expected images .*\(2, 27, 28\), at byte 3"),
        (mnist.parse_images, np.zeros(3), r"expected images .*\(3,\), at byte 3"),
        (mnist.parse_labels, np.zeros((2, 2)), r"expected labels .*\(2, 2\), at byte 3"),
        (mnist.parse_labels, np.array([3, 10, 11]), "label 10 is not a digit, at byte 9"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(parse, array, words):
    with pytest.raises(DataFormatError, match=f"some-file: {words}"):
        parse(idx_bytes(array), "some-file")
