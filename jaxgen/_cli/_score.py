"""Score files: nats and bits, image by image or line by line."""

import csv
import sys
from typing import NamedTuple

import jax
import numpy as np

import jaxgen as jg
from jaxgen import Bundle
from jaxgen._cli import _text as text
from jaxgen._cli._open import open_bundle, read
from jaxgen._cli._settings import Score
from jaxgen.core import check_in_range
from jaxgen.data import GrayLevels


class Scores(NamedTuple):
    """Scores of N items.

    Attributes:
      names: of the items.
      nats: negative log-likelihoods, `[N]`.
      sizes: symbols of each, integers `[N]`.
      item: what one is called.
      unit: what a symbol is called.
    """

    names: list[str]
    nats: np.ndarray
    sizes: np.ndarray
    item: str
    unit: str


def score(settings: Score) -> None:
    """Print the scores of files.

    Raises:
      WeightsError: the bundle is damaged, or none.
      DataNotFoundError, DataFormatError: the files are not there, or not of the bundle's kind.
      ValueError: overlap is out of range.
    """
    bundle = open_bundle(settings.bundle)
    symbols, names = read(bundle, settings.data)
    if isinstance(bundle.vocabulary, GrayLevels):
        scores = _of_images(bundle, symbols, names)
    else:
        scores = _of_text(bundle, symbols, settings.overlap)
    if settings.csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow([scores.item, "nats", f"bits_per_{scores.unit}"])
        rows.writerows(
            [name, f"{nats:.6g}", f"{_bits(nats, size):.6g}"]
            for name, nats, size in zip(*scores[:3], strict=True)
        )
        return
    print(f"{scores.item:<20} {'nats':>12} {f'bits per {scores.unit}':>20}")
    for name, nats, size in zip(*scores[:3], strict=True):
        print(f"{name:<20} {nats:>12.3f} {_bits(nats, size):>20.4f}")
    nats, size = scores.nats.sum(), scores.sizes.sum()
    print(f"{'all':<20} {nats:>12.3f} {_bits(nats, size):>20.4f}")


def _of_images(bundle: Bundle, x: np.ndarray, names: list[str]) -> Scores:
    log_prob = jax.jit(lambda params, x: jg.log_prob(bundle.model, params, x))
    nats = jg.training.evaluate(
        lambda x: log_prob(bundle.params, x), x, batch_size=min(100, len(x))
    )
    sizes = np.full(len(x), x.shape[1])
    return Scores(names, -np.asarray(nats, np.float64), sizes, "image", "pixel")


def _of_text(bundle: Bundle, symbols: np.ndarray, overlap: int | None) -> Scores:
    """Score each line with the newline that ends it."""
    length, vocabulary = bundle.model.num_dims, bundle.vocabulary
    overlap = length // 2 if overlap is None else overlap
    check_in_range("overlap", overlap, 0, length, open_upper=True)
    nats = -text.Scorer(bundle.model)(bundle.params, symbols, overlap).astype(np.float64)
    is_bytes = isinstance(vocabulary, jg.data.ByteVocabulary)
    assert vocabulary is not None
    newline = 10 if is_bytes else getattr(vocabulary, "characters", "").find("\n")
    ends = np.append(np.flatnonzero(symbols[:-1] == newline) + 1, len(symbols))
    starts = np.append(0, ends[:-1])
    names = [str(i) for i in range(1, len(ends) + 1)]
    unit = "byte" if is_bytes else "character"
    return Scores(names, np.add.reduceat(nats, starts), ends - starts, "line", unit)


def _bits(nats: float, size: int) -> float:
    return jg.objectives.bits_per_dim(-nats, int(size))
