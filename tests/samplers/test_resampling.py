import functools

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.special

from jaxgen.core import _double as double
from jaxgen.samplers import _resampling as resampling
from jaxgen.samplers._resampling import resample, resample_from_uniforms
from jaxgen.samplers._uniform import scrambled_sobol

METHODS = ["multinomial", "stratified", "systematic", "residual"]
WEIGHTS = np.array([0.05, 0.0, 0.31, 0.14, 0.5])
LOG_WEIGHTS = jnp.log(jnp.asarray(WEIGHTS, jnp.float32)) + 3.0


@functools.cache
def compiled(method):
    jitted = jax.jit(functools.partial(resample, method=method), static_argnums=2)
    return lambda key, *rest: jitted(jax.random.clone(key), *rest)


def copies_of_each(method, key, num_samples=10, num_repeats=20_000):
    keys = jax.random.split(key, num_repeats)
    draw = jax.jit(jax.vmap(lambda k: resample(k, LOG_WEIGHTS, num_samples, method=method)))
    return np.asarray(jax.nn.one_hot(draw(keys), 5).sum(1))


@pytest.mark.parametrize("method", METHODS)
def test_expected_copies_are_proportional_to_the_weights(method, key):
    copies = copies_of_each(method, key)
    assert np.all(copies.sum(1) == 10)
    assert np.all(copies[:, 1] == 0)
    varies = copies.std(0) > 0
    sampling_checks.assert_mean(copies[:, varies], 10 * WEIGHTS[varies])
    chex.assert_trees_all_close(copies[0, ~varies], 10 * WEIGHTS[~varies], atol=1e-5, rtol=1e-7)


def test_the_check_sees_a_biased_scheme(key):
    """Rounding N w to whole copies, and giving the largest what is left, is not unbiased."""
    copies = copies_of_each("multinomial", key)
    with pytest.raises(AssertionError, match="standard errors away"):
        sampling_checks.assert_mean(copies[:, [0, 2, 3, 4]], [0.0, 3.0, 1.0, 6.0])


def test_systematic_copies_differ_from_their_expectation_by_less_than_one(key):
    copies = copies_of_each("systematic", key, num_repeats=2000)
    assert np.all(np.abs(copies - 10 * WEIGHTS) < 1 + 1e-4)


def test_residual_never_gives_fewer_than_the_whole_copies(key):
    copies = copies_of_each("residual", key, num_repeats=2000)
    assert np.all(copies >= np.floor(10 * WEIGHTS - 1e-4))


def test_variance_falls_from_multinomial_to_systematic(key):
    spread = {m: copies_of_each(m, jax.random.clone(key), 10, 4000)[:, 2].var() for m in METHODS}
    assert spread["systematic"] < spread["stratified"] < spread["multinomial"]
    assert spread["residual"] < spread["multinomial"]


@pytest.mark.parametrize("method", METHODS[1:])
def test_equal_weights_keep_every_point_once(method, key):
    indices = compiled(method)(key, jnp.full(64, -2.0), 64)
    chex.assert_trees_all_equal(np.sort(indices), np.arange(64))


@pytest.mark.parametrize("num_points", [41, 107])  # where a float32 quotient falls below one
@pytest.mark.parametrize("method", ["systematic", "residual"])
def test_whole_copies_do_not_fall_to_rounding(method, num_points, key):
    indices = compiled(method)(key, jnp.zeros(num_points), num_points)
    chex.assert_trees_all_equal(np.sort(indices), np.arange(num_points))


def test_each_of_up_to_200_equal_weights_ends_at_a_whole_number():
    """So, of as many draws as points, each has a cell to itself: one copy at every M."""
    for num_points in range(1, 201):
        ends = np.minimum(np.arange(1, 201), num_points).astype(np.float32)
        part = double.Double(jnp.asarray(ends), jnp.zeros(200))
        total = double.double(num_points, jnp.float32)
        whole, fraction = double.whole_and_fraction(resampling._scaled(part, total, num_points))
        chex.assert_trees_all_equal(whole, ends)
        chex.assert_trees_all_equal(fraction, 0)


@pytest.mark.parametrize("method", ["stratified", "systematic"])
def test_a_million_equal_weights_keep_every_point_once(method, key):
    num_points = 1_000_000
    indices = compiled(method)(key, jnp.full(num_points, 2.5), num_points)
    chex.assert_trees_all_equal(indices, np.arange(num_points))


def test_targets_of_many_more_draws_than_a_float_counts_meet_the_exact_cdf():
    """Just below and just above where each point ends, in rational arithmetic."""
    num_points, num_samples = 1000, 2**30 - 1
    weights = np.arange(1, num_points + 1)
    ends = weights.cumsum() * num_samples
    cell, rest = np.divmod(ends[:-1], weights.sum())
    u = rest / weights.sum()
    inside = (u > 1e-5) & (u < 1 - 1e-5)
    find = jax.jit(resampling._inverse, static_argnums=3)
    for shift in (-5e-6, 5e-6):
        target = jnp.asarray(u + shift, jnp.float32), jnp.asarray(weights, jnp.float32)
        found = find(target[1], jnp.asarray(cell, jnp.int32), target[0], num_samples)
        expected = np.arange(num_points - 1) + (shift > 0)
        chex.assert_trees_all_equal(np.asarray(found)[inside], expected[inside])
    assert inside.sum() > 900


def test_half_precision_weights_are_summed_in_float32(key):
    log_weights = jnp.linspace(-3.0, 0.0, 300).astype(jnp.bfloat16)
    copies = np.bincount(compiled("systematic")(key, log_weights, 300), minlength=300)
    exact = scipy.special.softmax(np.asarray(log_weights, np.float64)) * 300
    assert np.max(np.abs(copies - exact)) < 1 + 1e-4


@hypothesis.given(
    weights=hnp.arrays(np.float32, 33, elements=st.sampled_from([0, 1e-30, 1e-7, 0.3, 1.0]))
)
def test_points_of_weight_zero_never_come_even_at_the_edges(weights):
    weights[5] = max(weights[5], 1e-30)
    edges = jnp.array([0.0, 1e-45, 1e-7, 0.5, 1 - 2**-24, 1.0], jnp.float32)
    indices = np.asarray(from_uniforms(jnp.log(weights), edges))
    assert np.all(weights[indices] > 0)


from_uniforms = jax.jit(resample_from_uniforms)


@pytest.mark.parametrize("method", METHODS)
def test_weights_without_a_distribution_give_minus_one(method, key):
    for log_weights in ([-jnp.inf] * 3, [0.0, jnp.nan, 0.0], [0.0, jnp.inf, 0.0]):
        assert jnp.all(compiled(method)(key, jnp.array(log_weights), 4) == -1)


def test_scrambled_sobol_uniforms_drive_it_too(key):
    u = scrambled_sobol(key, 1024)[:, 0]
    frequencies = np.bincount(np.asarray(from_uniforms(LOG_WEIGHTS, u)), minlength=5) / 1024
    chex.assert_trees_all_close(frequencies, WEIGHTS, atol=2 / 1024, rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_jit_equals_eager_and_vmap_equals_a_loop(method, key):
    eager = resample(jax.random.clone(key), LOG_WEIGHTS, 7, method=method)
    chex.assert_trees_all_equal(compiled(method)(key, LOG_WEIGHTS, 7), eager)
    keys = jax.random.split(key, 3)
    mapped = jax.vmap(lambda k: compiled(method)(k, LOG_WEIGHTS, 7))(jax.random.clone(keys))
    loop = [compiled(method)(k, LOG_WEIGHTS, 7) for k in keys]
    chex.assert_trees_all_equal(mapped, jnp.stack(loop))


def test_a_long_ramp_of_weights_in_both_dtypes(key):
    """Systematic copies stay within one of N w, up to the rounding of the weights."""
    for dtype, slack in ((jnp.float32, 1e-2), (jnp.float64, 1e-6)):
        with jax.enable_x64(dtype == jnp.float64):
            n = 2**17
            log_weights = jnp.log(jnp.arange(1, n + 1, dtype=dtype))
            indices = jax.jit(resample, static_argnums=2)(jax.random.key(1), log_weights, n)
            exact = np.arange(1, n + 1) / (n * (n + 1) / 2) * n
            difference = np.bincount(np.asarray(indices), minlength=n) - exact
            assert np.max(np.abs(difference)) < 1 + slack


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="log_weights must have rank 1"):
        resample(key, jnp.zeros((2, 2)), 3)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        resample(jax.random.key(0), jnp.zeros(2), 0)
    with pytest.raises(ValueError, match=r"method must be one of multinomial, .*got 'sobol'"):
        resample(jax.random.key(0), jnp.zeros(2), 3, method="sobol")
    with pytest.raises(TypeError, match="log_weights must hold floating-point"):
        resample_from_uniforms(jnp.zeros(2, int), jnp.zeros(1))
