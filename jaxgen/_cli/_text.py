"""Text in files, as a model's symbols, and text of any length by a model of short stretches."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 ({error.reason}) in line {line}; train with --unit bytes for any file"
        raise DataFormatError(path, problem, error.start) from error
    return encode(text, vocabulary, path)


def encode(text: str, vocabulary: CharacterVocabulary | ByteVocabulary, path: Any) -> np.ndarray:
    """Return the symbols of a text, int32 `[N]`; an error names the place, and `path`."""
    if isinstance(vocabulary, ByteVocabulary):
        return vocabulary.encode(text.encode())
    known = set(vocabulary.characters)
    unknown = next((i for i, character in enumerate(text) if character not in known), None)
    if unknown is not None:
        line = text.count("\n", 0, unknown) + 1
        column = unknown - text.rfind("\n", 0, unknown)
        raise DataFormatError(
            path,
            f"character {text[unknown]!r} in line {line}, column {column} is none of the "
            f"{len(known)} that the model was trained on",
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
    keep = model.num_dims // 2

    def draw(key: Key, params: Params, tail: Array) -> Array:
        known = {"prompt": tail} if tail.shape[1] else {}
        size = len(tail)
        return jg.sample(key, model, params, size, transform_fn=transform_fn, **known).x

    draw = jax.jit(draw)
    written, total = prompt, prompt.shape[1] + length
    for block in range(length):
        if written.shape[1] >= total:
            break
        tail = written[:, max(0, written.shape[1] - keep) :]
        x = np.asarray(draw(jax.random.fold_in(key, block), params, jnp.asarray(tail)))
        written = np.concatenate([written, x[:, tail.shape[1] :]], axis=1)
    return written[:, :total]
