import chex
import jax
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._negative_binomial import negative_binomial

GOOD = [(0.3, 0.5), (1, 0.9), (3, 0.2), (2.5, 0.97), (1e6, 0.5), (40, 1e-3)]
ENDS = [(0, 0.5), (2, 0)]
BAD = [(-1, 0.5), (np.nan, 0.5), (np.inf, 0.5), (2, 1), (2, -0.1), (2, np.nan), (1e12, 0.5)]
TOTAL_COUNTS, PROBABILITIES = np.array(GOOD + ENDS + BAD, np.float32).T


@pytest.fixture(scope="module")
def draws():
    """Counts `[20,000, cases]`, each column of its own parameters, by one program."""
    draw = jax.jit(negative_binomial, static_argnums=3)
    shape = (20_000, TOTAL_COUNTS.size)
    return np.asarray(draw(jax.random.key(3), TOTAL_COUNTS, PROBABILITIES, shape))


def assert_negative_binomial(counts, total_count, p):
    """χ² over each count near the mean, with both tails gathered."""
    exact = scipy.stats.nbinom(float(total_count), 1 - float(p))
    low, high = int(exact.ppf(1e-3)), int(exact.ppf(1 - 1e-3))
    edges = [-np.inf, *range(low, high, max(1, (high - low) // 100)), np.inf]
    found = np.histogram(counts, np.array(edges) + 0.5)[0]
    sampling_checks.assert_frequencies(found, np.diff(exact.cdf(edges)))


def test_counts_follow_the_negative_binomial_distribution(draws):
    for column, parameters in enumerate(GOOD):
        assert_negative_binomial(draws[:, column], *np.float32(parameters))


def test_failures_taken_for_successes_are_seen(draws):
    with pytest.raises(AssertionError, match="χ²"):
        assert_negative_binomial(draws[:, 2], 3, 0.8)


def test_ends_are_exact_and_bad_parameters_show(draws):
    assert draws.dtype == np.int32
    expected = [0] * len(ENDS) + [-1] * len(BAD)
    chex.assert_trees_all_equal(np.unique(draws[:, len(GOOD) :], axis=0), np.array([expected]))
