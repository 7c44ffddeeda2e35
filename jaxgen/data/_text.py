"""Text as integers: a file's characters or its bytes, and the vocabulary that reads them back."""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxgen.core._checks import (
    check_count,
    check_in_range,
    check_integer_array,
    check_one_of,
    check_rank,
)
from jaxgen.data import _files as files
from jaxgen.data._content import KnownFile, uncompress
from jaxgen.data._errors import DataFormatError, DataNotFoundError

KNOWN = {
    "tinyshakespeare": KnownFile(
        "text",
        "tinyshakespeare.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        1_115_394,
        (
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
        ),
    ),
    "names": KnownFile(
        "text",
        "names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        228_145,
        ("https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",),
    ),
}
"""The texts that are downloaded by name (Karpathy 2015, 2022)."""

Unit = Literal["characters", "bytes"]

_NO_CHARACTER = 0xFFFFFFFF  # above every code point
_MAX_RATIO, _MIN_LIMIT = 100, 1 << 26  # gzip makes a tenth of text, and a thousandth of a bomb


@dataclasses.dataclass(frozen=True)
class CharacterVocabulary:
    """The characters that occur in a text, in the order of their code points.

    Attributes:
      characters: all different and sorted; the symbol of one is its position here.
    """

    characters: str

    def __post_init__(self) -> None:
        if self.characters != "".join(sorted(set(self.characters))):
            raise ValueError(
                f"characters must be all different and sorted, got {self.characters!r}"
            )

    @property
    def num_symbols(self) -> int:
        """Return V, the number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Return the symbols of a text, int32 `[N]`; ValueError names a character that has none.

        >>> CharacterVocabulary("abc").encode("cab").tolist()
        [2, 0, 1]
        """
        known, codes = _code_points(self.characters), _code_points(text)
        symbols = np.searchsorted(known, codes)
        unknown = np.append(known, _NO_CHARACTER)[symbols] != codes
        if unknown.any():
            first = int(np.argmax(unknown))
            raise ValueError(
                f"text must hold characters of the vocabulary alone, got {text[first]!r} at "
                f"position {first}"
            )
        return symbols.astype(np.int32)

    def decode(self, symbols: np.ndarray) -> str:
        """Return the text of symbols `[N]`; ValueError names a symbol out of range."""
        symbols = _checked_symbols(symbols, self.num_symbols)
        return _code_points(self.characters)[symbols].tobytes().decode("utf-32-le", "surrogatepass")


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
    """All 256 bytes, each its own symbol."""

    @property
    def num_symbols(self) -> int:
        """Return V, 256."""
        return 256

    def encode(self, text: bytes) -> np.ndarray:
        """Return the bytes as symbols, int32 `[N]`."""
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, symbols: np.ndarray) -> bytes:
        """Return the bytes of symbols `[N]`; ValueError names a symbol out of range."""
        return _checked_symbols(symbols, 256).astype(np.uint8).tobytes()


class TextData(NamedTuple):
    """One text cut into three stretches, in its own order.

    Attributes:
      name: the text's name, as results record it.
      train: symbols of the first stretch, int32 `[N]`.
      valid: symbols of the stretch after it, int32 `[N]`.
      test: symbols of the last stretch, int32 `[N]`.
      vocabulary: encodes and decodes; made from the whole text.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: CharacterVocabulary | ByteVocabulary


def text(
    source: str | Path,
    unit: Unit = "characters",
    *,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> TextData:
    """Load a text and split it from the end: test last, validation before it, training first.

    With the fractions left as they are, the last tenth is held out, as is usual for
    tinyshakespeare. The sizes are rounded to the nearest symbol.

    Args:
      source: `tinyshakespeare`, `names`, or the path of any file, gzipped or not (by no more than
        100 to 1 where it holds more than 64 MiB). A known name wins over a file of that name; give
        `Path(name)` for the file.
      unit: whether symbols are the characters of UTF-8 text or the bytes of any file.
      valid_fraction: the share for validation, in [0, 1).
      test_fraction: the share for testing, in [0, 1); the two sum to less than 1.

    Raises:
      DataNotFoundError: there is no such file, or it could not be downloaded.
      DataFormatError: a file that is empty, not UTF-8 where characters are asked for, not the known
        file, or holds far more than its gzipped size lets expect.
      ValueError: a fraction or `unit` out of range.
    """
    check_one_of("unit", unit, ("characters", "bytes"))
    check_in_range("valid_fraction", valid_fraction, 0, 1, open_upper=True)
    check_in_range("test_fraction", test_fraction, 0, 1, open_upper=True)
    check_in_range(
        "valid_fraction + test_fraction", valid_fraction + test_fraction, 0, 1, open_upper=True
    )
    content, path = _read(source)
    if not content:
        raise DataFormatError(path, "file is empty", 0)
    vocabulary, symbols = (
        _encode_characters(content, path) if unit == "characters" else _encode_bytes(content)
    )
    num_valid = round(len(symbols) * valid_fraction)
    num_test = round(len(symbols) * test_fraction)
    num_train = len(symbols) - num_valid - num_test
    train, valid, test = np.split(symbols, [num_train, num_train + num_valid])
    return TextData(
        path.name.removesuffix(".gz").removesuffix(".txt"), train, valid, test, vocabulary
    )


class Windows(NamedTuple):
    """A text cut into stretches of one length, so that each symbol counts once.

    Attributes:
      x: symbols, int32 `[M, T]`.
      is_scored: which of them count here, bool `[M, T]`; the others only serve as context.
    """

    x: np.ndarray
    is_scored: np.ndarray


def evaluation_windows(symbols: np.ndarray, length: int, overlap: int = 0) -> Windows:
    """Cut a text for evaluation by a model that sees `length` symbols at once.

    Each symbol counts in the first window that holds it. Without overlap a symbol has half a window
    of context on average, and the first of each none; with one, at least `overlap` symbols (the
    first window apart), and the model reads length / (length − overlap) times as much.

    Args:
      symbols: integers `[N]`, N ≥ `length`.
      length: T, the symbols of a window.
      overlap: symbols that a window shares with the one before it, in [0, T). The last window ends
        with the text, and may share more.

    >>> windows = evaluation_windows(np.arange(7), 4, overlap=2)
    >>> windows.x.tolist()
    [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6]]
    >>> windows.x[windows.is_scored].tolist()
    [0, 1, 2, 3, 4, 5, 6]
    """
    check_count("length", length)
    check_rank("symbols", symbols, 1)
    check_integer_array("symbols", symbols)
    check_in_range("overlap", overlap, 0, length, open_upper=True)
    if len(symbols) < length:
        raise ValueError(f"symbols must be at least length={length}, got {len(symbols)}")
    last = len(symbols) - length
    starts = np.append(np.arange(0, last, length - overlap), last)
    positions = starts[:, None] + np.arange(length)
    seen_before = np.append(0, starts[:-1] + length)
    x = np.asarray(symbols)[positions].astype(np.int32)
    return Windows(x, positions >= seen_before[:, None])


def _read(source: str | Path) -> tuple[bytes, Path]:
    if isinstance(source, str) and source in KNOWN:
        file = KNOWN[source]
        (path,) = files.find([file])
        return files.load(file, path, lambda content, _: content), path
    path = Path(source).expanduser()
    if not path.is_file():
        known = ", ".join(KNOWN)
        raise DataNotFoundError(
            f"source must be one of {known} or the path of a file, got {source}"
        )
    data = path.read_bytes()
    return uncompress(data, path, max(_MIN_LIMIT, _MAX_RATIO * len(data))), path


def _encode_characters(content: bytes, path: Path) -> tuple[CharacterVocabulary, np.ndarray]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason}); read it as bytes instead"
        raise DataFormatError(path, problem, error.start) from error
    vocabulary = CharacterVocabulary("".join(sorted(set(text))))
    return vocabulary, vocabulary.encode(text)


def _encode_bytes(content: bytes) -> tuple[ByteVocabulary, np.ndarray]:
    vocabulary = ByteVocabulary()
    return vocabulary, vocabulary.encode(content)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _checked_symbols(symbols: np.ndarray, num_symbols: int) -> np.ndarray:
    symbols = np.asarray(symbols)
    if symbols.ndim != 1 or not np.issubdtype(symbols.dtype, np.integer):
        raise ValueError(f"symbols must be integers [N], got {symbols.dtype} {symbols.shape}")
    outside = (symbols < 0) | (symbols >= num_symbols)
    if outside.any():
        raise ValueError(f"symbols must be in [0, {num_symbols}), got {symbols[outside][0]}")
    return symbols
