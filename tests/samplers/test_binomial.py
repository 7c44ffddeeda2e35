import fractions

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers import _binomial
from jaxgen.samplers._binomial import binomial

# Each is a float of 32 bits. The first are good, those at the ends have one outcome, the rest none.
GOOD = [(1, 0.3), (12, 0.5), (40, 0.2), (30, 0.9), (25, 0.45), (100, 0.3), (1000, 0.9)]
GOOD += [(10**6, 0.3), (10**9, 0.3), (2**30, 1e-7)]
ENDS = [(0, 0.5), (9, 0), (9, 1)]
BAD = [(9, np.nan), (-1, 0.5), (9, -0.1), (9, 1.1), (2.5, 1), (np.nan, 1), (np.inf, 1), (2e9, 1)]
TRIALS, PROBABILITIES = np.array(GOOD + ENDS + BAD, np.float32).T


@pytest.fixture(scope="module")
def draws():
    """Counts `[20,000, cases]`, each column of its own parameters, by one program."""
    n, p = jnp.asarray(TRIALS), jnp.asarray(PROBABILITIES)
    draw = jax.jit(binomial, static_argnums=3)
    return np.asarray(draw(jax.random.key(3), n, p, (20_000, TRIALS.size)))


def assert_binomial(counts, n, p):
    """χ² over each count near the mean, with both tails gathered."""
    exact = scipy.stats.binom(n, float(p))
    low, high = int(exact.ppf(1e-3)), int(exact.ppf(1 - 1e-3))
    width = max(1, (high - low) // 100)
    edges = np.concatenate([[-np.inf], np.arange(low, high, width), [np.inf]])
    found = np.histogram(np.asarray(counts, np.float64), edges + 0.5)[0]
    sampling_checks.assert_frequencies(found, np.diff(exact.cdf(edges)))


def test_inversion_agrees_with_the_exact_quantile(x64):
    n, p = np.array([0, 1, 7, 20, 10**6, 10**9]), np.array([0.3, 0.5, 0.0, 0.5, 1e-6, 1e-8])
    u = np.tile((np.arange(500) + 0.5) / 500, (n.size, 1))
    counts = jax.jit(_binomial.invert)(jnp.asarray(n, jnp.int32)[:, None], p[:, None], u)
    chex.assert_trees_all_equal(counts, scipy.stats.binom(n[:, None], p[:, None]).ppf(u))


def exact_mean(n, p):
    return int(n) * fractions.Fraction(float(p))


def test_log_probability_and_mean_keep_their_precision_for_many_trials():
    """In float32, where n p itself is rounded by up to 32."""
    n = np.array([20, 100, 10**6, 10**9, 10**9, 2**30])
    p = np.array([0.5, 0.3, 0.3, 0.3, 1e-7, 0.49], np.float32)
    deviation = np.sqrt(n * p * (1 - p), dtype=np.float64)
    count = np.round(n * p.astype(float) + np.linspace(-5, 5, 41)[:, None] * deviation)
    count = np.clip(count, 0, n).astype(np.int32)
    means = [exact_mean(*pair) for pair in zip(n, p, strict=True)]
    distance = np.array(
        [[float(int(k) - m) for k, m in zip(row, means, strict=True)] for row in count]
    )

    @jax.jit
    def both(n, p, count, distance):
        return _binomial._whole_and_rest(n, p), _binomial.log_probability(n, p, count, distance)

    tiled = [np.tile(value, (41, 1)) for value in (n.astype(np.int32), p)]
    (whole, rest), log_p = both(*tiled, count, distance.astype(np.float32))
    for w, r, mean in zip(whole[0], rest[0], means, strict=True):
        assert abs(int(w) + fractions.Fraction(float(r)) - mean) < 1e-6
    exact = scipy.stats.binom(n, p.astype(float)).logpmf(count)
    tolerance = np.where(n == 20, 3e-4, 2e-5)  # Stirling's series at counts of 1
    assert np.all((np.abs(log_p - exact) < tolerance) | (exact < -25))


def test_a_grid_of_uniforms_accepts_each_count_by_its_probability(x64):
    """Where the hat lay below the probabilities, the share accepted would fall short of them."""
    n, p = np.array([20, 24, 2000]), np.array([0.5, 0.43, 0.0051])
    u = (np.arange(2**19) + 0.5) / 2**19
    v = np.arange(1, 2**19 + 1) * 0.6180339887498949 % 1  # a lattice: even over the square
    propose = jax.jit(jax.vmap(_binomial.propose, (0, 0, None, None)))
    counts, accepted = propose(jnp.asarray(n, jnp.int32), p, u, v)
    for row, kept, m, q in zip(np.asarray(counts), np.asarray(accepted), n, p, strict=True):
        b = 1.15 + 2.53 * np.sqrt(m * q * (1 - q))
        share = np.sqrt(2 * np.pi) / (2.83 + 5.1 / b)
        likely = np.arange(m + 1)[scipy.stats.binom.pmf(np.arange(m + 1), m, q) > 3e-3]
        found = np.bincount(row[kept], minlength=m + 1)[likely] / u.size
        chex.assert_trees_all_close(found, share * scipy.stats.binom.pmf(likely, m, q), rtol=5e-3)


def test_counts_follow_the_binomial_distribution(draws):
    for column in range(len(GOOD)):
        assert_binomial(draws[:, column], TRIALS[column], PROBABILITIES[column])


def test_a_probability_off_by_two_hundredths_is_seen(draws):
    with pytest.raises(AssertionError, match="χ²"):
        assert_binomial(draws[:, 5], 100, 0.32)


def test_ends_are_exact_and_bad_parameters_show(draws):
    assert draws.dtype == np.int32
    expected = [0, 0, 9] + [-1] * len(BAD)
    chex.assert_trees_all_equal(np.unique(draws[:, len(GOOD) :], axis=0), np.array([expected]))


def test_numbers_known_beforehand_need_one_method_and_no_wrapping(key):
    """Means on either side of 10 as rounded to float32, and integers of 64 bits."""
    n = np.array([2**30, 2**40, 2**32 + 5, 7])
    chex.assert_trees_all_equal(
        binomial(key, n, np.float64(1 - 1e-9)), np.array([2**30, -1, -1, 7])
    )
    assert_binomial(binomial(jax.random.clone(key), np.uint8(200), 0.5, (20_000,)), 200, 0.5)
    assert_binomial(binomial(jax.random.clone(key), 20.0, np.nextafter(0.5, 0), (20_000,)), 20, 0.5)


def test_the_hat_lies_over_every_probability_and_few_are_rejected(x64):
    """Where it lay below one, a uniform of 1 would be accepted, and that count come too rarely."""
    n, p = np.array([20, 24, 100, 100, 1000, 10**6]), np.array([0.5, 0.43, 0.1, 0.5, 0.01, 0.3])
    n, p = n.astype(np.int32)[:, None], p[:, None]
    u = (np.arange(2**14) + 0.5)[None] / 2**14
    v = np.arange(1, 2**14 + 1)[None] * 0.6180339887498949 % 1  # a lattice: even over the square
    propose = jax.jit(_binomial.propose)
    assert not np.any(propose(n, p, u, np.ones_like(u))[1])
    assert np.all(np.mean(propose(n, p, u, v)[1], axis=1) > 0.69)


def test_no_uniform_asks_for_a_count_beyond_the_terms_that_are_summed():
    """With many trials a binomial is a Poisson, and with fewer its counts reach less far."""
    most = scipy.stats.poisson.isf(2.0**-53, _binomial._SMALL_MEAN)
    assert most <= _binomial._NUM_TERMS


def test_the_count_zero_is_accepted_by_its_own_probability(x64):
    """It is rare where counts are proposed; by how far up uniforms accept it, beside one."""
    n, p = 2000, 0.00501
    u = (np.arange(2**12) + 0.5) / 2**12 / 25
    v = np.geomspace(1e-8, 1, 2**9)
    counts, accepted = jax.jit(_binomial.propose)(jnp.int32(n), jnp.asarray(p), u[:, None], v[None])
    highest = np.exp(np.log(1e-8) * (1 - np.mean(accepted, axis=1)))
    sums = [np.sum(highest, where=np.asarray(counts[:, 0]) == k) for k in (0, 1)]
    exact = scipy.stats.binom.pmf([0, 1], n, p)
    chex.assert_trees_all_close(sums[0] / sums[1], exact[0] / exact[1], rtol=0.03)
