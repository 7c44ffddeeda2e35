"""Samples beside data: whether two sets of points are of one distribution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._types import Key

_ENOUGH = 20
"""Relabelings as extreme as the data after which no more are tried (Besag & Clifford 1991)."""


class TwoSampleTest(NamedTuple):
    """A comparison of data with samples.

    Attributes:
      statistic: what was compared, the larger the more they differ, a scalar.
      p_value: the share of relabelings, this one counted, that differ as much: at most α with
        probability at most α whatever the distribution, for every α. Scalar.
      z: how far data and samples are apart in each entry, in standard errors, positive where the
        data have more; empty where there are no entries.
    """

    statistic: float
    p_value: float
    z: np.ndarray


def mean_test(
    key: Key,
    x: Any,
    samples: Any,
    *,
    statistic_fn: Callable[[np.ndarray], Any] | None = None,
    num_permutations: int = 4999,
) -> TwoSampleTest:
    r"""Compare the means of any statistics of data points with those of samples.

    .. math:: \max_j |z_j|, \qquad z_j = \frac{\bar t_j(x) - \bar t_j(\tilde x)}
       {s_j \sqrt{1/N + 1/M}}

    The largest over all entries, so their number is taken into account, with a permutation test
    (Fisher 1935): exact however rare or dependent the entries are.

    Args:
      key: a typed key.
      x: data, `[N, ...]`.
      samples: of the model, `[M, ...]`.
      statistic_fn: of points `[B, ...]`, entries `[B, ...]`: marginals, products of pairs, counts,
        spectra; None takes the coordinates themselves.
      num_permutations: at most; the smallest p-value is the inverse of this plus one.

    Raises:
      ValueError: fewer than two points, or statistics whose shapes differ.
    """
    t = _flattened("x", x, statistic_fn), _flattened("samples", samples, statistic_fn)
    if t[0].shape[1] != t[1].shape[1]:
        raise ValueError(
            "x and samples must have statistics of one shape, got "
            f"{t[0].shape[1]} and {t[1].shape[1]} entries"
        )
    num_data, num_samples = len(t[0]), len(t[1])
    pooled = np.concatenate(t).astype(np.float64)
    pooled -= pooled.mean(axis=0)
    deviation = pooled.std(axis=0)
    pooled /= np.where(deviation > 1e-12 * (1 + np.abs(pooled).max(initial=0.0)), deviation, np.inf)
    # The mean of all is zero, so the sum over the data alone says how far both are apart.
    scale = 1 / num_data + 1 / num_samples
    z = pooled[:num_data].sum(axis=0) * scale / np.sqrt(scale)
    statistic = float(np.max(np.abs(z), initial=0.0))
    single = pooled.astype(np.float32)

    def largest(labels: np.ndarray) -> np.ndarray:
        return np.max(np.abs(labels @ single), initial=0.0, axis=-1) * np.sqrt(scale)

    p_value = _permutation_p_value(
        key, largest, statistic, (num_data, num_samples), num_permutations
    )
    return TwoSampleTest(statistic, p_value, z)


def mmd_test(key: Key, x: Any, samples: Any, *, num_permutations: int = 4999) -> TwoSampleTest:
    r"""Compare data with samples by the maximum mean discrepancy of a Gaussian kernel.

    .. math:: \widehat{\mathrm{MMD}}^2 = \frac{\sum_{i \ne j} k(x_i, x_j)}{N (N - 1)}
       + \frac{\sum_{i \ne j} k(\tilde x_i, \tilde x_j)}{M (M - 1)}
       - \frac{2 \sum_{ij} k(x_i, \tilde x_j)}{N M}

    Unbiased, with the median distance as the kernel's width and an exact permutation test (Gretton
    et al. 2012). It sees any difference, if there are points enough.

    Args:
      key: a typed key.
      x: data, `[N, ...]`; memory grows with (N + M)².
      samples: of the model, `[M, ...]`.
      num_permutations: at most; the smallest p-value is the inverse of this plus one.

    Returns:
      `TwoSampleTest` whose statistic is MMD².
    """
    t = _flattened("x", x, None), _flattened("samples", samples, None)
    num_data, num_samples = len(t[0]), len(t[1])
    kernel = _gaussian_kernel(np.concatenate(t).astype(np.float64))

    def discrepancy(is_data: np.ndarray) -> np.ndarray:
        to_data = is_data @ kernel
        within_data = np.sum(to_data * is_data, axis=-1)
        across = np.sum(to_data, axis=-1) - within_data
        within_samples = kernel.sum() - within_data - 2 * across
        return (
            within_data / (num_data * (num_data - 1))
            + within_samples / (num_samples * (num_samples - 1))
            - 2 * across / (num_data * num_samples)
        )

    observed = float(discrepancy((np.arange(len(kernel)) < num_data).astype(np.float32)))
    p_value = _permutation_p_value(
        key, discrepancy, observed, (num_data, num_samples), num_permutations
    )
    return TwoSampleTest(observed, p_value, np.zeros(0))


def _flattened(name: str, x: Any, statistic_fn: Callable | None) -> np.ndarray:
    x = np.asarray(x if statistic_fn is None else statistic_fn(np.asarray(x)))
    check_count(f"the number of points of {name}", len(x), minimum=2)
    return x.reshape(len(x), -1)


def _gaussian_kernel(points: np.ndarray) -> np.ndarray:
    """Return the kernel between all points, less its mean, `[N, N]`, with zeros on the diagonal."""
    squares = np.sum(points**2, axis=1)
    distance = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0.0)
    is_pair = ~np.eye(len(points), dtype=bool)
    width = np.median(distance[is_pair]) or np.mean(distance[is_pair]) or 1.0
    kernel = np.exp(-distance / width)
    # A constant beside the diagonal changes nothing, and without it float32 is enough.
    kernel -= kernel[is_pair].mean()
    return np.where(is_pair, kernel, 0.0).astype(np.float32)


def _permutation_p_value(
    key: Key,
    statistic_fn: Callable[[np.ndarray], np.ndarray],
    observed: float,
    sizes: tuple[int, int],
    num_permutations: int,
) -> float:
    """Relabel the points until a few relabelings differ as much, or there are enough."""
    check_key(key)
    check_count("num_permutations", num_permutations)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    labels = np.repeat(np.array([1.0, 0.0], np.float32), sizes)
    threshold = observed - 1e-5 * abs(observed)  # ties, but for rounding, count as such
    num_as_large = num_done = 0
    while num_done < num_permutations:
        count = min(50, num_permutations - num_done)
        rows = generator.permuted(np.tile(labels, (count, 1)), axis=1)
        is_as_large = statistic_fn(rows) >= threshold
        seen = num_as_large + np.cumsum(is_as_large)
        if seen[-1] >= _ENOUGH:
            return _ENOUGH / (num_done + int(np.argmax(seen >= _ENOUGH)) + 1)
        num_as_large, num_done = int(seen[-1]), num_done + count
    return (num_as_large + 1) / (num_permutations + 1)
