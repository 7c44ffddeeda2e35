import gzip
import hashlib

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data import _text as text
from jaxgen.data._content import KnownFile
from jaxgen.data._errors import DataFormatError, DataNotFoundError

SENTENCE = "naïve café 🙂\n" * 10


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_characters_are_encoded_and_decoded(message):
    vocabulary = text.CharacterVocabulary("".join(sorted(set(message))))
    symbols = vocabulary.encode(message)
    assert symbols.dtype == np.int32
    assert set(symbols.tolist()) == set(range(vocabulary.num_symbols))
    assert vocabulary.decode(symbols) == message


@given(st.binary())
def test_bytes_are_encoded_and_decoded(message):
    symbols = text.ByteVocabulary().encode(message)
    assert symbols.tolist() == list(message)
    assert text.ByteVocabulary().decode(symbols) == message


@pytest.mark.parametrize("message", ["abd", "ab\0", "abÿ", "ab🙂", "ab\ud800"])
def test_a_character_without_a_symbol_is_named(message):
    with pytest.raises(ValueError, match=r"got .* at position 2"):
        text.CharacterVocabulary("abc").encode(message)


def test_a_vocabulary_out_of_order_is_refused():
    for characters in ("ba", "aa"):
        with pytest.raises(ValueError, match="all different and sorted"):
            text.CharacterVocabulary(characters)


@pytest.mark.parametrize("symbols", [[-1], [3], [[0]], [0.5]])
def test_symbols_out_of_range_are_refused(symbols):
    with pytest.raises(ValueError, match="symbols must be"):
        text.CharacterVocabulary("abc").decode(np.array(symbols))


@pytest.mark.parametrize("name", ["some.txt", "some.txt.gz"])
@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_a_file_is_split_from_its_end_in_order(tmp_path, name, unit):
    content = SENTENCE.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    data = text.text(path, unit, valid_fraction=0.2, test_fraction=0.1)
    size = len(SENTENCE) if unit == "characters" else len(content)
    assert [len(data.train), len(data.valid), len(data.test)] == [
        size - round(0.2 * size) - round(0.1 * size),
        round(0.2 * size),
        round(0.1 * size),
    ]
    whole = data.vocabulary.decode(np.concatenate([data.train, data.valid, data.test]))
    assert whole == (SENTENCE if unit == "characters" else content)
    assert data.name == "some"


def test_fractions_may_leave_splits_empty(tmp_path):
    (tmp_path / "a").write_text("abcd")
    data = text.text(tmp_path / "a", valid_fraction=0.0, test_fraction=0.0)
    assert [len(data.train), len(data.valid), len(data.test)] == [4, 0, 0]


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.1, 1.0), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_out_of_range_are_refused(fractions):
    valid, test = fractions
    with pytest.raises(ValueError, match=r"fraction.* must be in \[0, 1\)"):
        text.text("names", valid_fraction=valid, test_fraction=test)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit must be one of characters, bytes"):
        text.text("names", "words")


def test_bytes_that_are_no_text_are_refused_at_the_byte_but_read_as_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(DataFormatError, match=r"a: not UTF-8 .* at byte 2"):
        text.text(tmp_path / "a")
    data = text.text(tmp_path / "a", "bytes", valid_fraction=0, test_fraction=0)
    assert data.train.tolist() == [97, 98, 255]


def test_a_gzipped_file_that_holds_far_more_than_text_could_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(70_000_000), 1))
    with pytest.raises(
        DataFormatError, match=r"a\.gz: gzip data hold more than the 67108864 bytes"
    ):
        text.text(tmp_path / "a.gz", "bytes")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(DataFormatError, match="a: file is empty"):
        text.text(tmp_path / "a")


def test_a_source_that_is_no_file_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(DataNotFoundError, match="tinyshakespeare, names or the path"):
        text.text(tmp_path / "absent.txt")


def test_a_known_text_is_found_by_name_and_checked(tmp_path, monkeypatch):
    digest = hashlib.sha256(SENTENCE.encode()).hexdigest()
    monkeypatch.setitem(
        text.KNOWN, "names", KnownFile("text", "names.txt", digest, len(SENTENCE.encode()), ())
    )
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataNotFoundError, match=r"cannot find or download names\.txt"):
        text.text("names")
    (tmp_path / "names.txt").write_text(SENTENCE, encoding="utf-8")
    assert text.text("names").name == "names"
    (tmp_path / "names.txt").write_text("other")
    with pytest.raises(DataFormatError, match="sha256"):
        text.text("names")


@given(st.integers(1, 9), st.integers(0, 8), st.integers(0, 30))
def test_windows_count_every_symbol_once_and_in_order(length, overlap, extra):
    overlap = min(overlap, length - 1)
    symbols = np.arange(length + extra)
    windows = text.evaluation_windows(symbols, length, overlap)
    chex.assert_trees_all_equal(windows.x[windows.is_scored], symbols)
    chex.assert_trees_all_equal(np.diff(windows.x, axis=1), 1)
    assert not windows.is_scored[1:, :overlap].any(), "a symbol has less context than asked for"


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="symbols must be at least length=4, got 3"):
        text.evaluation_windows(np.arange(3), 4)
    with pytest.raises(ValueError, match="overlap must be in"):
        text.evaluation_windows(np.arange(9), 4, overlap=4)
    with pytest.raises(ValueError, match="symbols must have rank 1"):
        text.evaluation_windows(np.zeros((3, 9), int), 4)
    with pytest.raises(TypeError, match="symbols must hold integers, got dtype float"):
        text.evaluation_windows(np.zeros(9), 4)
