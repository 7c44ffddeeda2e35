"""Likely and unlikely: log-probabilities on a scale that says what they mean."""

from typing import Any, NamedTuple

import numpy as np

from jaxgen.core._checks import check_rank


def typicality(log_prob: Any, model_log_prob: Any) -> np.ndarray:
    r"""Return how typical points are of the model: a p-value for each, two-sided.

    .. math:: p = 2 \min(P(\log p(\tilde x) \le \log p(x)), P(\log p(\tilde x) \ge \log p(x)))

    with x̃ drawn from the model. A point that is likelier than nearly all that the model draws is as
    strange to it as an unlikely one (Nalisnick et al. 2019).

    Args:
      log_prob: log p(x) of the points, `[N]`.
      model_log_prob: of draws of the model, `[M]`; the smallest p-value is 2 / (M + 1).

    Returns:
      p-values in (0, 1], `[N]`.
    """
    log_prob, drawn = np.asarray(log_prob), np.sort(np.asarray(model_log_prob))
    check_rank("log_prob", log_prob, 1)
    check_rank("model_log_prob", drawn, 1)
    below = 1 + np.searchsorted(drawn, log_prob, side="right")
    above = 1 + len(drawn) - np.searchsorted(drawn, log_prob, side="left")
    return np.minimum(2 * np.minimum(below, above) / (len(drawn) + 1), 1.0)


def waic(log_probs: Any) -> np.ndarray:
    r"""Return the Watanabe-Akaike criterion of each point over an ensemble (Choi et al. 2019).

    .. math:: \mathbb E_\theta \log p_\theta(x) - \mathrm{Var}_\theta \log p_\theta(x)

    Low where members disagree, even if all call the point likely.

    Args:
      log_probs: of each member at each point, `[K, N]` with K ≥ 2.

    Raises:
      ValueError: fewer than two members.
    """
    log_probs = np.asarray(log_probs, np.float64)
    check_rank("log_probs", log_probs, 2)
    if len(log_probs) < 2:
        raise ValueError(f"log_probs must be of at least 2 members, got {len(log_probs)}")
    return log_probs.mean(axis=0) - log_probs.var(axis=0, ddof=1)


class ROC(NamedTuple):
    """How well a score tells two sets apart.

    Attributes:
      false_positive_rate: share of the outside points above each threshold, `[T]`, from 0 to 1.
      true_positive_rate: share of the inside points above it, `[T]`.
      area: under the curve: the probability that an inside point scores higher; 0.5 is chance.
      standard_error: of the area (Hanley & McNeil 1982).
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    area: float
    standard_error: float


def roc(inside: Any, outside: Any) -> ROC:
    """Measure how well a score tells inside points (higher) from outside points (lower).

    Args:
      inside: scores, `[N]`.
      outside: scores, `[M]`.

    >>> round(roc([2.0, 3.0], [1.0, 2.0]).area, 3)
    0.875
    """
    inside, outside = np.sort(np.asarray(inside)), np.sort(np.asarray(outside))
    check_rank("inside", inside, 1)
    check_rank("outside", outside, 1)
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    true, false = (
        np.concatenate([[0.0], 1 - np.searchsorted(scores, thresholds) / len(scores)])
        for scores in (inside, outside)
    )
    area = float(np.trapezoid(true, false))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area) + (len(inside) - 1) * (q1 - area**2) + (len(outside) - 1) * (q2 - area**2)
    ) / (len(inside) * len(outside))
    return ROC(false, true, area, float(np.sqrt(max(variance, 0.0))))
