import gzip
import hashlib
import random

import chex
import numpy as np
import pytest

from jaxgen.data import _binary as binary
from jaxgen.data._binarized_mnist import parse_amat
from jaxgen.data._content import check_sha256
from jaxgen.data._errors import DataFormatError

BITS = np.random.default_rng(3).integers(0, 2, (6, 5))


def lines_of(bits):
    return [",".join(map(str, line)).encode() + b"\n" for line in bits]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Rows of 5 bits, 3 / 2 / 1 of them, in the folder of a set; training rows in any order."""
    folder = tmp_path / "debd" / "made"
    folder.mkdir(parents=True)
    splits = []
    for name, bits in zip(("train", "valid", "test"), np.split(BITS, [3, 5]), strict=True):
        lines = lines_of(bits)
        (folder / f"made.{name}.data.gz").write_bytes(gzip.compress(b"".join(lines)))
        digest = hashlib.sha256(b"".join(sorted(lines) if name == "train" else lines)).hexdigest()
        splits.append(binary.BinaryFile(len(bits), digest, is_unordered=name == "train"))
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    monkeypatch.setattr(binary, "SETS", {"made": binary.BinarySet(5, *splits)})
    return folder


def test_the_three_files_are_the_three_splits(made):
    data = binary.binary("made")
    chex.assert_trees_all_equal(data.valid.x, BITS[3:5])
    chex.assert_trees_all_equal(data.test.x, BITS[5:])
    assert (data.train.x.dtype, data.train.labels) == (np.uint8, None)
    assert (data.name, data.num_symbols, data.example_shape) == ("made", 2, (5,))


def test_rows_of_an_unordered_file_come_sorted_whatever_their_order(made):
    lines = lines_of(BITS[:3])
    expected = np.array(sorted(BITS[:3].tolist()))
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        (made / "made.train.data.gz").write_bytes(gzip.compress(b"".join(lines)))
        chex.assert_trees_all_equal(binary.binary("made").train.x, expected)


def test_another_row_fails_the_checksum_and_so_does_another_order_where_it_counts(made):
    lines = lines_of(BITS[:3])
    (made / "made.train.data.gz").write_bytes(b"".join([*lines[:2], lines_of(1 - BITS[2:3])[0]]))
    with pytest.raises(DataFormatError, match=r"made\.train\.data\.gz: content has sha256"):
        binary.binary("made")
    (made / "made.train.data.gz").write_bytes(b"".join(lines))
    (made / "made.valid.data.gz").write_bytes(b"".join(reversed(lines_of(BITS[3:5]))))
    with pytest.raises(DataFormatError, match=r"made\.valid\.data\.gz: content has sha256"):
        binary.binary("made")


def test_a_damaged_number_is_named_with_its_line_and_byte(made):
    content = bytearray(b"".join(lines_of(BITS[3:5])))
    content[10 + 3] = ord(" ")
    (made / "made.valid.data.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataFormatError, match=r"line 2 has b' ' .*expected a comma, at byte 13"):
        binary.binary("made")


def test_a_name_without_a_set_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"name must be one of .*nltcs.*got 'mnist'"):
        binary.binary("mnist")


def test_every_known_file_has_the_size_of_its_rows_and_two_official_places():
    for name, known in binary.SETS.items():
        for file, split in zip(binary.known_files(name), known[1:], strict=True):
            assert file.num_bytes == split.num_rows * 2 * known.num_dims
            assert len(file.sha256) == 64
            assert len(file.urls) == 2
            assert all(url.endswith(f"/{name}/{file.name}") for url in file.urls)


def test_a_comma_is_no_space():
    content = b"".join(lines_of(BITS))
    parsed = parse_amat(content, "a", num_lines=6, num_dims=5, separator=b",")
    chex.assert_trees_all_equal(parsed, BITS)
    with pytest.raises(DataFormatError, match="expected a space"):
        parse_amat(content, "a", num_lines=6, num_dims=5)


def test_the_order_of_lines_counts_unless_said_otherwise():
    file = binary.known_files("nltcs")[0]
    content = b"1,0\n0,1\n"
    file = file._replace(sha256=hashlib.sha256(b"0,1\n1,0\n").hexdigest())
    check_sha256(file._replace(is_unordered=True), content, "a")
    with pytest.raises(DataFormatError, match="sha256"):
        check_sha256(file, content, "a")
