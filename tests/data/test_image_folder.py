import os
import struct
import zlib

import chex
import numpy as np
import PIL.Image
import pytest

from jaxgen.data import _png as png
from jaxgen.data._errors import DataChangedError, DataFormatError, DataNotFoundError
from jaxgen.data._image_folder import ImageFolder
from jaxgen.data._skip_corrupt import SkipCorrupt

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (5, 4, 3), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)


def save(folder, images):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder


def chunk(name, content):
    checksum = zlib.crc32(name + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + name + content + checksum


def header(width, height, num_bits, color_type):
    content = struct.pack(">IIBB3x", width, height, num_bits, color_type)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", content)


@pytest.mark.parametrize("images", [GRAY, DEEP, COLOR], ids=["gray", "deep", "color"])
def test_images_are_read_in_the_order_of_their_names(tmp_path, images):
    save(tmp_path, images)
    (tmp_path / "01.png").rename(tmp_path / "99.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / "folder", images[:1])
    expected = images[[0, 2, 3, 4, 1]]
    source = ImageFolder(tmp_path)
    assert len(source) == 5
    assert source.names == ("00.png", "02.png", "03.png", "04.png", "99.PNG")
    assert (source.example_shape, source.dtype) == (images.shape[1:], images.dtype)
    rows = np.array([4, 0, 4])
    assert source[rows].dtype == images.dtype
    chex.assert_trees_all_equal(source[rows], expected[rows])
    chex.assert_trees_all_equal(source[-2], expected[3])
    assert source[[]].shape == (0, *images.shape[1:])


def test_other_ways_to_store_an_image_are_read_as_it(tmp_path):
    palette = PIL.Image.fromarray(COLOR[0]).quantize(12)
    opaque = np.concatenate([COLOR[1], np.full((4, 3, 1), 255, np.uint8)], -1)
    PIL.Image.fromarray(COLOR[2]).save(tmp_path / "0.png")
    palette.save(tmp_path / "1.png")
    PIL.Image.fromarray(opaque).save(tmp_path / "2.png")
    source = ImageFolder(tmp_path)
    chex.assert_trees_all_equal(source[1], np.array(palette.convert("RGB")))
    chex.assert_trees_all_equal(source[2], COLOR[1])


def test_bits_are_read_as_gray_levels(tmp_path):
    bits = GRAY[0] > 127
    PIL.Image.fromarray(bits).save(tmp_path / "0.png")
    chex.assert_trees_all_equal(ImageFolder(tmp_path)[0], np.where(bits, 255, 0))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (GRAY[0, :3], "3x3 pixels, gray, of 8 bits"),
        (DEEP[0], "4x3 pixels, gray, of 16 bits"),
        (COLOR[0], "4x3 pixels, in color, of 8 bits"),
    ],
)
def test_images_of_two_kinds_are_refused_on_opening(tmp_path, other, words):
    save(tmp_path, [*GRAY[:3], other])
    expected = rf"03\.png: image is {words}; 00\.png is 4x3 pixels, gray, of 8 bits: all must"
    with pytest.raises(DataFormatError, match=expected):
        ImageFolder(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no such folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(DataNotFoundError, match="the folder holds no PNG file"):
        ImageFolder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"a\.png: unreadable PNG: no header"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 30, 40, 60])
def test_a_truncated_image_is_corrupt_when_it_is_read(tmp_path, size):
    path = save(tmp_path, GRAY) / "02.png"
    path.write_bytes(path.read_bytes()[:size])
    source = ImageFolder(tmp_path)
    chex.assert_trees_all_equal(source[np.array([0, 4])], GRAY[[0, 4]])
    with pytest.raises(DataFormatError, match=r"02\.png: unreadable PNG"):
        source[np.arange(5)]
    with pytest.warns(RuntimeWarning, match=r"example 2 is corrupt.*02\.png"):
        images = SkipCorrupt(source)[np.arange(5)]
    chex.assert_trees_all_equal(images, GRAY[[0, 1, 3, 3, 4]])


def test_a_changed_bit_is_noticed_or_changes_no_pixel(tmp_path):
    content = (save(tmp_path, GRAY[:1]) / "00.png").read_bytes()
    num_noticed = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        try:
            image = png.decode(bytes(changed), "a.png")
        except DataFormatError:
            num_noticed += 1
        else:
            chex.assert_trees_all_equal(image, GRAY[0])
    assert num_noticed > len(content) / 2


def test_colors_that_would_be_rounded_or_shine_through_are_refused(tmp_path):
    for color_type in (2, 4, 6):
        with pytest.raises(DataFormatError, match="colors have 16 bits; save the image with 8"):
            png.kind_of(header(3, 4, 16, color_type), "a.png")
    clear = np.concatenate([COLOR[0], np.full((4, 3, 1), 254, np.uint8)], -1)
    source = ImageFolder(save(tmp_path, [clear]))
    with pytest.raises(DataFormatError, match="transparent in places"):
        source[0]


def test_a_color_that_is_transparent_is_refused(tmp_path):
    PIL.Image.fromarray(COLOR[0]).save(
        tmp_path / "0.png", transparency=tuple(COLOR[0, 1, 1].tolist())
    )
    with pytest.raises(DataFormatError, match="transparent in places"):
        ImageFolder(tmp_path)[0]


def test_a_broken_header_is_one_corrupt_image_and_not_another_kind(tmp_path):
    path = save(tmp_path, GRAY) / "02.png"
    content = bytearray(path.read_bytes())
    content[19] ^= 8  # of the width
    path.write_bytes(content)
    source = ImageFolder(tmp_path)
    with pytest.raises(DataFormatError, match="no header, or a broken one"):
        source[2]


@pytest.mark.parametrize("change", ["gone", "other", "longer"])
def test_a_file_that_has_changed_is_refused(tmp_path, change):
    source = ImageFolder(save(tmp_path, GRAY))
    path = tmp_path / "01.png"
    if change == "gone":
        path.unlink()
    elif change == "other":
        PIL.Image.fromarray(GRAY[0]).save(path)
        os.utime(path, ns=(0, 0))
    else:
        path.write_bytes(path.read_bytes() + b"x")
    chex.assert_trees_all_equal(source[0], GRAY[0])
    with pytest.raises(DataChangedError, match=r"01\.png: the file (is gone|has changed) since"):
        SkipCorrupt(source)[np.arange(3)]


def test_the_fingerprint_is_of_the_data(tmp_path):
    one, same = ImageFolder(save(tmp_path / "a", GRAY)), ImageFolder(save(tmp_path / "b", GRAY))
    assert one.fingerprint == same.fingerprint
    assert one != same
    assert one == ImageFolder(tmp_path / "a")
    content = bytearray((tmp_path / "b" / "03.png").read_bytes())
    content[-20] ^= 1
    (tmp_path / "b" / "03.png").write_bytes(content)
    assert one.fingerprint != ImageFolder(tmp_path / "b").fingerprint
    others = [GRAY[:4], GRAY[::-1], 255 - GRAY, COLOR]
    found = {ImageFolder(save(tmp_path / str(i), x)).fingerprint for i, x in enumerate(others)}
    assert len(found | {one.fingerprint}) == 5
