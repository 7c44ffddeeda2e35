"""Score files: nats and bits, image by image or line by line."""

import csv
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

import jaxgen as jg
from jaxgen import Bundle
from jaxgen._cli import _text as text
from jaxgen._cli._open import open_bundle, read
from jaxgen._cli._settings import Score
from jaxgen.core import Array, Key, Params, check_count, check_in_range
from jaxgen.data import GrayLevels


class Scores(NamedTuple):
    """Scores of N items.

    Attributes:
      names: of the items.
      nats: negative log-likelihoods, `[N]`, or what bounds them from above.
      sizes: symbols of each, integers `[N]`.
      item: what one is called.
      unit: what a symbol is called.
      errors: standard errors of bounds, `[N]`; None where nats are exact.
    """

    names: list[str]
    nats: np.ndarray
    sizes: np.ndarray
    item: str
    unit: str
    errors: np.ndarray | None = None


def score(settings: Score) -> None:
    """Print the scores of files.

    Raises:
      WeightsError: the bundle is damaged, or none.
      DataNotFoundError, DataFormatError: the files are not there, or not of the bundle's kind.
      ValueError: overlap or num_samples is out of range.
    """
    check_count("num_samples", settings.num_samples, minimum=2)
    check_count("seed", settings.seed, minimum=0)
    bundle = open_bundle(settings.bundle)
    symbols, names = read(bundle, settings.data)
    if not isinstance(bundle.vocabulary, GrayLevels):
        scores = _of_text(bundle, symbols, settings.overlap)
    elif isinstance(bundle.model, jg.LatentVariableModel):
        scores = _bounds_of_images(bundle, symbols, names, settings)
    else:
        scores = _of_images(bundle, symbols, names)
    if settings.csv:
        return _write_csv(scores)
    is_exact = scores.errors is None
    heading = _told("nats" if is_exact else "nats, at most", is_exact)
    print(f"{scores.item:<20} {heading} {f'bits per {scores.unit}':>20}")
    for name, nats, size, error in _rows(scores):
        print(f"{name:<20} {_told(f'{nats:.3f}', is_exact, error)} {_bits(nats, size):>20.4f}")
    nats, size = scores.nats.sum(), scores.sizes.sum()
    error = None if scores.errors is None else float(np.sqrt(np.sum(scores.errors**2)))
    print(f"{'all':<20} {_told(f'{nats:.3f}', is_exact, error)} {_bits(nats, size):>20.4f}")
    if not is_exact:
        print(
            f"nats and bits are upper bounds on average, from {settings.num_samples} importance "
            f"samples for each {scores.item}; ± is the standard error of nats"
        )
    return None


def _rows(scores: Scores) -> Iterator[tuple[str, float, int, float | None]]:
    """Return name, nats, symbols and standard error of each item."""
    errors = [None] * len(scores.names) if scores.errors is None else scores.errors
    return zip(scores.names, scores.nats, scores.sizes, errors, strict=True)


def _told(nats: str, is_exact: bool, error: float | None = None) -> str:
    """Return nats as a column of the table has them, with their standard error if there is one."""
    if is_exact:
        return f"{nats:>12}"
    return f"{nats if error is None else f'{nats} ± {error:.3f}':>22}"


def _write_csv(scores: Scores) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    heading = ["nats"] if scores.errors is None else ["nats_at_most", "standard_error"]
    rows.writerow([scores.item, *heading, f"bits_per_{scores.unit}"])
    for name, nats, size, error in _rows(scores):
        numbers = [nats, *([] if error is None else [error]), _bits(nats, size)]
        rows.writerow([name, *(f"{number:.6g}" for number in numbers)])


def _of_images(bundle: Bundle, x: np.ndarray, names: list[str]) -> Scores:
    log_prob = jax.jit(lambda params, x: jg.log_prob(bundle.model, params, x))
    nats = jg.training.evaluate(
        lambda x: log_prob(bundle.params, x), x, batch_size=min(100, len(x))
    )
    sizes = np.full(len(x), x.shape[1])
    return Scores(names, -np.asarray(nats, np.float64), sizes, "image", "pixel")


def _bounds_of_images(bundle: Bundle, x: np.ndarray, names: list[str], settings: Score) -> Scores:
    """Bound from importance samples, as many at once as divide their number."""
    num_samples = settings.num_samples
    chunk_size = next(n for n in range(min(num_samples, 50), 0, -1) if num_samples % n == 0)

    @jax.jit
    def bound(key: Key, params: Params, x: Array) -> tuple[Array, Array]:
        found = jg.objectives.importance_log_prob(
            key, bundle.model, params, x, num_samples=num_samples, chunk_size=chunk_size
        )
        return -found.value, found.standard_error

    found = jg.training.evaluate(
        lambda key, x: bound(key, bundle.params, x),
        x,
        batch_size=min(100, len(x)),
        key=jax.random.key(settings.seed),
    )
    nats, errors = (np.asarray(part, np.float64) for part in found)
    return Scores(names, nats, np.full(len(x), x.shape[1]), "image", "pixel", errors)


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
