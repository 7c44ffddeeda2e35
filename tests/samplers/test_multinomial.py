import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._multinomial import multinomial

GOOD = [(6, [2, 0, 1, 1]), (2000, [0.1, 0.2, 0.3, 0.4]), (10**9, [1e-8, 0.5, 0.5, 0])]
GOOD += [(0, [1, 1, 1, 1]), (5, [0, 3, 0, 0])]
BAD = [(5, [0, 0, 0, 0]), (5, [1, -1, 1, 1]), (5, [1, 1, 1, np.nan]), (5, [1, 1, np.inf, 1])]
BAD += [(-1, [1, 1, 1, 1]), (2.5, [1, 1, 1, 1])]
TRIALS, WEIGHTS = (np.array(side, np.float32) for side in zip(*GOOD, *BAD, strict=True))
NUM_GOOD = len(GOOD)


@pytest.fixture(scope="module")
def draws():
    """Counts `[20,000, cases, outcomes]`, by one program."""
    draw = jax.jit(multinomial, static_argnums=3)
    return np.asarray(draw(jax.random.key(9), jnp.asarray(TRIALS), WEIGHTS, (20_000, len(TRIALS))))


def test_counts_sum_to_the_trials_and_bad_parameters_show(draws):
    assert draws.dtype == np.int32
    assert np.all(draws[:, :NUM_GOOD].sum(-1) == TRIALS[:NUM_GOOD])
    assert np.all(draws[:, :NUM_GOOD][:, WEIGHTS[:NUM_GOOD] == 0] == 0)
    assert np.all(draws[:, NUM_GOOD:] == -1)


def assert_multinomial(counts, weights):
    """Every composition of six trials into three outcomes, by its exact probability."""
    a, b = np.divmod(np.arange(49), 7)
    cells = np.stack([a, b, 6 - a - b], 1)[a + b <= 6]
    exact = scipy.stats.multinomial(6, np.asarray(weights, np.float64) / np.sum(weights)).pmf(cells)
    found = [np.sum(np.all(counts == cell, axis=1)) for cell in cells]
    sampling_checks.assert_frequencies(found, exact)


def test_counts_follow_the_joint_distribution(draws):
    assert_multinomial(draws[:, 0, [0, 2, 3]], [2, 1, 1])


def test_a_weight_off_by_a_tenth_is_seen(draws):
    with pytest.raises(AssertionError, match="χ²"):
        assert_multinomial(draws[:, 0, [0, 2, 3]], [2, 1.2, 1])


def test_means_and_covariances_of_many_trials_are_exact(draws):
    p = np.array([0.1, 0.2, 0.3, 0.4])
    centered = (draws[:, 1] - 2000 * p) / np.sqrt(2000)
    sampling_checks.assert_mean(centered, 0)
    products = (centered[:, :, None] * centered[:, None]).reshape(-1, 16)
    sampling_checks.assert_mean(products, (np.diag(p) - np.outer(p, p)).ravel())
    rare = np.bincount(np.minimum(draws[:, 2, 0], 30), minlength=31)
    exact = scipy.stats.poisson(10).pmf(np.arange(30))  # a binomial's limit
    sampling_checks.assert_frequencies(rare, [*exact, 1 - exact.sum()])


def test_a_scalar_is_refused(key):
    with pytest.raises(ValueError, match="p must have a last axis"):
        multinomial(key, 3, 0.5)
