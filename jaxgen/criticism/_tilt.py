"""What a conditional gets wrong, in nats, and how surely: by the best tilt of it."""

from typing import NamedTuple

import numpy as np
from scipy import special

_FARTHEST = 40.0
"""Of θ times the range of the statistic: beyond, a tilted conditional has one value."""


class Tilt(NamedTuple):
    """The best exponential tilt of the conditionals of each of G groups.

    Attributes:
      tilt: θ, `[G]`; above zero where the data have more of the statistic than the model says.
      gain: nats by which the tilt makes all data of the group likelier together, `[G]`.
      p_value: of the group's sum, under the model, two-sided, `[G]`.
    """

    tilt: np.ndarray
    gain: np.ndarray
    p_value: np.ndarray


def best_tilt(
    log_probs: np.ndarray, x: np.ndarray, statistic: np.ndarray, groups: np.ndarray | None = None
) -> Tilt:
    r"""Fit one number a group to what a model's conditionals leave unexplained.

    .. math:: p_\theta(x_i \mid x_{<i}) \propto p(x_i \mid x_{<i})\, e^{\theta s(x_i)}, \qquad
       G = \max_\theta \sum \theta s(x_i) - \log \mathbb E_p e^{\theta s(X_i)}

    The gain G says what the misfit costs. It is also the exponent of Chernoff's bound on how far
    :math:`\sum s` strays under the model, and with the correction of Lugannani & Rice (1980), for
    sums on a lattice in Daniels' (1987) form, it gives a p-value that holds for rare events too,
    where a normal approximation would cry wolf.

    Args:
      log_probs: log-probabilities of every symbol of each conditional, `[N, D, V]`.
      x: the symbols that came, integers `[N, D]`.
      statistic: s of every symbol, `[V]` (on a lattice of step 1), or of each conditional's own,
        `[N, D, V]` (taken as continuous).
      groups: integers from 0 that broadcast to `[N, D]`; None makes each coordinate a group.

    Returns:
      `Tilt`. A group whose sum cannot vary under the model has p-value 1, or 0 if it did.
    """
    family = _Family(log_probs, x, statistic, groups)
    theta = family.maximizer()
    log_normalizer, _, variance = family.moments(theta)
    gain = np.maximum(theta * family.total - log_normalizer, 0.0)
    step = np.abs(theta) if np.ndim(statistic) > 1 else -np.expm1(-np.abs(theta))
    p_value = _two_sided(gain, step * np.sqrt(variance))
    return Tilt(theta, gain, np.where(family.is_fixed, family.agrees, p_value))


class _Family:
    """The tilted conditionals, and their cumulants summed over groups."""

    def __init__(
        self,
        log_probs: np.ndarray,
        x: np.ndarray,
        statistic: np.ndarray,
        groups: np.ndarray | None,
    ) -> None:
        log_probs = np.asarray(log_probs, np.float64)
        # What float32 misses of a sum of one adds up over many conditionals.
        self.log_probs = log_probs - special.logsumexp(log_probs, axis=-1, keepdims=True)
        x = np.asarray(x)
        groups = np.arange(x.shape[1]) if groups is None else np.asarray(groups)
        self.groups = np.broadcast_to(groups, x.shape)
        self.num_groups = int(self.groups.max(initial=-1)) + 1
        statistic = np.asarray(statistic, np.float64)
        # A symbol that cannot come has no say, whatever its statistic.
        self.statistic = np.where(np.isneginf(self.log_probs), 0.0, statistic)
        observed = np.take_along_axis(self.statistic, x[..., None], -1)[..., 0]
        expected = np.sum(np.exp(self.log_probs) * self.statistic, axis=-1)
        # Around the expectation, sums of many small terms lose no digits to a large one.
        self.statistic = self.statistic - expected[..., None]
        self.total = self._sum(observed - expected)
        _, _, variance = self.moments(np.zeros(self.num_groups))
        scale = np.maximum(self.statistic.max(initial=0.0) - self.statistic.min(initial=0.0), 1e-30)
        self.bound = _FARTHEST / scale
        self.is_fixed = variance <= 1e-12 * scale**2
        self.agrees = (np.abs(self.total) <= 1e-4 * scale).astype(np.float64)

    def _sum(self, terms: np.ndarray) -> np.ndarray:
        return np.bincount(self.groups.ravel(), terms.ravel(), self.num_groups)

    def moments(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cumulant function, its slope and its curvature at θ, `[G]` each."""
        exponent = self.log_probs + theta[self.groups][..., None] * self.statistic
        highest = exponent.max(axis=-1, keepdims=True)
        weights = np.exp(exponent - highest)
        normalizer = weights.sum(axis=-1)
        mean = np.sum(weights * self.statistic, axis=-1) / normalizer
        square = np.sum(weights * self.statistic**2, axis=-1) / normalizer
        log_normalizer = highest[..., 0] + np.log(normalizer)
        return self._sum(log_normalizer), self._sum(mean), self._sum(square - mean**2)

    def maximizer(self, num_steps: int = 30) -> np.ndarray:
        """Solve slope(θ) = total by Newton's method, kept within a bracket by bisection."""
        low, high = (np.full(self.num_groups, sign * self.bound) for sign in (-1, 1))
        theta = np.zeros(self.num_groups)
        for _ in range(num_steps):
            _, slope, curvature = self.moments(theta)
            excess = slope - self.total
            low, high = np.where(excess < 0, theta, low), np.where(excess > 0, theta, high)
            newton = theta - excess / np.maximum(curvature, 1e-300)
            is_inside = (newton > low) & (newton < high)
            moved = np.where(is_inside, newton, (low + high) / 2)
            if np.all(np.abs(moved - theta) <= 1e-9 * self.bound):
                break
            theta = moved
        return np.where(self.is_fixed & (self.agrees > 0), 0.0, theta)


def _two_sided(gain: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return 2 P(sum beyond what came) from the root r of 2 G and θ √K'' (or its lattice form)."""
    root = np.sqrt(2 * gain)
    is_far = root > 1e-2
    safe_root = np.where(is_far, root, 1.0)
    with np.errstate(divide="ignore"):
        density = np.exp(-gain) / np.sqrt(2 * np.pi)
        tail = special.ndtr(-root) + density * (1 / np.maximum(width, 1e-300) - 1 / safe_root)
    # Chernoff's bound holds always, and is exact where the sum is as large as it can be.
    tail = np.minimum(np.where(is_far, tail, 0.5), np.exp(-gain))
    return np.clip(2 * tail, 0.0, 1.0)
