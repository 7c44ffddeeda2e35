"""Pictures in color of any size, by tiles: restored as they were, or refused before a code."""

import io
import struct
import tracemalloc
import zlib

import chex
import jax
import numpy as np
import PIL.Image
import pytest
from cli.test_command_line import refused, run

import jaxgen as jg
from jaxgen._cli import _listing as listings
from jaxgen._cli import _parts as parts
from jaxgen._cli import _pictures as pictures
from jaxgen._cli._listing import Listing, Picture
from jaxgen.data import Colors, DataChangedError, DataFormatError
from jaxgen.models.autoregressive._independent import Independent

TILE, DIMS = (4, 5), 60
SIZES = {"a.png": (4, 5), "b.PNG": (9, 7), "c.png": (1, 1), "d.png": (8, 10)}
MODEL = Independent(DIMS, 256)


def pixels_of(name, size=None):
    rng = np.random.default_rng(len(name) + ord(name[0]))
    return rng.integers(0, 256, (*(size or SIZES[name]), 3), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bundle of colors, one of gray levels, and a folder of pictures of several sizes."""
    place = tmp_path_factory.mktemp("pictures")
    params = MODEL.init(jax.random.key(0), np.zeros((1, DIMS), np.int32))
    jg.save(place / "colors", MODEL, params, vocabulary=Colors(TILE))
    jg.save(place / "gray", MODEL, params, vocabulary=jg.data.GrayLevels((6, 10)))
    (place / "photos").mkdir()
    for name in SIZES:
        PIL.Image.fromarray(pixels_of(name)).save(place / "photos" / name, format="PNG")
    jg._cli._main.main(["compress", *(str(place / n) for n in ("colors", "photos", "code"))])
    return place


def read(path):
    with PIL.Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("flags", [[], ["--portable"]])
def test_pictures_come_back_under_their_names(place, capsys, tmp_path, flags):
    code = tmp_path / "code"
    told = run(capsys, "compress", place / "colors", place / "photos", code, *flags).out
    num = sum(3 * h * w for h, w in SIZES.values())
    rate = f"{8 * code.stat().st_size / num:.3f} bits for each"
    assert f"{rate} of {num:,} colors, of 4 pictures in 12 tiles" in told
    run(capsys, "restore", place / "colors", code, tmp_path / "restored")
    assert sorted(path.name for path in (tmp_path / "restored").iterdir()) == sorted(SIZES)
    for name in SIZES:
        chex.assert_trees_all_equal(read(tmp_path / "restored" / name), pixels_of(name))
    told = run(capsys, "inspect", code).out
    filled = 1 - num / (12 * DIMS)
    assert f"4 of {num:,} colors, in 12 tiles of 4x5 pixels, {filled:.1%} of them filled up" in told
    assert f"{rate} color" in told


def test_a_picture_takes_the_bits_that_its_tiles_are_given(place):
    bundle = jg.read_bundle(place / "colors")
    tiles = np.concatenate([pictures.cut(pixels_of(name), TILE) for name in sorted(SIZES)])
    nats = jg.log_prob(bundle.model, bundle.params, bundle.vocabulary.encode(tiles))
    bits = 8 * (place / "code").stat().st_size
    assert 0 < bits - jg.coding.claimed_bits(nats) < 8 * 200  # headers, listing and shares


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (3, 11), (8, 5), (9, 1)])
def test_tiles_are_filled_up_with_the_last_pixels_and_joined_again(size):
    image = pixels_of("a", size)
    tiles = pictures.cut(image, TILE)
    listing = Listing(TILE, (Picture("a.png", *size),))
    assert tiles.shape == (listing.num_tiles, *TILE, 3)
    chex.assert_trees_all_equal(pictures.join(tiles, listing.pictures[0]), image)
    last = tiles[-1, (size[0] - 1) % 4 :, (size[1] - 1) % 5 :]
    chex.assert_trees_all_equal(last, np.broadcast_to(image[-1, -1], last.shape))


def test_one_picture_alone_may_be_restored_as_a_file(place, capsys, tmp_path):
    code, out = tmp_path / "code", tmp_path / "out.png"
    run(capsys, "compress", place / "colors", place / "photos" / "b.PNG", code)
    run(capsys, "restore", place / "colors", code, out)
    chex.assert_trees_all_equal(read(out), pixels_of("b.PNG"))
    for wrong in ("out.png", "out.npy"):
        error = refused(capsys, "restore", place / "colors", place / "code", tmp_path / wrong)
        assert f"{wrong}: pictures in color are restored into a folder" in error


def test_palettes_and_opaque_pictures_come_back_as_their_colors(place, capsys, tmp_path):
    (tmp_path / "in").mkdir()
    opaque = np.concatenate([pixels_of("a.png"), np.full((*TILE, 1), 255, "u1")], axis=-1)
    PIL.Image.fromarray(opaque).save(tmp_path / "in" / "a.png")
    palette = PIL.Image.fromarray(pixels_of("a.png")).quantize(4)
    palette.save(tmp_path / "in" / "b.png")
    run(capsys, "compress", place / "colors", tmp_path / "in", tmp_path / "code")
    run(capsys, "restore", place / "colors", tmp_path / "code", tmp_path / "out")
    chex.assert_trees_all_equal(read(tmp_path / "out" / "a.png"), pixels_of("a.png"))
    chex.assert_trees_all_equal(read(tmp_path / "out" / "b.png"), palette.convert("RGB"))


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def png_of_16_bits():
    """A header alone: Pillow writes no colors of 16 bits."""
    content = bytearray(saved(PIL.Image.new("RGB", (5, 4))))
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_what_cannot_be_restored_is_refused_by_name_before_a_code_is_written(
    place, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 60)
    monkeypatch.setattr(jg, "encode", lambda *_, **__: pytest.fail("encoded"))
    frames = [PIL.Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    clear = PIL.Image.fromarray(pixels_of("a.png")).quantize(4)
    bad = {
        "image is gray, the model's are in color": saved(PIL.Image.new("L", (5, 4))),
        "image is transparent in places": saved(PIL.Image.new("RGBA", (5, 4))),
        "image is transparent in places; put": saved(clear, transparency=1),
        "colors have 16 bits": png_of_16_bits(),
        "image is animated": saved(frames[0], save_all=True, append_images=frames[1:]),
        "unreadable PNG": (place / "photos" / "a.png").read_bytes()[:-30],
        "image has 8x8 pixels of at most 60": saved(PIL.Image.new("RGB", (8, 8))),
    }
    for message, content in bad.items():
        folder = tmp_path / str(len(message))
        folder.mkdir()
        (folder / "a.png").write_bytes((place / "photos" / "a.png").read_bytes())
        (folder / "z.png").write_bytes(content)
        error = refused(capsys, "compress", place / "colors", folder, tmp_path / "out")
        assert f"z.png: {message}" in error
    for path, message in (
        (tmp_path / "none", "none: there is no such folder"),
        (tmp_path / "none.png", "none.png: there is no such file or folder"),
        (place / "code", "code: a model of colors takes a PNG file or a folder of them"),
    ):
        assert message in refused(capsys, "compress", place / "colors", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_that_change_while_they_are_coded_are_refused(place, tmp_path):
    PIL.Image.fromarray(pixels_of("a.png")).save(tmp_path / "a.png")
    colors = Colors(TILE)
    listing = pictures.listing_of(tmp_path, colors)
    PIL.Image.fromarray(pixels_of("a.png", (4, 6))).save(tmp_path / "a.png")
    with pytest.raises(DataChangedError, match=r"a.png: the picture has another size"):
        list(pictures.symbols_of(tmp_path, listing, colors, 8))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(DataChangedError, match="other files are there"):
        list(pictures.symbols_of(tmp_path, listing, colors, 8))
    with pytest.raises(DataFormatError, match="takes a PNG file"):
        pictures.listing_of(place / "code", colors)


def test_models_of_another_kind_of_image_are_refused(place, capsys, tmp_path):
    error = refused(capsys, "compress", place / "gray", place / "photos", tmp_path / "out")
    assert "image is in color; convert it to gray" in error
    error = refused(capsys, "restore", place / "gray", place / "code", tmp_path / "out")
    assert "it holds pictures in color, the bundle's model is of GrayLevels" in error
    np.save(tmp_path / "gray.npy", np.zeros((1, 6, 10), np.uint8))
    run(capsys, "compress", place / "gray", tmp_path / "gray.npy", tmp_path / "gray.code")
    error = refused(capsys, "restore", place / "colors", tmp_path / "gray.code", tmp_path / "out")
    assert "it holds none in color, the bundle's model is of Colors" in error
    for command in (["sample"], ["score", place / "photos"], ["fill", place / "photos"]):
        error = refused(capsys, command[0], place / "colors", *command[1:])
        assert "colors: models of colors are for compress and restore alone" in error


def test_a_model_larger_than_a_part_is_refused(place, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MOST_SYMBOLS", DIMS - 1)
    error = refused(capsys, "compress", place / "colors", place / "photos", tmp_path / "out")
    assert "the model's data points have 60 symbols; compress takes at most 59" in error


def test_damaged_files_are_refused_before_anything_is_written(place, capsys, tmp_path):
    content = (place / "code").read_bytes()
    num_listed = (
        4 + 8 + 8 + len(listings.to_bytes(pictures.listing_of(place / "photos", Colors(TILE))))
    )
    ends = [*range(4, num_listed, 7), *range(num_listed, len(content), 97)]
    for damaged in [
        *(content[:end] for end in ends),
        *(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in ends),
        b"jxgL" + struct.pack("<Q", 2**63) + content[12:],
        content + b"0",
    ]:
        (tmp_path / "damaged").write_bytes(damaged)
        error = refused(capsys, "restore", place / "colors", tmp_path / "damaged", tmp_path / "out")
        assert "damaged: damaged, " in error
    assert not (tmp_path / "out").exists()


def code_of(place, listing):
    """A file with a digest like any other, and that listing."""
    bundle = jg.read_bundle(place / "colors")
    code = jg.encode(bundle.model, bundle.params, np.zeros((12, DIMS), np.int32))
    file = io.BytesIO()
    parts.write(file, [parts.Part(12 * DIMS, code)], listings.to_bytes(listing))
    return file.getvalue()


def test_listings_that_are_not_of_the_tiles_are_refused_and_take_no_memory(
    place, capsys, tmp_path, monkeypatch
):
    good = Listing(TILE, (Picture("a.png", 12, 20),))
    (tmp_path / "code").write_bytes(code_of(place, good))
    run(capsys, "restore", place / "colors", tmp_path / "code", tmp_path / "out.png")
    assert read(tmp_path / "out.png").shape == (12, 20, 3)
    monkeypatch.setattr(jg, "decode", lambda *_: pytest.fail("decoded"))
    for listing in (
        good._replace(tile_shape=(5, 4)),
        good._replace(pictures=(Picture("a.png", 2**13, 2**13),)),
        good._replace(pictures=(Picture("a.png", 12, 15),)),
    ):
        (tmp_path / "code").write_bytes(code_of(place, listing))
        tracemalloc.start()
        error = refused(capsys, "restore", place / "colors", tmp_path / "code", tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 2**23
        tracemalloc.stop()
        assert "code: damaged, its pictures are not of its tiles" in error
    assert not (tmp_path / "a").exists()


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """Of what stands before coding and behind it; a code comes in parts as of any file."""
    colors, image, peaks = Colors(TILE), PIL.Image.fromarray(pixels_of("a", (200, 260))), []
    (tmp_path / "in").mkdir()
    for start, num in ((0, 2), (2, 4), (4, 24)):  # the first imports
        for i in range(start, num):
            image.save(tmp_path / "in" / f"{i}.png")
        tracemalloc.start()
        listing = pictures.listing_of(tmp_path / "in", colors)
        symbols = pictures.symbols_of(tmp_path / "in", listing, colors, 64)
        pictures.write(tmp_path / "out", listing, symbols, colors)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(list((tmp_path / "out").iterdir())) == num
    assert peaks[2] - peaks[1] < 3 * 200 * 260  # one picture; there are twenty more
