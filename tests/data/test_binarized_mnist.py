import gzip
import hashlib

import chex
import numpy as np
import pytest

from jaxgen.data import _binarized_mnist as binarized_mnist
from jaxgen.data._binarized_mnist import parse_amat
from jaxgen.data._errors import DataFormatError

BITS = np.random.default_rng(2).integers(0, 2, (5, 4))
LINE = 2 * 4


def amat_bytes(bits):
    return b"".join(" ".join(map(str, line)).encode() + b"\n" for line in bits)


CONTENT = amat_bytes(BITS)


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:-1]], ids=["newline", "no last newline"])
def test_bits_are_read_back(content):
    parsed = parse_amat(content, "a", num_lines=5, num_dims=4)
    assert parsed.dtype == np.uint8
    chex.assert_trees_all_equal(parsed, BITS)


def changed(offset, byte):
    return CONTENT[:offset] + byte + CONTENT[offset + 1 :]


@pytest.mark.parametrize(
    ("content", "offset", "words"),
    [
        (changed(2 * LINE + 4, b"2"), 2 * LINE + 4, "line 3 has b'2' as number 3, expected 0 or 1"),
        (changed(4 * LINE, b"/"), 4 * LINE, "line 5 has b'/' as number 1"),
        (changed(1, b","), 1, "line 1 has b',' after number 1, expected a space"),
        (changed(1, b"!"), 1, "line 1 has b'!' after number 1"),  # differs in the lowest bit alone
        (changed(LINE - 1, b" "), LINE - 1, "line 1 goes on after 4 numbers"),
        (CONTENT[:LINE] + b"0 1 1\n" + CONTENT[2 * LINE :], LINE + 5, "line 2 has 3 numbers"),
        (CONTENT[:LINE] + b"\n" + CONTENT[LINE:], LINE, "line 2 has 0 numbers, expected 4"),
        (CONTENT + b"0 1 1\n", 5 * LINE + 5, "line 6 has 3 numbers"),
        (CONTENT[:-LINE], 4 * LINE, "4 lines, expected 5"),
        (CONTENT + b"0 1 1 0\n", 5 * LINE, "6 lines, expected 5"),
        (CONTENT[: 3 * LINE + 4], 3 * LINE + 4, "ends inside line 4"),
        (CONTENT.replace(b"\n", b"\r\n"), LINE - 1, "line 1 goes on after 4 numbers"),
        (b"", 0, "0 lines, expected 5"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_a_malformed_file_is_refused_with_its_name_and_the_byte(content, offset, words):
    with pytest.raises(DataFormatError) as e:
        parse_amat(content, "folder/a.amat", num_lines=5, num_dims=4)
    assert str(e.value).startswith("folder/a.amat: ")
    assert words in str(e.value)
    assert str(e.value).endswith(f"at byte {offset}")
    assert e.value.offset == offset


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Lines of 784 bits, 3 / 2 / 1 of them, under the names of the real files."""
    bits = np.random.default_rng(4).integers(0, 2, (6, 784))
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    known = []
    for file, lines in zip(binarized_mnist.FILES, np.split(bits, [3, 5]), strict=True):
        content = amat_bytes(lines)
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(content))
        known.append(
            file._replace(
                sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content), urls=()
            )
        )
    monkeypatch.setattr(binarized_mnist, "FILES", tuple(known))
    for name, size in (("NUM_TRAIN", 3), ("NUM_VALID", 2), ("NUM_TEST", 1)):
        monkeypatch.setattr(binarized_mnist, name, size)
    return tmp_path, bits


def test_the_three_files_are_the_three_splits(made):
    _, bits = made
    data = binarized_mnist.binarized_mnist()
    loaded = [split.x for split in (data.train, data.valid, data.test)]
    chex.assert_trees_all_equal(np.concatenate(loaded), bits)
    assert [len(x) for x in loaded] == [3, 2, 1]
    assert data.num_symbols == 2
    assert data.train.labels is None


def test_a_two_in_a_gzipped_file_is_refused_at_its_byte_of_the_content(made):
    folder, _ = made
    path = folder / "binarized_mnist_valid.amat.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[1568 + 10] = ord("2")
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataFormatError, match=rf"{path.name}: line 2 .*b'2' .*at byte 1578"):
        binarized_mnist.binarized_mnist()
