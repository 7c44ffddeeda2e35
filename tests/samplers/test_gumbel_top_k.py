import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers._gumbel_top_k import gumbel_top_k, gumbel_top_k_from_uniforms
from jaxgen.samplers._uniform import scrambled_sobol

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
draw = jax.jit(gumbel_top_k, static_argnums=2)


def ordered_pair_probabilities(p):
    """P(i then j) = p_i p_j / (1 − p_i), by enumeration."""
    return {(i, j): p[i] * p[j] / (1 - p[i]) for i, j in itertools.permutations(range(len(p)), 2)}


def pair_counts(symbols, pairs):
    found = [tuple(pair) for pair in np.asarray(symbols)]
    return [found.count(pair) for pair in pairs]


def test_pairs_come_with_their_probability_without_replacement(key):
    drawn = draw(key, jnp.broadcast_to(LOGITS, (40_000, 4)), 2)
    exact = ordered_pair_probabilities(np.exp(np.asarray(LOGITS, np.float64)))
    counts = pair_counts(drawn.symbols, exact)
    sampling_checks.assert_frequencies(counts, list(exact.values()))
    assert jnp.all(drawn.perturbed[:, 0] >= drawn.perturbed[:, 1])
    wrong = ordered_pair_probabilities(np.array([0.11, 0.39, 0.2, 0.3]))
    with pytest.raises(AssertionError, match="χ²"):
        sampling_checks.assert_frequencies(counts, list(wrong.values()))


def test_a_grid_of_uniforms_gives_the_softmax(x64):
    """Two symbols on a grid of both uniforms: the first is drawn with its probability."""
    grid = (jnp.arange(1000) + 0.5) / 1000
    u = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.2, 0.8])), u.shape)
    first = gumbel_top_k_from_uniforms(logits, u, 1).symbols[:, 0]
    chex.assert_trees_all_close(jnp.mean(first == 0), 0.2, atol=1e-3, rtol=1e-7)


@pytest.mark.usefixtures("optimized")
def test_symbols_18_nats_below_the_leader_win_at_their_rate(key):
    """Float32 Gumbel noise that is coarse for large values never lets them."""
    logits = jnp.full(4096, -18.0).at[7].set(0.0)
    keys = jax.random.split(key, 10_000)
    count = lambda k: jnp.sum(gumbel_top_k(k, jnp.tile(logits, (10, 1)), 1).symbols != 7)  # noqa: E731
    in_tail = int(jnp.sum(jax.jit(lambda ks: jax.lax.map(count, ks))(keys[:2000])))
    tail = 4095 * np.exp(-18.0)
    sampling_checks.assert_frequencies([in_tail, 20_000 - in_tail], [tail, 1 - tail])


def test_forbidden_symbols_leave_minus_one(key):
    logits = jnp.array([[0.0, -jnp.inf, 1.0], [-jnp.inf] * 3, [0.0, jnp.nan, 1.0]])
    drawn = draw(key, logits, 3)
    assert sorted(drawn.symbols[0].tolist()) == [-1, 0, 2]
    assert int(drawn.symbols[0, 2]) == -1
    assert jnp.all(drawn.symbols[1:] == -1)


def test_quasi_random_points_drive_it(key):
    u = scrambled_sobol(key, 4096, 4)
    first = gumbel_top_k_from_uniforms(jnp.broadcast_to(LOGITS, u.shape), u, 1).symbols[:, 0]
    chex.assert_trees_all_close(
        np.bincount(first, minlength=4) / 4096, jnp.exp(LOGITS), atol=0.02, rtol=1e-7
    )


def test_jit_equals_eager_and_vmap_equals_a_loop(key):
    eager = gumbel_top_k(jax.random.clone(key), LOGITS, 3)
    chex.assert_trees_all_equal(draw(jax.random.clone(key), LOGITS, 3).symbols, eager.symbols)
    keys = jax.random.split(key, 3)
    mapped = jax.vmap(lambda k: draw(k, LOGITS, 3).symbols)(jax.random.clone(keys))
    chex.assert_trees_all_equal(mapped, jnp.stack([draw(k, LOGITS, 3).symbols for k in keys]))


def test_both_dtypes_are_finite_at_extreme_words(x64):
    for dtype in (jnp.float32, jnp.float64):
        u = jnp.array([2.0**-33, 1 - jnp.finfo(dtype).epsneg], dtype)
        drawn = gumbel_top_k_from_uniforms(jnp.zeros(2, dtype), u, 2)
        assert drawn.perturbed.dtype == dtype
        assert jnp.all(jnp.isfinite(drawn.perturbed))
        assert drawn.symbols.tolist() == [0, 1]


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="num_drawn must be at most"):
        gumbel_top_k(key, LOGITS, 5)
    with pytest.raises(ValueError, match="u must have shape"):
        gumbel_top_k_from_uniforms(LOGITS, jnp.zeros(3), 1)
