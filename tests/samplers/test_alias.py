import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers._alias import alias
from jaxgen.samplers._uniform import scrambled_sobol

logit_rows = hnp.arrays(
    np.float32, 41, elements=st.one_of(st.floats(-30, 5, width=32), st.just(-np.inf))
)
build = jax.jit(alias)


@hypothesis.given(logits=logit_rows)
def test_the_table_holds_the_distribution(logits):
    logits[7] = max(logits[7], 0.0)
    exact = np.exp(np.float64(logits) - logits.max())
    exact /= exact.sum()
    table = alias(jnp.asarray(logits))
    chex.assert_trees_all_close(table.probabilities, exact, rtol=1e-6, atol=2e-8)
    forbidden = np.isneginf(logits)
    assert np.all(np.asarray(table.keep)[forbidden] == 0)
    assert not np.any(forbidden[np.asarray(table.other)[np.asarray(table.keep) < 1]])
    assert np.all((table.keep >= 0) & (table.keep <= 1))
    chex.assert_trees_all_close(build(logits).probabilities, exact, atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("num_symbols", [1, 2, 64])
def test_equal_symbols_keep_their_columns(num_symbols):
    table = alias(jnp.full(num_symbols, 3.0))
    chex.assert_trees_all_close(table.probabilities, 1 / num_symbols, rtol=1e-6)


def test_a_large_vocabulary_eagerly_and_compiled():
    """Sums in float64 are right to 1e-5 of each symbol, in float32 to 0.02 of the average one."""
    logits = jax.random.normal(jax.random.key(0), (2**15,))
    exact = np.exp(np.asarray(logits, np.float64))
    exact /= exact.sum()
    eager = alias(logits).probabilities / exact
    assert np.max(np.abs(np.asarray(eager) - 1)) < 1e-5
    compiled = build(logits).probabilities
    assert np.max(np.abs(np.asarray(compiled) - exact)) < 2e-2 / 2**15


def test_a_table_is_a_pytree_that_compiled_functions_take(key):
    table = alias(jnp.array([0.0, -jnp.inf, 1.0]))
    draw = jax.jit(lambda key, table: table.sample(key, (20,)))
    chex.assert_trees_all_equal(
        draw(jax.random.clone(key), table), table.sample(jax.random.clone(key), (20,))
    )


def test_frequencies_agree_with_softmax(key):
    logits = jnp.array([0.0, 1.0, -2.0, -jnp.inf, 0.3])
    counts = np.bincount(alias(logits).sample(key, (100_000,)), minlength=5)
    exact = np.asarray(jax.nn.softmax(logits), np.float64)
    sampling_checks.assert_frequencies(counts, exact)
    wrong = np.asarray(jax.nn.softmax(logits.at[0].add(0.1)), np.float64)
    with pytest.raises(AssertionError, match="χ²"):
        sampling_checks.assert_frequencies(counts, wrong)


def test_quasi_random_points_drive_it(key):
    logits = jnp.array([0.0, 1.0, -2.0, 0.3])
    u = scrambled_sobol(key, 2**12, 2)
    frequencies = np.bincount(alias(logits).quantile(u), minlength=4) / 2**12
    chex.assert_trees_all_close(frequencies, jax.nn.softmax(logits), atol=5e-3, rtol=1e-7)


def test_vmap_equals_a_loop(key):
    logits = jax.random.normal(key, (3, 9))
    tables = jax.vmap(build)(logits)
    loop = [build(row) for row in logits]
    chex.assert_trees_all_close(
        tables.keep, jnp.stack([t.keep for t in loop]), atol=1e-6, rtol=1e-7
    )
    chex.assert_trees_all_equal(tables.other, jnp.stack([t.other for t in loop]))


def test_no_distribution_shows(key):
    for logits in ([jnp.nan, 0.0], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0]):
        symbols = alias(jnp.array(logits)).sample(jax.random.key(1), (4,))
        assert jnp.all(symbols == -1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="logits must have rank 1"):
        alias(jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"u must have shape \(5, 2\), got \(5, 1\)"):
        alias(jnp.zeros(2)).quantile(jnp.zeros((5, 1)))
    with pytest.raises(TypeError, match="logits must hold floating-point"):
        alias(jnp.zeros(2, int))


def test_float64_is_kept(x64):
    assert alias(jnp.zeros(3)).keep.dtype == jnp.float64
    assert alias(jnp.zeros(3, jnp.float32)).keep.dtype == jnp.float32
