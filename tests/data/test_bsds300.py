import hashlib
import io
import zipfile

import chex
import numpy as np
import PIL.Image
import pytest

from jaxgen.data import _bsds300 as bsds300
from jaxgen.data._content import KnownFile
from jaxgen.data._errors import DataFormatError, DataNotFoundError

NUM_IMAGES = {"train": 20, "test": 3}


def png(seed):
    """A small image that is no lossy format: nothing but the test decides its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (11, 9 + seed % 3, 3), np.uint8)
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Images in an archive, whose split and number can be told from their pixels."""
    contents = {
        f"{split}/{k}.png": png(100 * (split == "test") + k)
        for split, count in NUM_IMAGES.items()
        for k in range(count)
    }
    path = tmp_path / "bsds300" / "made.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def known_files(split):
        return [
            KnownFile(
                f"bsds300/{split}",
                name[len(split) + 1 :],
                hashlib.sha256(c).hexdigest(),
                len(c),
                (),
            )
            for name, c in contents.items()
            if name.startswith(split)
        ]

    archive = KnownFile("bsds300", "made.zip", digest, path.stat().st_size, ())
    monkeypatch.setattr(bsds300, "ARCHIVE", archive)
    monkeypatch.setattr(bsds300, "known_files", known_files)
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path, contents


def load():
    return bsds300.bsds300(num_train=40, num_valid=6, num_test=9)


def restored(x):
    """Gray levels from patches: what 256 x rounds down to, with the last pixel put back."""
    full = np.concatenate([x, -x.sum(axis=1, keepdims=True)], axis=1).astype(np.float64)
    return full.reshape(-1, 8, 8)


def test_patches_are_windows_with_noise_of_one_level_without_mean():
    images = [np.random.default_rng(k).integers(0, 256, (10, 8 + k), np.uint8) for k in range(3)]
    x = bsds300.patches(images, 50, seed=1, stream=0)
    assert (x.shape, x.dtype) == ((50, 63), np.float32)
    for i, patch in enumerate(restored(x)):
        image = images[i % 3].astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8))
        noise = 256 * patch - (windows - windows.mean(axis=(-2, -1), keepdims=True))
        spread = noise.max(axis=(-2, -1)) - noise.min(axis=(-2, -1))
        assert (spread < 1.001).sum() == 1  # of one window alone it is a patch


def test_noise_is_uniform_over_a_level():
    x = bsds300.patches([np.full((8, 8), 7, np.uint8)], 20_000, seed=0, stream=0)
    deviation = 256 * restored(x)
    assert abs(deviation.var() * 64 / 63 * 12 - 1) < 0.01
    assert np.abs(deviation).max() < 1


def test_streams_and_seeds_differ_and_the_first_patches_never_change():
    image = [np.arange(120, dtype=np.uint8).reshape(10, 12)]
    draws = [bsds300.patches(image, 5, seed=s, stream=t) for s, t in ((0, 0), (0, 1), (1, 0))]
    assert len({draw.tobytes() for draw in draws}) == 3
    chex.assert_trees_all_close(
        draws[0][0, :3], np.array([-0.1787783, -0.1722590, -0.1681983]), atol=1e-6, rtol=1e-7
    )


def test_every_tenth_training_image_is_for_validation_alone(made):
    _, contents = made
    parts = load()
    assert [x.shape for x in parts] == [(40, 63), (6, 63), (9, 63)]
    images = [bsds300.gray(contents[f"train/{k}.png"], "a") for k in range(20)]
    valid = bsds300.patches([images[9], images[19]], 6, seed=0, stream=1)
    chex.assert_trees_all_equal(parts.valid, valid)
    train = bsds300.patches(images[:9] + images[10:19], 40, seed=0, stream=0)
    chex.assert_trees_all_equal(parts.train, train)


def test_images_that_lie_singly_are_those_of_the_archive(made):
    path, contents = made
    parts = load()
    path.unlink()
    for name, content in contents.items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(content)
    for single, archived in zip(load(), parts, strict=True):
        chex.assert_trees_all_equal(single, archived)
    (path.parent / "test" / "1.png").unlink()
    with pytest.raises(DataNotFoundError, match=r"cannot find or download 1\.png"):
        load()


def test_a_damaged_archive_or_image_is_refused_with_its_name(made):
    path, contents = made
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataFormatError, match=r"made\.zip: no archive of the images"):
        load()
    with pytest.raises(DataFormatError, match=r"a\.png: cannot be decoded as an image"):
        bsds300.gray(contents["test/0.png"][:60], "a.png")


def test_gray_is_the_weighted_mean_of_the_colors():
    content = io.BytesIO()
    PIL.Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)).save(
        content, "PNG"
    )
    assert bsds300.gray(content.getvalue(), "a").tolist() == [[76, 150, 29]]


def test_the_list_of_images_is_whole():
    train, test = bsds300.known_files("train"), bsds300.known_files("test")
    assert (len(train), len(test)) == (200, 100)
    assert len({file.sha256 for file in train + test}) == 300
    assert train[0].urls[0].endswith("/train/2092.jpg")
    assert "/val/" in test[0].urls[0]


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="num_valid must be at least 1"):
        bsds300.bsds300(num_valid=0)
