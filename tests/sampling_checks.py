"""Sampling tests with a stated false-positive rate, and the power to go with it.

Each assertion fails by chance with probability at most `FALSE_POSITIVE_RATE`. A thousand of them in
the suite stay below 1e-6 together. Seeds are fixed, so a test that passes keeps passing; the rate
says how far to trust a red one. Deterministic checks come first: these confirm.
"""

import numpy as np
import scipy.stats

FALSE_POSITIVE_RATE = 1e-9


def dkw_band(num_samples: int) -> float:
    """Largest CDF error that chance explains (Dvoretzky-Kiefer-Wolfowitz, Massart 1990)."""
    return float(np.sqrt(np.log(2 / FALSE_POSITIVE_RATE) / (2 * num_samples)))


def assert_distribution(samples, cdf) -> None:
    """Check that independent samples follow a continuous distribution, given its exact CDF."""
    samples = np.sort(np.ravel(np.asarray(samples, np.float64)))
    n = samples.size
    expected = cdf(samples)
    steps = np.arange(n + 1) / n
    distance = max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    band = dkw_band(n)
    assert distance <= band, f"CDF distance {distance:.3g} over {n} samples exceeds {band:.3g}"


def assert_frequencies(counts, probabilities) -> None:
    """Check counts against exact probabilities: χ² where cells are full, binomial where sparse."""
    counts = np.ravel(np.asarray(counts, np.int64))
    probabilities = np.ravel(np.asarray(probabilities, np.float64))
    assert abs(probabilities.sum() - 1) < 1e-5, f"probabilities sum to {probabilities.sum()}"
    probabilities = probabilities / probabilities.sum()
    assert np.all(counts[probabilities == 0] == 0), "an impossible cell was drawn"
    n, full = counts.sum(), counts.sum() * probabilities >= 10
    cells = [*counts[full], counts[~full].sum()]
    expected = n * np.array([*probabilities[full], probabilities[~full].sum()])
    keep = expected > 0
    if keep.sum() == 1:
        return  # one possible cell, and nothing fell outside it
    statistic = np.sum((np.array(cells)[keep] - expected[keep]) ** 2 / expected[keep])
    p_value = scipy.stats.chi2.sf(statistic, keep.sum() - 1)
    assert p_value >= FALSE_POSITIVE_RATE, f"χ² = {statistic:.4g}, p = {p_value:.3g}"


def assert_mean(samples, expected, rounding: float = 0.0) -> None:
    """Check that the mean over axis 0 lies within its standard error of the expected value.

    The normal approximation to the mean is taken at the rate of the suite, shared over components;
    `rounding` is how far the expected value itself may be off.
    """
    samples = np.asarray(samples, np.float64)
    expected = np.broadcast_to(np.asarray(expected, np.float64), samples.shape[1:])
    error = samples.std(0, ddof=1) / np.sqrt(samples.shape[0])
    limit = scipy.stats.norm.isf(FALSE_POSITIVE_RATE / 2 / max(1, expected.size))
    distance = np.maximum(np.abs(samples.mean(0) - expected) - rounding, 0.0)
    excess = distance / np.maximum(error, 1e-30)
    assert np.all(excess <= limit), f"means are up to {excess.max():.2f} standard errors away"
