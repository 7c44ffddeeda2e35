"""Text in files, as a model's symbols, and text of any length by a model of short stretches."""

import codecs
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxgen as jg
from jaxgen._cli import _files as files
from jaxgen.core import Array, Key, Params, categorical_log_prob
from jaxgen.data import ByteVocabulary, CharacterVocabulary, DataFormatError

_BATCH_SIZE = 64


def read(path: Path, vocabulary: CharacterVocabulary | ByteVocabulary) -> np.ndarray:
    """Return the symbols of a text file, int32 `[N]`.

    Raises:
      DataNotFoundError: there is no such file.
      DataFormatError: it is empty, not UTF-8, or has a character that the model does not know; line
        and column are counted from 1.
    """
    content = files.content_of(path)
    if isinstance(vocabulary, ByteVocabulary):
        return vocabulary.encode(content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, content.count(b"\n", 0, error.start) + 1) from error
    return encode(text, vocabulary, Place(path))


def in_parts(
    path: Path,
    vocabulary: CharacterVocabulary | ByteVocabulary,
    num_symbols: int,
    update: Callable[[int, str], None],
) -> Iterator[np.ndarray]:
    """Yield the symbols of a text file, int32 `[N]`, so many at a time and the rest at the end.

    Args:
      path: the file, which may be compressed by gzip or xz.
      vocabulary: what its symbols are.
      num_symbols: of each but the last.
      update: called with how many bytes of the file have been read.

    Raises:
      DataNotFoundError, DataFormatError: as `read`, when it is the part's turn.
    """
    held = np.zeros(0, np.int32)
    for piece in _encoded(path, vocabulary, num_symbols, update):
        held = np.concatenate([held, piece])
        while len(held) > num_symbols:
            yield held[:num_symbols]
            held = held[num_symbols:]
    if not len(held):
        raise DataFormatError(path, "file is empty")
    yield held


def _encoded(
    path: Path,
    vocabulary: CharacterVocabulary | ByteVocabulary,
    num_bytes: int,
    update: Callable[[int, str], None],
) -> Iterator[np.ndarray]:
    """Yield symbols of about so many bytes at a time."""
    pieces = files.pieces_of(path, num_bytes, update)
    if isinstance(vocabulary, ByteVocabulary):
        yield from map(vocabulary.encode, pieces)
        return
    decoder, start = codecs.getincrementaldecoder("utf-8")(), Place(path)
    for piece in itertools.chain(pieces, [None]):
        try:
            text = decoder.decode(piece or b"", final=piece is None)
        except UnicodeDecodeError as error:
            line = start.line + error.object.count(b"\n", 0, error.start)
            raise _not_utf8(path, error, line) from error
        yield encode(text, vocabulary, start)
        start = start.behind(text)


class Place(NamedTuple):
    """Where a piece of text begins, counted from 1.

    Attributes:
      path: the file.
      line: the line.
      column: the column.
    """

    path: Any
    line: int = 1
    column: int = 1

    def behind(self, text: str) -> "Place":
        """Return where a text ends that begins here."""
        begin = self.column if "\n" not in text else 1
        return Place(
            self.path,
            self.line + text.count("\n"),
            begin + len(text) - text.rfind("\n") - 1,
        )


def _not_utf8(path: Any, error: UnicodeDecodeError, line: int) -> DataFormatError:
    problem = f"not UTF-8 ({error.reason}) in line {line}; train with --unit bytes for any file"
    return DataFormatError(path, problem, error.start)


def encode(text: str, vocabulary: CharacterVocabulary | ByteVocabulary, start: Place) -> np.ndarray:
    """Return the symbols of a text, int32 `[N]`; an error names the place."""
    if isinstance(vocabulary, ByteVocabulary):
        return vocabulary.encode(text.encode())
    known = set(vocabulary.characters)
    unknown = next((i for i, character in enumerate(text) if character not in known), None)
    if unknown is not None:
        place = start.behind(text[:unknown])
        raise DataFormatError(
            place.path,
            f"character {text[unknown]!r} in line {place.line}, column {place.column} is none of "
            f"the {len(known)} that the model was trained on",
        )
    return vocabulary.encode(text)


def as_bytes(symbols: np.ndarray, vocabulary: CharacterVocabulary | ByteVocabulary) -> bytes:
    """Return the text of symbols `[N]` as a file has it."""
    text = vocabulary.decode(symbols)
    return text if isinstance(text, bytes) else text.encode()


class Scorer:
    """Log-probabilities of the symbols of a text of any length; compiles once."""

    def __init__(self, model: Any) -> None:
        self._length = model.num_dims

        @jax.jit
        def log_probs(params: Params, x: Array) -> Array:
            return categorical_log_prob(model.logits(params, x), x)

        self._log_probs = log_probs

    def __call__(self, params: Params, symbols: np.ndarray, overlap: int = 0) -> np.ndarray:
        """Return nats `[N]` of symbols `[N]`, each given those before it in its stretch."""
        missing = max(0, self._length - len(symbols))  # what stands behind changes nothing before
        windows = jg.data.evaluation_windows(np.pad(symbols, (0, missing)), self._length, overlap)
        size = min(_BATCH_SIZE, len(windows.x))
        nats = jg.training.evaluate(
            lambda x: self._log_probs(params, x), windows.x, batch_size=size
        )
        return np.asarray(nats)[windows.is_scored][: len(symbols)]


def continued(
    key: Key,
    model: Any,
    params: Params,
    prompt: np.ndarray,
    length: int,
    transform_fn: Any,
) -> np.ndarray:
    """Draw `length` symbols behind each prompt `[B, P]`; return both, `[B, P + length]`.

    A model of D symbols goes on from the last half of what is written, again and again.
    """
    tail = prompt[:, max(0, prompt.shape[1] - model.num_dims // 2) :]
    whole = jg.models.SlidingWindow(model, tail.shape[1] + length)
    known: Any = tail if tail.shape[1] else None
    x = jg.sample(key, whole, params, len(tail), prompt=known, transform_fn=transform_fn).x
    return np.concatenate([prompt, np.asarray(x)[:, tail.shape[1] :]], axis=1)
