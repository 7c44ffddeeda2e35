"""Text files as one stream of symbols, cut into windows that are read when they are asked for."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.data._content import GZIP_MAGIC, XZ_MAGIC
from jaxgen.data._errors import DataFormatError
from jaxgen.data._source import Source
from jaxgen.data._stored import StoredFile, digest, find, locate, mapped
from jaxgen.data._text import ByteVocabulary, CharacterVocabulary

_PIECE = 1 << 20  # at least the 4 bytes of a character


class Cut(NamedTuple):
    """Where the windows of a file begin.

    Attributes:
      file: the file.
      num_windows: whole windows in it.
      num_left_over: symbols behind the last of them.
      starts: the byte at which each begins, and the last ends; None where a symbol is a byte.
    """

    file: StoredFile
    num_windows: int
    num_left_over: int
    starts: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class TextFiles(Source):
    """The windows of T symbols of one or several text files, one after the other.

    The first window of a file begins where the file does, the next where that one ends, and none
    reaches into the next file; the symbols left over at the end of a file, fewer than T, are in no
    window. Opening reads the files once where symbols are characters, and not at all where they
    are bytes.

    Attributes:
      paths: one file, or several in order.
      length: T, the symbols of a window; an example is int32 `[T]`.
      vocabulary: what symbols mean; None takes the characters that occur in the files.
      num_left_over: symbols of all files that are in no window.
      fingerprint: a digest of the sizes of the files and of pieces of each, of T and of the
        vocabulary.

    Raises:
      DataNotFoundError: a path that leads to no file.
      DataFormatError: a file that is compressed or empty, is not UTF-8, or has a character that the
        vocabulary has not.
      ValueError: `length` below 1, or above the symbols of every file.
    """

    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    length: int
    vocabulary: CharacterVocabulary | ByteVocabulary | None = None
    num_left_over: int = dataclasses.field(init=False, repr=False)
    fingerprint: str = dataclasses.field(init=False, repr=False)
    _cuts: tuple[Cut, ...] = dataclasses.field(init=False, repr=False, compare=False)
    _ends: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find where windows begin."""
        check_count("length", self.length)
        files, vocabulary = find(self.paths), self.vocabulary
        for file in files:
            _refuse_compressed(file)
        if isinstance(vocabulary, ByteVocabulary):
            cuts = [Cut(file, *divmod(file.num_bytes, self.length), None) for file in files]
        else:
            known = None if vocabulary is None else set(vocabulary.characters)
            characters: set[str] = set()
            cuts = [_cut(file, self.length, characters, known) for file in files]
            vocabulary = vocabulary or CharacterVocabulary("".join(sorted(characters)))
        ends = np.cumsum([cut.num_windows for cut in cuts])
        if not ends[-1]:
            longest = max(cut.num_left_over for cut in cuts)
            raise ValueError(
                f"length must be at most {longest}, the longest file, got {self.length}"
            )
        num_left_over = sum(cut.num_left_over for cut in cuts)
        content = f"{digest(files)} {self.length} {vocabulary}".encode("utf-8", "surrogatepass")
        paths = tuple(file.path for file in files)
        digests = hashlib.sha256(content).hexdigest()
        found = (paths, self.length, vocabulary, num_left_over, digests, tuple(cuts), ends)
        for field, value in zip(dataclasses.fields(self), found, strict=True):
            object.__setattr__(self, field.name, value)

    def __len__(self) -> int:
        """Return the number of windows in all files."""
        return int(self._ends[-1])

    def _read(self, rows: np.ndarray) -> np.ndarray:
        file, window = locate(rows, self._ends)
        contents = {i: mapped(self._cuts[i].file) for i in np.unique(file)}
        pieces = [contents[i][slice(*self._bytes(i, w))] for i, w in zip(file, window, strict=True)]
        content = b"".join(pieces)
        if isinstance(self.vocabulary, ByteVocabulary):
            symbols = self.vocabulary.encode(content)
        else:
            assert self.vocabulary is not None
            symbols = self.vocabulary.encode(content.decode("utf-8"))
        return symbols.reshape(len(rows), self.length)

    def _bytes(self, file: int, window: int) -> tuple[int, int]:
        """Return the first byte of a window and the one after its last."""
        starts = self._cuts[file].starts
        if starts is None:
            return int(window) * self.length, (int(window) + 1) * self.length
        return int(starts[window]), int(starts[window + 1])


def _refuse_compressed(file: StoredFile) -> None:
    with file.path.open("rb") as opened:
        head = opened.read(len(XZ_MAGIC))
    if head.startswith((GZIP_MAGIC, XZ_MAGIC)):
        raise DataFormatError(
            file.path, "file is compressed, so cannot be mapped; uncompress it", 0
        )


def _cut(file: StoredFile, length: int, found: set[str], known: set[str] | None) -> Cut:
    """Cut a file into windows of characters, and add its characters to those found."""
    content = np.frombuffer(mapped(file), np.uint8)
    starts, num_symbols, begin = [], 0, 0
    while begin < len(content):
        end = _character_end(content, begin + _PIECE)
        piece = content[begin:end]
        new = _characters(piece.tobytes(), begin, file) - found
        if known is not None and not new <= known:
            raise _unknown(file, min(new - known), known)
        found |= new
        firsts = np.flatnonzero((piece & 0xC0) != 0x80)  # all bytes but continuations
        starts.append(begin + firsts[-num_symbols % length :: length])
        num_symbols += len(firsts)
        begin = end
    num_windows, num_left_over = divmod(num_symbols, length)
    if num_symbols == len(content):
        return Cut(file, num_windows, num_left_over, None)
    bounds = np.concatenate([*starts, [len(content)]])[: num_windows + 1]
    return Cut(file, num_windows, num_left_over, bounds)


def _character_end(content: np.ndarray, end: int) -> int:
    """Return `end`, or the few bytes before it where it is inside a character of UTF-8."""
    if end >= len(content):
        return len(content)
    for shift in range(4):
        if content[end - shift] & 0xC0 != 0x80:
            return end - shift
    return end  # not UTF-8, which decoding says


def _characters(piece: bytes, begin: int, file: StoredFile) -> set[str]:
    """Return the characters of a piece of a file that begins at a byte."""
    try:
        return set(piece.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason}); give vocabulary=ByteVocabulary() to read bytes"
        raise DataFormatError(file.path, problem, begin + error.start) from error


def _unknown(file: StoredFile, character: str, known: set[str]) -> DataFormatError:
    offset = mapped(file).find(character.encode())
    problem = f"character {character!r} is none of the {len(known)} of the vocabulary"
    return DataFormatError(file.path, problem, offset)
