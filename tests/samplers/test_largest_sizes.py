"""The largest sizes and the smallest probabilities stated to be drawn right, at their edge.

Everything here is enumerated: no random numbers but those that scramble.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers._alias import alias
from jaxgen.samplers._guide_table import GuideTable, guide_table
from jaxgen.samplers._uniform import (
    _within_strata,
    antithetic_uniforms,
    dense_near_zero,
    iid_uniforms,
    scrambled_sobol,
    stratified_uniforms,
)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 1000, 2**12 + 3, 2**20 + 7, 2**22 - 1, 2**22])
def test_no_stratified_point_is_rounded_out_of_its_stratum(num_samples):
    strata = np.arange(num_samples, dtype=np.int32)
    within = jax.jit(_within_strata)
    for word in (0, 2**32 - 1):
        points = np.asarray(within(strata, np.full(num_samples, word, np.uint32)), np.float64)
        place = points * num_samples - strata
        assert place.min() > 0
        assert place.max() < 1


def test_scrambled_sobol_has_a_point_in_each_of_2_to_the_23_strata(key):
    points = jax.jit(scrambled_sobol, static_argnums=1)(key, 2**23)[:, 0]
    cells = np.asarray(points * np.float32(2**23)).astype(np.int32)
    assert np.bincount(cells, minlength=2**23).max() == 1


def words_that_give(table, symbol, words):
    """How many of the words k, whose uniform is (k + ½) / 2^32, give a symbol."""
    u = ((words + 0.5) * 2.0**-32).astype(np.float32)
    return np.sum(np.asarray(table.quantile(u)) == symbol)


def test_an_alias_table_draws_probabilities_of_a_billionth_over_v():
    for num_symbols in (2, 1000):
        rare = 1e-9 / num_symbols
        logits = jnp.zeros(num_symbols).at[-1].set(np.log(rare * (num_symbols - 1) / (1 - rare)))
        table = alias(logits)
        choice = ((np.arange(1000) + 0.5) * 2.0**-32).astype(np.float32)
        column = np.full(1000, (num_symbols - 0.5) / num_symbols, np.float32)
        symbols = np.asarray(table.quantile(np.stack([column, choice], -1)))
        drawn = np.sum(symbols == num_symbols - 1) * 2.0**-32 / num_symbols
        chex.assert_trees_all_close(drawn, rare, rtol=0.5 / 4.3)  # of 4.3 words


@pytest.mark.parametrize("place", [0, -1])
def test_a_guide_table_draws_probabilities_of_a_millionth(place):
    logits = jnp.zeros(10).at[place].set(np.log(1e-6 * 9 / (1 - 1e-6)))
    table = guide_table(logits)
    chex.assert_trees_all_close(table.probabilities[place], 1e-6, rtol=0.1)
    words = np.arange(2**14, dtype=np.float64) + (0 if place == 0 else 2**32 - 2**14)
    drawn = words_that_give(table, place % 10, words) * 2.0**-32
    chex.assert_trees_all_close(drawn, 1e-6, rtol=0.1)


def test_a_guide_table_of_a_million_equal_symbols():
    num_symbols = 2**20
    table = guide_table(jnp.zeros(num_symbols))
    chex.assert_trees_all_close(table.probabilities * num_symbols, 1, atol=0.1, rtol=1e-7)
    u = (jnp.arange(num_symbols) + 0.5) / num_symbols
    symbols = jax.jit(GuideTable.quantile)(table, u)
    chex.assert_trees_all_equal(symbols, np.arange(num_symbols))


def test_draws_use_uniforms_as_fine_as_that(key):
    """Their words have 32 bits, of which floats keep 24 leading ones."""
    logits = jnp.array([0.0, 1.0, -2.0])
    u = dense_near_zero(jax.random.clone(key), (4096,))
    drawn = guide_table(logits).sample(jax.random.clone(key), (4096,))
    chex.assert_trees_all_equal(drawn, guide_table(logits).quantile(u))
    column_key, choice_key = jax.random.split(key)
    column = (jax.random.randint(column_key, (4096,), 0, 3) + 0.5) / 3
    expected = alias(logits).quantile(
        jnp.stack([column, dense_near_zero(choice_key, (4096,))], axis=-1)
    )
    chex.assert_trees_all_equal(alias(logits).sample(jax.random.clone(key), (4096,)), expected)


def test_sizes_beyond_are_refused(key):
    too_many = jax.ShapeDtypeStruct((2**24 + 1,), jnp.float32)
    with pytest.raises(ValueError, match=r"at most 16777216 symbols in float32.*use alias"):
        jax.eval_shape(guide_table, too_many)
    for design in (iid_uniforms, antithetic_uniforms, stratified_uniforms):
        with pytest.raises(ValueError, match=r"num_samples \* num_dims must be below 2\*\*32"):
            design(key, 10**12)
        with pytest.raises(ValueError, match=r"num_samples \* num_dims must be below 2\*\*32"):
            design(key, 2**20, 2**12)
