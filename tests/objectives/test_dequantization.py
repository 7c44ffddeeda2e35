import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.objectives._dequantization import dequantized_log_prob

X = np.array([[0], [1], [3]])
EXACT = np.diff(scipy.stats.norm.cdf([[0, 1], [1, 2], [3, 4]], 1.2, 0.8))[:, 0]


def log_prob_fn(params, y):
    return jnp.sum(jax.scipy.stats.norm.logpdf(y, params, 0.8))


def test_exponential_is_unbiased_for_the_probability_of_the_cell(key):
    def draw(key):
        return jnp.exp(dequantized_log_prob(key, log_prob_fn, 1.2, X))

    draws = jax.jit(jax.vmap(draw))(jax.random.split(key, 100_000))
    sampling_checks.assert_mean(draws, EXACT)


def test_bound_tightens_with_the_number_of_samples(key):
    @jax.jit
    def mean_bounds(key):
        def mean(key, n):
            draw = lambda k: dequantized_log_prob(k, log_prob_fn, 1.2, X, num_samples=n)  # noqa: E731
            return jnp.mean(jax.vmap(draw)(jax.random.split(key, 20_000)), axis=0)

        return [mean(k, n) for k, n in zip(jax.random.split(key, 3), (1, 4, 64), strict=True)]

    means = mean_bounds(key)
    assert (np.diff([*means, np.log(EXACT)], axis=0) > 0).all()
    chex.assert_trees_all_close(means[-1], np.log(EXACT), atol=0.01, rtol=1e-7)


def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        dequantized_log_prob(key, log_prob_fn, 1.2, X, num_samples=0)
