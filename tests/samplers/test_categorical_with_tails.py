import chex
import jax
import jax.numpy as jnp
import numpy as np
import sampling_checks

from jaxgen.samplers._categorical_with_tails import (
    _pick,
    categorical_with_tails,
    tails_quantile,
)
from jaxgen.samplers._random_bits import tail_uniforms


def test_no_entry_is_absorbed_by_heavier_ones():
    """Just below and above where each of a hundred ends, from light to heavy, in long doubles."""
    masses = np.float32(10.0) ** np.float32(np.tile([0, -9, -18, 0], 25))
    order = np.argsort(masses, kind="stable")
    sums = np.cumsum(masses[order].astype(np.longdouble))
    edges, width = sums[:-1] / sums[-1], masses[order] / sums[-1]
    pick = jax.jit(jax.vmap(_pick, (None, 0)))
    for shift, expected in ((-1e-3 * width[:-1], order[:-1]), (1e-3 * width[:-1], order[1:])):
        u = jnp.asarray((edges + shift).astype(np.float32))
        chex.assert_trees_all_equal(pick(jnp.asarray(masses), u), expected)


def test_edges_of_u_give_possible_symbols():
    logits = jnp.tile(jnp.array([-jnp.inf, -30.0, 0.0, -jnp.inf])[None], (2, 1))
    u = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    chex.assert_trees_all_equal(tails_quantile(logits, u), np.array([1, 2]))


def test_draws_follow_the_softmax_over_any_axis(key):
    logits = jax.random.normal(key, (300, 1))
    draw = jax.jit(lambda key: categorical_with_tails(key, logits, 0, (20_000, 1)))
    counts = np.bincount(draw(jax.random.key(1))[:, 0], minlength=300)
    sampling_checks.assert_frequencies(counts, jax.nn.softmax(logits[:, 0]))
    bad = jnp.array([[0.0, jnp.nan], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0]])
    chex.assert_trees_all_equal(categorical_with_tails(jax.random.key(1), bad), -1)


def test_rows_may_have_any_leading_axes(key):
    logits = jax.random.normal(key, (2, 3, 5))
    u = jax.random.uniform(jax.random.key(2), (2, 3, 2))
    rows = jax.vmap(tails_quantile)(logits.reshape(6, 5), u.reshape(6, 2))
    chex.assert_trees_all_equal(tails_quantile(logits, u), rows.reshape(2, 3))


def test_an_edge_belongs_to_what_is_above_it():
    masses = jnp.tile(jnp.array([2.0, 1.0, 1.0]), (4, 1))
    chex.assert_trees_all_equal(
        _pick(masses, jnp.array([0.0, 0.25, 0.5, 0.75])), np.array([1, 2, 0, 0])
    )


def test_uniforms_have_digits_below_32_bits(key):
    smallest = jax.jit(lambda key: jnp.sort(tail_uniforms(key, (1_000_000,)))[:100])(key)
    fractions = np.asarray(smallest, np.float64) * 2.0**32 % 1
    assert np.mean(fractions == 0.5) < 0.2


def test_weights_with_nan_pick_no_entry():
    assert _pick(jnp.array([1.0, jnp.nan]), jnp.array(0.3)) == -1


def test_a_single_row_may_be_drawn_from_many_times(key):
    logits = jnp.array([-jnp.inf, 0.0, -jnp.inf])
    chex.assert_trees_all_equal(categorical_with_tails(key, logits, shape=(2, 2)), 1)
