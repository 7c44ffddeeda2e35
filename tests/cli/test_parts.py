import gzip
import io
import lzma
import tracemalloc

import chex
import jax
import numpy as np
import pytest

import jaxgen as jg
from jaxgen._cli import _files as files
from jaxgen._cli import _images as images
from jaxgen._cli import _parts as parts
from jaxgen._cli import _text as text
from jaxgen._cli._main import main
from jaxgen._cli._parts import Part
from jaxgen.coding import CodeError
from jaxgen.core._files import writing
from jaxgen.data import ByteVocabulary, CharacterVocabulary, DataFormatError, GrayLevels
from jaxgen.models.autoregressive._independent import Independent

PARTS = [Part(5, b"a code"), Part(1, b""), Part(2, b"another")]


def content_of(some):
    file = io.BytesIO()
    parts.write(file, some)
    return file.getvalue()


def read(content):
    return list(parts.read(io.BytesIO(content), "file"))


CONTENT = content_of(PARTS)


def test_parts_are_read_back():
    assert read(CONTENT) == PARTS
    assert read(content_of(PARTS[:1])) == PARTS[:1]


def test_damaged_parts_are_refused():
    for bit in range(8 * len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodeError, match="file: "):
            read(bytes(damaged))
    for size in range(len(CONTENT)):
        with pytest.raises(CodeError, match="file: "):
            read(CONTENT[:size])
    with pytest.raises(CodeError, match="goes on behind its last part"):
        read(CONTENT + b"0")


def test_parts_of_other_files_left_out_or_in_another_order_are_refused():
    first, second, third = (CONTENT[a:b] for a, b in ((4, 35), (35, 60), (60, len(CONTENT))))
    assert len(third) == 25 + len(b"another")
    assert read(CONTENT[:4] + first + second + third) == PARTS
    other = content_of([Part(5, b"a code!"), *PARTS[1:]])[36:]
    for rest in (third, second + first + third, first + third, first + other, first + first):
        with pytest.raises(CodeError, match="digest is that of another"):
            read(CONTENT[:4] + rest)


@pytest.mark.parametrize(
    ("num_symbols", "size"), [(0, 0), (parts.MOST_SYMBOLS + 1, 0), (1, 2**63), (2**64 - 1, 9)]
)
def test_what_a_header_asks_for_is_bounded(num_symbols, size):
    header = parts.HEADER.pack(True, num_symbols, size)
    content = b"jxgP" + header + parts.digest_of(b"jxgP", header, b"") + b"12345678"
    tracemalloc.start()
    with pytest.raises(CodeError, match="a part is larger than the file or than parts are"):
        read(content)
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()


def test_a_part_that_counts_other_symbols_than_its_code_is_refused_before_it_is_decoded(
    monkeypatch,
):
    model = Independent(4, 2)
    params = model.init(jax.random.key(0), np.zeros((1, 4), np.int32))
    code = jg.encode(model, params, np.ones((3, 4), int))
    bundle = jg.Bundle(model, params, None, {})
    assert len(parts.decode(bundle, Part(9, code), "file")) == 9
    monkeypatch.setattr(jg, "decode", lambda *_: pytest.fail("decoded"))
    for num_symbols in (8, 13):
        with pytest.raises(CodeError, match=f"file: damaged, its header says {num_symbols} "):
            parts.decode(bundle, Part(num_symbols, code), "file")


def pieces(path, vocabulary, num_symbols):
    return list(text.in_parts(path, vocabulary, num_symbols, lambda *_: None))


@pytest.mark.parametrize("open_fn", [open, gzip.open, lzma.open])
def test_text_comes_in_parts_whatever_bytes_a_piece_ends_with(tmp_path, open_fn):
    content = "aßc\n€𝄞" * 50
    with open_fn(tmp_path / "text", "wb") as file:
        file.write(content.encode())
    vocabulary = CharacterVocabulary("".join(sorted(set(content))))
    found = pieces(tmp_path / "text", vocabulary, 7)
    assert [len(piece) for piece in found] == [7] * (len(content) // 7) + [len(content) % 7]
    assert vocabulary.decode(np.concatenate(found)) == content
    found = pieces(tmp_path / "text", ByteVocabulary(), 7)
    assert bytes(np.concatenate(found).astype(np.uint8)) == content.encode()


def test_trouble_in_a_later_part_is_told_by_line_and_column(tmp_path):
    path, vocabulary = tmp_path / "text", CharacterVocabulary("\nab")
    path.write_bytes(b"ab\nab\naab\nabaXb")
    with pytest.raises(DataFormatError, match="character 'X' in line 4, column 4 is none of the 3"):
        pieces(path, vocabulary, 5)
    path.write_bytes(b"ab\nab\naab\nab\xffb")
    with pytest.raises(DataFormatError, match=r"not UTF-8 \(invalid start byte\) in line 4"):
        pieces(path, vocabulary, 5)
    path.write_bytes(b"ab\xe2\x82")
    with pytest.raises(DataFormatError, match=r"not UTF-8 \(unexpected end of data\) in line 1"):
        pieces(path, vocabulary, 5)
    path.write_bytes(b"")
    with pytest.raises(DataFormatError, match="file is empty"):
        pieces(path, vocabulary, 5)
    for compressed in (gzip.compress(b"abab" * 9), lzma.compress(b"abab" * 9)):
        path.write_bytes(compressed[:-9])
        with pytest.raises(DataFormatError, match="damaged or cut short"):
            pieces(path, ByteVocabulary(), 5)
    assert files.size_of(path) == len(compressed) - 9


def test_images_come_in_parts(tmp_path):
    pixels = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3) * 8
    levels = GrayLevels((2, 3), 256)
    np.save(tmp_path / "images.npy", pixels)
    images.write(tmp_path / "pngs", pixels, levels)
    for name in ("images.npy", "pngs"):
        found = images.in_parts(tmp_path / name, 2)
        assert found.num_images == 5
        dealt = [part.pixels for part in found.parts]
        assert [len(part) for part in dealt] == [2, 2, 1]
        chex.assert_trees_all_equal(np.concatenate(dealt), pixels)
    images.write_parts(tmp_path / "again.npy", dealt, 5, levels)
    chex.assert_trees_all_equal(np.load(tmp_path / "again.npy"), pixels)
    images.write(tmp_path / "pngs" / "9", np.zeros((1, 3, 3), np.uint8), levels)
    (tmp_path / "pngs" / "9" / "0.png").rename(tmp_path / "pngs" / "9.png")
    with pytest.raises(DataFormatError, match=r"9.png.*image is 3x3 pixels, 0.png is 2x3"):
        list(images.in_parts(tmp_path / "pngs", 2).parts)
    np.save(tmp_path / "images.npy", np.array(["text"]))
    with pytest.raises(DataFormatError, match="must hold an array of numbers"):
        images.in_parts(tmp_path / "images.npy", 2)


def test_nothing_is_left_of_what_could_not_be_written_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), writing(path) as file:
        file.writelines([b"new", None])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MOST_SYMBOLS", 2**14)
    monkeypatch.setattr(parts, "_TEXT_ROW", 256)
    model = Independent(256, 256)
    x = np.zeros((1, 256), np.int32)
    bundle, code, out = (tmp_path / name for name in ("model", "code", "out"))
    jg.save(bundle, model, model.init(jax.random.key(0), x), vocabulary=ByteVocabulary())
    rng, data, peaks = np.random.default_rng(0), tmp_path / "data", []
    for num_parts in (2, 10, 40):  # the first compiles
        data.write_bytes(rng.bytes(num_parts * 2**14 - 5))
        tracemalloc.start()
        main(["compress", str(bundle), str(data), str(code)])
        main(["restore", str(bundle), str(code), str(out)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert out.read_bytes() == data.read_bytes()
    added = 30 * 2**14  # symbols; the whole file and its symbols would be five bytes each
    assert peaks[2] - peaks[1] < added
