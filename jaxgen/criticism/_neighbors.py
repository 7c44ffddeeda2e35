"""Whether samples are copies: how near they come to training data."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxgen.core._checks import check_in_range


class Neighbors(NamedTuple):
    """The nearest reference point of each point.

    Attributes:
      distance: Euclidean, `[N]`.
      nearest: which reference point it is, integers `[N]`.
    """

    distance: np.ndarray
    nearest: np.ndarray


def nearest_neighbors(x: Any, reference: Any, *, batch_size: int = 500) -> Neighbors:
    """Find the nearest reference point of each point.

    Args:
      x: points, `[N, ...]`.
      reference: the points to look among, `[M, ...]`.
      batch_size: points looked up at once; memory grows with this times M.

    Raises:
      ValueError: there is nothing to look among, or shapes do not fit.
    """
    x, reference = (np.asarray(a) for a in (x, reference))
    if x.shape[1:] != reference.shape[1:] or not len(reference):
        raise ValueError(
            f"reference must be points of shape {x.shape[1:]}, at least one, "
            f"got shape {reference.shape}"
        )
    # Integers below 2²⁴ keep their squared distances exact in float32, so that a copy has 0.
    x, reference = (_as_rows(a) for a in (x, reference))
    squares = np.sum(reference**2, axis=1)
    found = []
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        distance = np.sum(batch**2, axis=1)[:, None] + squares - 2 * batch @ reference.T
        index = distance.argmin(axis=1)
        found.append((np.take_along_axis(distance, index[:, None], 1)[:, 0], index))
    if not found:
        return Neighbors(np.zeros(0, np.float32), np.zeros(0, int))
    squared, nearest = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Neighbors(np.sqrt(np.maximum(squared, 0.0)), nearest)


def _as_rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), int(np.prod(x.shape[1:]))).astype(np.float32)


def copying_test(samples: Any, train: Any, held_out: Any, *, share: float = 0.05) -> float:
    r"""Test whether samples come nearer to training data than held-out data do.

    Of the samples and held-out points together, look at the given share that is nearest to training
    data: there are no more samples among them than chance allows, if the model did not learn its
    examples by heart. The exact hypergeometric tail (Fisher's test), after Meehan et al. (2020).

    Args:
      samples: of the model, `[M, ...]`.
      train: what it was trained on, `[T, ...]`.
      held_out: data that it was not, `[N, ...]`.
      share: in (0, 1); small, to see a few copies among many samples.

    Returns:
      The one-sided p-value, a float.
    """
    check_in_range("share", share, 0.0, 1.0, open_lower=True, open_upper=True)
    of_samples, of_held_out = (nearest_neighbors(x, train).distance for x in (samples, held_out))
    pooled = np.sort(np.concatenate([of_samples, of_held_out]))
    threshold = pooled[int(np.ceil(share * len(pooled))) - 1]
    near = int(np.sum(of_samples <= threshold))
    num_near = near + int(np.sum(of_held_out <= threshold))
    tail = stats.hypergeom.sf(near - 1, len(pooled), len(of_samples), num_near)
    return float(min(tail, 1.0))
