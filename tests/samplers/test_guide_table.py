import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers._guide_table import GuideTable, guide_table
from jaxgen.samplers._uniform import scrambled_sobol

logit_rows = hnp.arrays(
    np.float32, 41, elements=st.one_of(st.floats(-30, 5, width=32), st.just(-np.inf))
)
build, quantile = jax.jit(guide_table), jax.jit(GuideTable.quantile)
EDGES = jnp.array([0.0, 1e-45, 2.0**-30, 0.5, 1 - 2.0**-24, 1.0], jnp.float32)


@hypothesis.given(logits=logit_rows)
def test_it_is_the_inverse_of_the_cumulative_sum(logits):
    logits[7] = max(logits[7], 0.0)
    table = build(logits)
    u = jnp.concatenate([(jnp.arange(500) + 0.5) / 500, EDGES, table.cumulative])
    symbols = np.asarray(quantile(table, u))
    assert np.all(np.isfinite(logits[symbols]))  # nothing forbidden, edges and ties included
    expected = np.searchsorted(np.asarray(table.cumulative), np.asarray(u), side="right")
    inside = np.asarray(u) < 1
    np.testing.assert_array_equal(symbols[inside], expected[inside])
    exact = np.exp(np.float64(logits) - logits.max())
    np.testing.assert_allclose(table.cumulative, np.cumsum(exact) / exact.sum(), atol=5e-7)


def test_probabilities_are_those_of_the_softmax():
    logits = jnp.array([0.0, 1.0, -2.0, -jnp.inf, 0.3])
    chex.assert_trees_all_close(
        build(logits).probabilities, jax.nn.softmax(logits), atol=1e-7, rtol=1e-7
    )


def test_it_finds_symbols_among_many_in_one_cell():
    logits = jnp.full(4096, -12.0).at[0].set(0.0)
    table = build(logits)
    u = 1 - jnp.arange(1, 100) * 2.0**-12
    expected = np.searchsorted(np.asarray(table.cumulative), np.asarray(u), side="right")
    chex.assert_trees_all_equal(quantile(table, u), expected)


def test_frequencies_agree_with_softmax(key):
    logits = jnp.array([0.0, 1.0, -2.0, -jnp.inf, 0.3])
    symbols = build(logits).sample(key, (100_000,))
    counts = np.bincount(symbols, minlength=5)
    sampling_checks.assert_frequencies(counts, np.asarray(jax.nn.softmax(logits), np.float64))


def test_quasi_random_points_keep_their_equidistribution(key):
    logits = jnp.array([0.0, 1.0, -2.0, 0.3])
    u = scrambled_sobol(key, 2**12)[:, 0]
    frequencies = np.bincount(quantile(build(logits), u), minlength=4) / 2**12
    chex.assert_trees_all_close(frequencies, jax.nn.softmax(logits), atol=2 / 2**12, rtol=1e-7)


def test_vmap_equals_a_loop(key):
    logits = jax.random.normal(key, (3, 9))
    u = jnp.linspace(0, 1, 30).reshape(3, 10)
    loop = [quantile(build(row), v) for row, v in zip(logits, u, strict=True)]
    mapped = jax.vmap(quantile)(jax.vmap(build)(logits), u)
    chex.assert_trees_all_equal(mapped, jnp.stack(loop))
    eager = build(logits[0]).quantile(u[0])
    chex.assert_trees_all_equal(eager, loop[0])


def test_no_distribution_shows():
    for logits in ([jnp.nan, 0.0], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0]):
        assert jnp.all(quantile(build(jnp.array(logits)), jnp.array([0.1, 0.9])) == -1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="logits must have rank 1"):
        guide_table(jnp.zeros((2, 2)))
