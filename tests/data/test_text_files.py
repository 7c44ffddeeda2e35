import gzip
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data import _text_files as text_files
from jaxgen.data._errors import DataChangedError, DataFormatError, DataNotFoundError
from jaxgen.data._text import ByteVocabulary, CharacterVocabulary
from jaxgen.data._text_files import TextFiles

TEXTS = ["naïve café 🙂\n" * 7, "plain ascii, and no more. " * 3, "ab", "日本語テキスト。" * 9]


def save(folder, texts):
    paths = [folder / f"{i}.txt" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return paths


def windows(text, length):
    return [text[i : i + length] for i in range(0, len(text) - length + 1, length)]


@pytest.mark.parametrize("length", [1, 2, 5, 26])
@pytest.mark.parametrize("piece", [4, 7, 1 << 20])
def test_characters_are_cut_into_windows(tmp_path, monkeypatch, length, piece):
    monkeypatch.setattr(text_files, "_PIECE", piece)
    source = TextFiles(save(tmp_path, TEXTS), length)
    expected = [window for text in TEXTS for window in windows(text, length)]
    assert source.vocabulary == CharacterVocabulary("".join(sorted(set("".join(TEXTS)))))
    assert len(source) == len(expected)
    assert source.num_left_over == sum(len(text) % length for text in TEXTS)
    rows = np.random.default_rng(0).integers(0, len(source), 50)
    batch = source[rows]
    assert batch.dtype == np.int32
    assert batch.shape == (50, length)
    for row, symbols in zip(rows, batch, strict=True):
        assert source.vocabulary.decode(symbols) == expected[row]
    assert source.vocabulary.decode(source[-1]) == expected[-1]
    assert source[[]].shape == (0, length)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=3), st.integers(1, 3))
def test_any_text_is_read(tmp_path_factory, text, length):
    path = tmp_path_factory.mktemp("text") / "a"
    path.write_bytes(text.encode())
    source = TextFiles(path, length)
    read = source.vocabulary.decode(source[np.arange(len(source))].ravel())
    assert read == text[: len(text) - len(text) % length]


def test_bytes_are_cut_into_windows(tmp_path):
    contents = [np.random.default_rng(i).bytes(11 + i) for i in range(3)]
    paths = [tmp_path / str(i) for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    source = TextFiles(paths, 4, ByteVocabulary())
    expected = [window for content in contents for window in windows(content, 4)]
    assert source.num_left_over == 3 + 0 + 1
    assert [bytes(window) for window in source[np.arange(len(source))].tolist()] == expected


def test_a_vocabulary_that_is_given_is_kept(tmp_path):
    paths = save(tmp_path, ["abcab", "ccc"])
    vocabulary = CharacterVocabulary("abcd")
    assert TextFiles(paths, 2, vocabulary)[0].tolist() == [0, 1]
    assert TextFiles(paths, 2, vocabulary).vocabulary is vocabulary
    with pytest.raises(DataFormatError, match=r"0\.txt: character 'c' is none of the 2.*byte 2$"):
        TextFiles(paths, 2, CharacterVocabulary("ab"))


@pytest.mark.parametrize("piece", [4, 1 << 20])
@pytest.mark.parametrize("content", [b"abc\xffdef", b"abc\xc3", b"abc\x80\x80\x80\x80\x80\x80"])
def test_what_is_not_utf8_is_refused_with_the_byte(tmp_path, monkeypatch, piece, content):
    monkeypatch.setattr(text_files, "_PIECE", piece)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"not UTF-8.*ByteVocabulary.*at byte 3$"):
        TextFiles(tmp_path / "a", 2)


def test_what_cannot_be_cut_is_refused(tmp_path):
    paths = save(tmp_path, ["abc", "ab"])
    with pytest.raises(ValueError, match="length must be at most 3, the longest file, got 4"):
        TextFiles(paths, 4)
    with pytest.raises(ValueError, match="length must be at least 1"):
        TextFiles(paths, 0)
    paths[0].write_bytes(gzip.compress(b"abc"))
    for vocabulary in (None, ByteVocabulary()):
        with pytest.raises(DataFormatError, match="file is compressed, so cannot be mapped"):
            TextFiles(paths, 1, vocabulary)
    with pytest.raises(DataNotFoundError, match="there is no such file"):
        TextFiles(tmp_path / "none", 1)


def test_a_file_that_has_changed_is_refused(tmp_path):
    paths = save(tmp_path, ["abc", "abc"])
    source = TextFiles(paths, 3)
    source[0]
    paths[0].write_text("cba")
    os.utime(paths[0], ns=(0, 0))
    source[1]
    with pytest.raises(DataChangedError, match=r"0\.txt: the file has changed since"):
        source[np.array([1, 0])]


def test_the_fingerprint_is_of_the_windows(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    paths = save(tmp_path, ["abab", "abab", "baba"])
    assert TextFiles(paths[0], 2).fingerprint == TextFiles(paths[1], 2).fingerprint
    found = [
        TextFiles(paths[0], 2),
        TextFiles(paths[0], 1),
        TextFiles(paths[2], 2),
        TextFiles(paths[:2], 2),
        TextFiles(paths[0], 2, CharacterVocabulary("abc")),
        TextFiles(paths[0], 2, ByteVocabulary()),
        TextFiles(save(other, ["ab", "abab"]), 2),
        TextFiles(save(other, ["abab", "ab"]), 2),
    ]
    assert len({source.fingerprint for source in found}) == len(found)
