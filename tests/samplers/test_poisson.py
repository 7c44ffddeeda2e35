import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers import _poisson
from jaxgen.samplers._poisson import poisson


@functools.partial(jax.jit, static_argnums=2)
def draw(key, rate, num_samples):
    return poisson(key, rate, (num_samples,))


def assert_poisson(counts, rate):
    """χ² over each count near the rate, with both tails gathered."""
    exact = scipy.stats.poisson(rate)
    low, high = int(exact.ppf(1e-3)), int(exact.ppf(1 - 1e-3))
    width = max(1, (high - low) // 100)
    edges = np.concatenate([[-np.inf], np.arange(low, high, width), [np.inf]])
    found = np.histogram(np.asarray(counts, np.float64), edges + 0.5)[0]
    expected = np.diff(exact.cdf(edges))
    sampling_checks.assert_frequencies(found, expected)


@pytest.mark.parametrize("rate", [0.0, 0.3, 10.0])
def test_inversion_agrees_with_the_exact_quantile(rate, x64):
    u = (np.arange(2000) + 0.5) / 2000
    counts = _poisson.invert(jnp.full(2000, rate), jnp.asarray(u))
    chex.assert_trees_all_equal(counts, scipy.stats.poisson(rate).ppf(u))


@pytest.mark.parametrize("rate", [10.5, 300.0, 1e6, 1e8])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_log_probability_keeps_its_precision_at_large_rates(rate, dtype, x64):
    rate = float(np.float32(rate))
    z = np.linspace(-5, 5, 41)
    count = np.maximum(np.round(rate + z * np.sqrt(rate)), 0)
    distance = jnp.asarray(count - rate, dtype)
    log_p = _poisson.log_probability(
        jnp.asarray(rate, dtype), jnp.asarray(count, jnp.int32), distance
    )
    exact = scipy.stats.poisson(rate).logpmf(count)
    likely = exact > -16
    tolerance = 3e-4 if dtype == jnp.float32 else 3e-4 if rate < 20 else 2e-6
    chex.assert_trees_all_close(log_p[likely], exact[likely], atol=tolerance, rtol=1e-7)


@pytest.mark.parametrize("rate", [12.0, 200.3])
def test_a_grid_of_uniforms_accepts_the_right_counts(rate, x64):
    grid = (np.arange(1500) + 0.5) / 1500
    u, v = (jnp.asarray(a.ravel()) for a in np.meshgrid(grid, grid))
    count, accepted = jax.jit(_poisson.propose)(jnp.full(u.shape, rate), u, v)
    kept = np.asarray(count)[np.asarray(accepted)]
    assert np.mean(accepted) > 0.7
    chex.assert_trees_all_close(kept.mean(), rate, rtol=2e-3)
    chex.assert_trees_all_close(kept.var(), rate, rtol=5e-3)


@pytest.mark.parametrize("rate", [0.2, 9.5, 10.5, 60.0, 1e5])
def test_counts_follow_the_poisson_distribution(rate, key):
    rate = float(np.float32(rate))
    assert_poisson(draw(key, rate, 100_000), rate)


def test_a_rate_off_by_a_hundredth_is_seen(key):
    counts = draw(key, 60.0, 100_000)
    with pytest.raises(AssertionError, match="χ²"):
        assert_poisson(counts, 60.6)


def test_large_counts_are_not_rounded_to_floats(key):
    """At 2^28 floats of 32 bits are 32 apart: all residues must come."""
    counts = np.asarray(draw(key, 2.0**28, 100_000))
    sampling_checks.assert_frequencies(np.bincount(counts % 32, minlength=32), np.full(32, 1 / 32))
    z = (counts - 2.0**28) / 2.0**14
    sampling_checks.assert_distribution(z, scipy.stats.norm.cdf)


def test_each_count_has_its_own_rate_and_bad_rates_show(key):
    rates = jnp.array([3.0, 50.0, jnp.nan, -1.0, 2e9, 0.0])
    counts = np.asarray(jax.jit(poisson, static_argnums=2)(key, rates, (20_000, 6)))
    assert_poisson(counts[:, 0], 3.0)
    assert_poisson(counts[:, 1], 50.0)
    assert np.all(counts[:, 2:5] == -1)
    assert np.all(counts[:, 5] == 0)


def test_vmap_equals_a_loop(key):
    keys = jax.random.split(key, 3)
    rates = jnp.array([1.0, 20.0, 400.0])
    loop = [draw(k, r, 50) for k, r in zip(jax.random.clone(keys), rates, strict=True)]
    mapped = jax.vmap(lambda k, r: draw(k, r, 50))(jax.random.clone(keys), rates)
    chex.assert_trees_all_equal(mapped, jnp.stack(loop))
    assert mapped.dtype == jnp.int32


def test_a_shape_that_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="rate must broadcast"):
        poisson(key, jnp.ones(3), (2,))


def test_a_rate_that_rounds_to_the_edge_of_a_method_is_drawn(key):
    """10 + 1e-8 is above 10 as Python's number and 10 as a float of 32 bits."""
    assert_poisson(poisson(key, 10 + 1e-8, (10_000,)), 10.0)


def test_log_probability_far_from_the_mode_keeps_its_precision(x64):
    rate = 1e6
    count = np.round(rate * np.linspace(0.905, 1.095, 20))
    log_p = jax.jit(_poisson.log_probability)(
        jnp.asarray(rate), jnp.asarray(count, jnp.int32), jnp.asarray(count - rate)
    )
    exact = scipy.stats.poisson(rate).logpmf(count)
    chex.assert_trees_all_close(log_p, exact, rtol=0, atol=2e-4)


def test_the_hat_lies_over_every_probability_and_few_are_rejected(x64):
    """Where it lay below one, a uniform of 1 would be accepted, and that count come too rarely."""
    rate = np.array([10, 13.3, 20, 25, 50, 1e3, 1e8])[:, None]
    u = (np.arange(2**14) + 0.5)[None] / 2**14
    v = np.arange(1, 2**14 + 1)[None] * 0.6180339887498949 % 1  # a lattice: even over the square
    propose = jax.jit(_poisson.propose)
    assert not np.any(propose(rate, u, np.ones_like(u))[1])
    assert np.all(np.mean(propose(rate, u, v)[1], axis=1) > 0.74)


def test_no_uniform_asks_for_a_count_beyond_the_terms_that_are_summed():
    most = scipy.stats.poisson.isf(2.0**-53, _poisson._SMALL_RATE)
    assert most <= _poisson._NUM_TERMS
