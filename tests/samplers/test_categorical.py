import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers._alias import alias
from jaxgen.samplers._blocked_categorical import blocked_categorical
from jaxgen.samplers._categorical import categorical, categorical_quantile
from jaxgen.samplers._categorical_with_tails import tails_quantile
from jaxgen.samplers._guide_table import guide_table
from jaxgen.samplers._gumbel_top_k import gumbel_top_k
from jaxgen.samplers._logit_transforms import keep_top_p

quantile = jax.jit(categorical_quantile)
draw = jax.jit(categorical, static_argnames=("axis", "shape"))

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def test_inverse_cdf_on_a_grid_agrees_with_float64():
    p = np.array([0.1, 0.0, 0.25, 0.05, 0.6])
    u = (np.arange(2000) + 0.5) / 2000
    expected = np.searchsorted(np.cumsum(p), u, side="right")
    logits = np.broadcast_to(np.log(np.maximum(p, 1e-300)), (2000, 5)).copy()
    logits[:, 1] = -np.inf
    drawn = quantile(logits.astype(np.float32), u.astype(np.float32))
    chex.assert_trees_all_equal(drawn, expected)


@pytest.mark.parametrize("u", [0.0, 1e-45, 0.5, BELOW_ONE, 1.0])
def test_impossible_ends_are_never_drawn(u):
    logits = np.array([-np.inf, -np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert int(quantile(logits, np.float32(u))) in (2, 4)


def test_cumulative_sum_that_ends_below_one_draws_a_possible_symbol():
    # A plain searchsorted(cumsum(softmax), u) returns V here, beyond the last symbol.
    p = jax.nn.softmax(jnp.zeros(1000).at[-1].set(-jnp.inf))
    assert float(jnp.cumsum(p)[-1]) != 1.0
    assert int(categorical_quantile(jnp.log(p), jnp.float32(BELOW_ONE))) <= 998


@hypothesis.given(
    logits=st.lists(
        st.one_of(st.floats(-50, 50, width=32), st.just(-np.inf)), min_size=1, max_size=20
    ).filter(lambda row: max(row) > -np.inf),
    u=st.floats(0, 1, width=32),
)
def test_what_is_drawn_has_positive_probability(logits, u):
    padded = np.full(20, -np.inf, np.float32)
    padded[: len(logits)] = logits
    symbol = int(quantile(padded, np.float32(u)))
    assert 0 <= symbol < len(logits)
    assert logits[symbol] > -np.inf


def test_monotone_in_u():
    logits = np.tile(np.random.default_rng(3).standard_normal((1, 7), np.float32), (1001, 1))
    symbols = np.asarray(quantile(logits, np.linspace(0.0, 1.0, 1001, dtype=np.float32)))
    assert (np.diff(symbols) >= 0).all()
    assert set(symbols) == set(range(7))


def test_any_axis_may_run_over_symbols(key):
    logits = np.random.default_rng(4).standard_normal((5, 3, 2), np.float32)
    drawn = draw(jax.random.clone(key), logits, axis=1)
    rows = draw(jax.random.clone(key), np.moveaxis(logits, 1, -1))
    chex.assert_trees_all_equal(drawn, rows)
    first = draw(jax.random.clone(key), np.moveaxis(logits, 1, 0), axis=-3)
    chex.assert_trees_all_equal(first, rows)


def test_repeated_draws_from_a_row_follow_its_probabilities(key):
    logits = jnp.array([[0.0, 1.0, -1.0], [-jnp.inf, 0.0, 0.5]])
    drawn = np.asarray(draw(key, logits, shape=(50_000, 2)))
    for row, p in enumerate(jax.nn.softmax(logits)):
        sampling_checks.assert_frequencies(np.bincount(drawn[:, row], minlength=3), p)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_distribution_shows_as_minus_one(bad):
    rows = np.array([[0.0, bad, 1.0], [0.0, 0.0, 0.0], [-np.inf] * 3], np.float32)
    chex.assert_trees_all_equal(quantile(rows, np.float32([0.1, 0.1, 0.5])), np.array([-1, 0, -1]))


def test_samples_follow_the_probabilities(key):
    p = np.array([0.5, 0.2, 0.0, 0.29, 0.01])
    log_p = np.array([*np.log(p[:2]), -np.inf, *np.log(p[3:])], np.float32)
    draws = draw(key, np.broadcast_to(log_p, (10**6, 5)))
    sampling_checks.assert_frequencies(np.bincount(draws, minlength=5), p)
    with pytest.raises(AssertionError):  # power: a fault of 1 % of one probability is seen
        sampling_checks.assert_frequencies(
            np.bincount(draws, minlength=5), p + np.array([0.005, 0, 0, -0.005, 0])
        )


def test_jit_vmap_and_dtypes_agree():
    rng = np.random.default_rng(0)
    logits, u = rng.standard_normal((6, 9), np.float32), rng.random(6, np.float32)
    eager = categorical_quantile(logits, u)
    chex.assert_trees_all_equal(quantile(logits, u), eager)
    chex.assert_trees_all_equal(jax.vmap(categorical_quantile)(logits, u), eager)
    with jax.enable_x64(True):
        wide = quantile(np.asarray(logits, np.float64), np.asarray(u, np.float64))
    chex.assert_trees_all_equal(wide, eager)
    assert wide.dtype == eager.dtype == jnp.int32


HALF = jnp.linspace(-3.0, 0.0, 1000).astype(jnp.bfloat16)
U = np.random.default_rng(3).random((300, 2), np.float32)


@pytest.mark.parametrize(
    "draw",
    [
        lambda logits: jax.vmap(categorical_quantile, (None, 0))(logits, U[:, 0]),
        lambda logits: jax.vmap(tails_quantile, (None, 0))(logits, U),
        lambda logits: blocked_categorical(logits).quantile(U),
        lambda logits: guide_table(logits).quantile(U[:, 0]),
        lambda logits: alias(logits).quantile(U),
        lambda logits: gumbel_top_k(jax.random.key(0), logits, 300).symbols,
        lambda logits: keep_top_p(logits, 0.5) > -jnp.inf,
    ],
    ids=["categorical", "tails", "blocked", "guide_table", "alias", "gumbel_top_k", "keep_top_p"],
)
def test_half_precision_logits_draw_as_the_floats_that_they_are(draw):
    """So their sums have the digits of a float32, of which a thousand symbols need many."""
    draw = jax.jit(draw)
    chex.assert_trees_all_equal(draw(HALF), draw(HALF.astype(jnp.float32)))


def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match=r"u must have shape \(2,\), got \(3,\)"):
        categorical_quantile(jnp.zeros((2, 4)), jnp.zeros(3))
    with pytest.raises(ValueError, match="axis must be one of logits of shape"):
        categorical(key, jnp.zeros((2, 4)), axis=2)
    with pytest.raises(TypeError, match="logits must hold floating-point numbers"):
        categorical(key, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(TypeError, match="key must be a typed key"):
        categorical(jax.random.PRNGKey(0), jnp.zeros((2, 4)))
