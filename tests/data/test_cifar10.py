"""Made batches stand in for the 60,000 photographs."""

import hashlib
import io
import lzma
import tarfile

import chex
import numpy as np
import pytest

from jaxgen.data import _cifar10 as cifar10
from jaxgen.data._errors import DataFormatError, DataNotFoundError

SIZE = 4


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Six batches of four: images `[6, 4, 32, 32, 3]`, labels `[6, 4]`, and contents by name."""
    numbers = np.random.default_rng(3)
    images = numbers.integers(0, 256, (6, SIZE, 32, 32, 3), np.uint8)
    labels = numbers.integers(0, 10, (6, SIZE), np.uint8)
    planes = images.transpose(0, 1, 4, 2, 3).reshape(6, SIZE, 3072)
    records = np.concatenate([labels[..., None], planes], axis=-1)
    known, contents = [], {}
    for file, batch in zip(cifar10.FILES, records, strict=True):
        contents[file.name] = batch.tobytes()
        digest = hashlib.sha256(contents[file.name]).hexdigest()
        known.append(file._replace(sha256=digest, num_bytes=batch.size))
    monkeypatch.setattr(cifar10, "FILES", tuple(known))
    monkeypatch.setattr(cifar10, "BATCH_SIZE", SIZE)
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.ARCHIVE._replace(urls=()))
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar10").mkdir()
    return images, labels, contents


def test_planes_become_pixels_and_the_last_images_are_for_validation(made, tmp_path):
    images, labels, contents = made
    for name in ("data_batch_1.bin", "data_batch_2.bin"):
        (tmp_path / "cifar10" / f"{name}.xz").write_bytes(lzma.compress(contents[name]))
    (tmp_path / "cifar10" / "test_batch.bin").write_bytes(contents["test_batch.bin"])
    data = cifar10.cifar10(num_valid=3, num_batches=2)
    train = images[:2].reshape(8, 3072)
    chex.assert_trees_all_equal(data.train.x, train[:5])
    chex.assert_trees_all_equal(data.valid.x, train[5:])
    chex.assert_trees_all_equal(data.test.x, images[-1].reshape(SIZE, 3072))
    chex.assert_trees_all_equal(data.valid.labels, labels[:2].reshape(-1)[5:])
    assert (data.num_symbols, data.example_shape) == (256, (32, 32, 3))


def test_what_is_missing_comes_out_of_the_archive(made, tmp_path, monkeypatch):
    images, _, contents = made
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    known = cifar10.ARCHIVE._replace(sha256=digest, num_bytes=len(data))
    monkeypatch.setattr(cifar10, "ARCHIVE", known)
    (tmp_path / "cifar10" / known.name).write_bytes(data)
    loaded = cifar10.cifar10(num_valid=0)
    chex.assert_trees_all_equal(loaded.train.x, images[:5].reshape(20, 3072))
    assert loaded.valid.x.shape == (0, 3072)


def test_broken_files_and_impossible_splits_are_refused(made, tmp_path):
    _, _, contents = made
    with pytest.raises(DataNotFoundError, match=r"cifar-10-binary\.tar\.gz"):
        cifar10.cifar10(num_valid=0)
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataFormatError, match="no archive of the images"):
        cifar10.cifar10(num_valid=0)
    for name, content in contents.items():
        (tmp_path / "cifar10" / name).write_bytes(content)
    broken = b"\x0b" + contents["data_batch_1.bin"][1:]
    (tmp_path / "cifar10" / "data_batch_1.bin").write_bytes(broken)
    with pytest.raises(DataFormatError, match=r"data_batch_1\.bin: label 11 is no class"):
        cifar10.cifar10(num_valid=0)
    for fields in ({"num_batches": 6}, {"num_valid": 20}, {"num_valid": -1}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            cifar10.cifar10(**fields)
