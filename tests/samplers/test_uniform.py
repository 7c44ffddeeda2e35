import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats
from scipy.stats import qmc

from jaxgen.samplers import _uniform
from jaxgen.samplers._uniform import (
    antithetic_uniforms,
    dense_near_zero,
    iid_uniforms,
    scrambled_sobol,
    sobol,
    stratified_uniforms,
)

DESIGNS = [iid_uniforms, antithetic_uniforms, stratified_uniforms, scrambled_sobol]


@functools.cache
def compiled(design):
    jitted = jax.jit(design, static_argnums=(1, 2))
    return lambda key, *counts: jitted(jax.random.clone(key), *counts)


@pytest.mark.filterwarnings("ignore:The balance properties")
@pytest.mark.parametrize(("num_samples", "num_dims"), [(1, 1), (1000, 1111), (4097, 5)])
def test_sobol_equals_scipy_bit_for_bit(x64, num_samples, num_dims):
    expected = qmc.Sobol(num_dims, scramble=False, bits=32).random(num_samples)
    chex.assert_trees_all_equal(sobol(num_samples, num_dims), expected)


def test_sobol_in_float32_equals_scipy_too():
    expected = qmc.Sobol(16, scramble=False, bits=32).random(2**12)
    points = sobol(2**12, 16)
    assert points.dtype == jnp.float32
    chex.assert_trees_all_equal(np.asarray(points, np.float64), expected)


@pytest.mark.parametrize("design", [stratified_uniforms, scrambled_sobol])
def test_each_coordinate_has_one_point_in_each_stratum(design, key):
    points = compiled(design)(key, 256, 2)
    strata = np.sort(np.floor(np.asarray(points, np.float64) * 256), axis=0)
    chex.assert_trees_all_equal(strata, np.arange(256)[:, None] * np.ones(2))


def test_scrambling_keeps_elementary_intervals_of_two_dimensions(key):
    points = np.asarray(compiled(scrambled_sobol)(key, 256, 2), np.float64)
    for log2_columns in range(9):
        boxes = np.floor(points * [2**log2_columns, 2 ** (8 - log2_columns)]).astype(int)
        assert len({tuple(box) for box in boxes}) == 256


def test_antithetic_halves_mirror_each_other_exactly(key):
    u = np.asarray(compiled(antithetic_uniforms)(key, 1000, 3), np.float64)
    chex.assert_trees_all_equal(u[:500] + u[500:], 1.0)


@pytest.mark.parametrize("design", DESIGNS)
def test_every_point_is_uniform_by_itself(design, key):
    keys = jax.random.split(key, 20_000)
    points = jax.jit(jax.vmap(lambda k: design(k, 6, 2)))(keys)
    for row, column in [(0, 0), (2, 1), (5, 1)]:
        # Stratified rows are uniform after shuffling only in the shuffled coordinate.
        if design is stratified_uniforms and column == 0:
            continue
        sampling_checks.assert_distribution(points[:, row, column], lambda x: x)


def test_the_uniformity_check_sees_a_missing_digital_shift(key):
    keys = jax.random.split(key, 20_000)
    unshifted = lambda k: _uniform._xor_points(  # noqa: E731
        _uniform._scramble(k, jnp.asarray(_uniform._gray_columns(2))), jnp.zeros(2, jnp.uint32), 6
    )
    points = jax.jit(jax.vmap(unshifted))(keys)[:, 2, 1] * 2.0**-32
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(points, lambda x: x)


def test_scrambled_sobol_averages_are_unbiased_and_far_better_than_independent_ones(key):
    """The mean of Π(1 + (u_d − ½)) is 1; its standard deviation over scrambles tells the rate."""
    keys = jax.random.split(key, 200)

    def spread(design):
        average = lambda k: jnp.mean(jnp.prod(0.5 + design(k, 1024, 4), axis=1))  # noqa: E731
        return np.asarray(jax.jit(jax.vmap(average))(jax.random.clone(keys)), np.float64)

    quasi, independent = spread(scrambled_sobol), spread(iid_uniforms)
    sampling_checks.assert_mean(quasi, 1.0)
    assert quasi.std() < 0.1 * independent.std()


@pytest.mark.parametrize("design", DESIGNS)
def test_independent_float64_points_fill_the_mantissa(design, key, x64):
    points = np.asarray(design(key, 64, 2))
    assert points.dtype == np.float64
    assert np.all((points > 0) & (points < 1))
    assert np.any(points != points.astype(np.float32))


def test_extreme_random_words_stay_strictly_inside(x64):
    for words in (jnp.array([0, 2**32 - 1], jnp.uint32), jnp.array([0, 2**64 - 1], jnp.uint64)):
        with jax.enable_x64(words.dtype == jnp.uint64):
            u = _uniform._open_uniform(words)
            assert u[0] > 0
            assert u[1] < 1
            assert u[0] == 1 - u[1]


def test_dense_uniforms_resolve_small_values(key):
    u = np.asarray(dense_near_zero(key, (400_000,)), np.float64)
    sampling_checks.assert_distribution(u, lambda x: x)
    small = u[u < 2**-12]
    assert np.any(small * 2**24 % 1 != 0)
    sampling_checks.assert_frequencies([small.size, u.size - small.size], [2**-12, 1 - 2**-12])


@pytest.mark.parametrize("design", DESIGNS)
def test_shapes_and_support(design, key):
    points = compiled(design)(key, 6, 5)
    assert points.shape == (6, 5)
    assert jnp.all((points > 0) & (points < 1))


@pytest.mark.parametrize("design", DESIGNS)
def test_jit_equals_eager_and_vmap_equals_a_loop(design, key):
    eager = design(jax.random.clone(key), 8, 3)
    chex.assert_trees_all_equal(compiled(design)(key, 8, 3), eager)
    keys = jax.random.split(jax.random.clone(key), 3)
    mapped = jax.vmap(lambda k: compiled(design)(k, 8, 3))(jax.random.clone(keys))
    chex.assert_trees_all_equal(mapped, jnp.stack([compiled(design)(k, 8, 3) for k in keys]))


def test_uniforms_drive_a_quantile_with_less_error_than_independent_ones(key):
    """Every design serves a map from uniforms; here the normal quantile, E[z²] = 1."""
    errors = {}
    for design in DESIGNS:
        z = scipy.stats.norm.ppf(np.asarray(compiled(design)(key, 2**14, 1), np.float64))
        errors[design.__name__] = abs(np.mean(z**2) - 1)
    assert errors["scrambled_sobol"] < 2e-3
    assert errors["stratified_uniforms"] < 2e-3


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="num_samples must be even"):
        antithetic_uniforms(key, 3)
    with pytest.raises(ValueError, match=r"must be below 2\*\*32"):
        _uniform._check(key, 2**31, 2)
    with pytest.raises(ValueError, match="num_dims must be in"):
        sobol(4, 1112)
    with pytest.raises(ValueError, match="num_dims must be in"):
        scrambled_sobol(key, 4, 1112)
    with pytest.raises(TypeError, match="key must be a typed key"):
        iid_uniforms(jnp.zeros(2, jnp.uint32), 4)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        stratified_uniforms(key, 0)


@pytest.mark.parametrize("design", DESIGNS)
def test_points_are_of_one_dimension_by_default(design, key):
    assert jax.eval_shape(lambda key: design(key, 6), key).shape == (6, 1)
    assert jax.eval_shape(lambda: sobol(6)).shape == (6, 1)


def test_as_many_strata_as_are_promised_hold_their_points_and_have_them_in_the_middle():
    num_strata = 2**22
    words = jnp.zeros(num_strata, jnp.uint32)
    points = np.asarray(_uniform._within_strata(jnp.arange(num_strata), words), float)
    chex.assert_trees_all_equal(np.floor(points * num_strata), np.arange(num_strata))
    chex.assert_trees_all_equal(points + points[::-1], 1)


def test_scrambling_keeps_the_first_one_of_every_word_down_to_the_last_bit(key):
    columns = 2 ** np.arange(32, dtype=np.uint32)[:, None]
    scrambled = np.asarray(_uniform._scramble(key, jnp.asarray(columns)))
    chex.assert_trees_all_equal(np.floor(np.log2(scrambled.astype(float))), np.log2(columns))
