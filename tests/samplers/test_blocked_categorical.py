import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers import _blocked_categorical
from jaxgen.samplers._blocked_categorical import BlockedCategorical, blocked_categorical
from jaxgen.samplers._uniform import antithetic_uniforms, scrambled_sobol


def sample(key, logits, shape):
    return blocked_categorical(logits).sample(key, shape)


draw = jax.jit(sample, static_argnums=2)
quantile = jax.jit(BlockedCategorical.quantile)


def exact_probabilities(logits):
    """What `quantile` gives to each symbol, measured over a grid of both uniforms."""
    table = blocked_categorical(logits)
    grid = (jnp.arange(1024) + 0.5) / 1024
    u = jnp.stack(jnp.meshgrid(grid, grid), -1)
    symbols = quantile(table, u)
    return np.bincount(np.ravel(symbols), minlength=logits.size) / symbols.size


def test_the_inverse_gives_each_symbol_its_probability():
    logits = jax.random.normal(jax.random.key(0), (20,)).at[3].set(-jnp.inf)
    probabilities = exact_probabilities(logits)
    chex.assert_trees_all_close(probabilities, jax.nn.softmax(logits), atol=1.5e-3, rtol=1e-7)
    assert probabilities[3] == 0


def test_probabilities_are_those_of_the_softmax():
    logits = jax.random.normal(jax.random.key(0), (2, 37)).at[0, 3].set(-jnp.inf)
    probabilities = blocked_categorical(logits).probabilities
    chex.assert_trees_all_close(probabilities, jax.nn.softmax(logits), rtol=1e-5)


@pytest.mark.usefixtures("optimized")
def test_symbols_18_nats_below_the_leader_are_drawn_at_their_rate(key):
    """A float32 Gumbel-max draws none of them; in expectation there are 998."""
    logits = jnp.full(65_536, -18.0).at[7].set(0.0)
    num_samples = 1_000_000
    table = blocked_categorical(logits)
    # Both uniforms are drawn as `sample` does; a map over chunks keeps the memory small.
    keys = jax.random.split(key, 1000)
    count = lambda k: jnp.sum(draw(k, logits, (1000,)) != 7)  # noqa: E731
    in_tail = int(jnp.sum(jax.jit(lambda ks: jax.lax.map(count, ks))(keys)))
    tail = 65_535 * np.exp(-18.0)
    tail = tail / (1 + tail)
    counts = [in_tail, num_samples - in_tail]
    sampling_checks.assert_frequencies(counts, [tail, 1 - tail])
    with pytest.raises(AssertionError):
        sampling_checks.assert_frequencies([0, num_samples], [tail, 1 - tail])
    assert table.weights.shape == (256, 256)


def test_no_rows_give_no_draws(key):
    table = blocked_categorical(jnp.zeros((0, 5)))
    assert table.probabilities.shape == (0, 5)
    assert table.sample(key, (3,)).shape == (3, 0)


def test_block_choice_keeps_relative_precision_far_below_the_leader(x64):
    """Deterministic: where the choice of block switches, bisected in u, against float64 sums."""
    logits = np.full(4096, -25.0, np.float32)
    logits[-1] = 0
    masses = blocked_categorical(jnp.asarray(logits)).masses
    assert masses.dtype == jnp.float32
    edges = np.cumsum(np.asarray(masses, np.float64))[:-1] / np.sum(np.asarray(masses, np.float64))
    below = jnp.asarray(edges * (1 - 1e-5), jnp.float32)
    above = jnp.asarray(edges * (1 + 1e-5), jnp.float32)
    pick = jax.vmap(_blocked_categorical._pick, (None, 0))
    chex.assert_trees_all_equal(pick(masses, below), np.arange(63))
    chex.assert_trees_all_equal(pick(masses, above), np.arange(1, 64))


@pytest.mark.parametrize("num_symbols", [9, 300])
def test_frequencies_agree_with_softmax(num_symbols, key):
    logits = 2 * jax.random.normal(jax.random.key(1), (num_symbols,))
    symbols = draw(key, logits, (100_000,))
    counts = np.bincount(np.asarray(symbols), minlength=num_symbols)
    probabilities = np.asarray(jax.nn.softmax(logits), np.float64)
    sampling_checks.assert_frequencies(counts, probabilities)


def test_a_logit_off_by_a_twentieth_is_seen(key):
    logits = jnp.array([0.0, 0.5, 1.0])
    counts = np.bincount(np.asarray(draw(key, logits, (100_000,))), minlength=3)
    wrong = np.asarray(jax.nn.softmax(logits.at[1].add(0.05)), np.float64)
    with pytest.raises(AssertionError, match="χ²"):
        sampling_checks.assert_frequencies(counts, wrong)


@hypothesis.given(seed=st.integers(0, 10_000), spread=st.floats(0, 1e4))
@hypothesis.settings(max_examples=20)
def test_forbidden_symbols_never_come_even_at_the_edges(seed, spread):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.normal(size=37)).astype(np.float32)
    logits[rng.random(37) < 0.6] = -np.inf
    if np.all(np.isneginf(logits)):
        logits[0] = 0
    table = blocked_categorical(logits)
    edges = jnp.array([0.0, 1e-45, 2**-33, 0.5, 1 - 2**-24, 1.0], jnp.float32)
    u = jnp.stack(jnp.meshgrid(edges, edges), -1).reshape(-1, 2)
    symbols = np.asarray(quantile(table, u))
    assert np.all(np.isfinite(logits[symbols]))


def test_bad_rows_give_minus_one_and_leave_others_alone(key):
    inf, nan = jnp.inf, jnp.nan
    logits = jnp.array([[nan, 1.0], [-inf, -inf], [0.0, inf], [-inf, 3.0]])
    chex.assert_trees_all_equal(draw(key, logits, ()), np.array([-1, -1, -1, 1]))


@pytest.mark.parametrize("design", [antithetic_uniforms, scrambled_sobol])
def test_any_design_of_uniforms_drives_it(design, key):
    logits = jnp.array([0.0, 1.0, -1.0, 0.5])
    u = design(key, 4096, 2)
    symbols = quantile(blocked_categorical(logits), u)
    frequencies = np.bincount(np.asarray(symbols), minlength=4) / 4096
    chex.assert_trees_all_close(frequencies, jax.nn.softmax(logits), atol=0.04, rtol=1e-7)


def test_jit_equals_eager_and_vmap_equals_a_loop(key):
    logits = jax.random.normal(jax.random.key(2), (3, 40))
    eager = sample(jax.random.clone(key), logits, (5,))
    np.testing.assert_array_equal(draw(key, logits, (5,)), eager)
    assert eager.shape == (5, 3)
    u = jax.random.uniform(jax.random.key(3), (3, 2))
    pick = jax.jit(lambda row, v: blocked_categorical(row).quantile(v))
    loop = [pick(row, v) for row, v in zip(logits, u, strict=True)]
    np.testing.assert_array_equal(jax.vmap(pick)(logits, u), loop)
    np.testing.assert_array_equal(pick(logits, u), loop)
    np.testing.assert_array_equal(pick(logits[:, None], u[:, None])[:, 0], loop)


def test_float64_logits_keep_float64_weights(x64, key):
    assert blocked_categorical(jnp.zeros(5)).weights.dtype == jnp.float64
    assert blocked_categorical(jnp.zeros(5, jnp.bfloat16)).weights.dtype == jnp.float32
    assert draw(key, jnp.zeros(5), (3,)).dtype == jnp.int32


def test_mistakes_are_named(key):
    with pytest.raises(TypeError, match="logits must hold floating-point"):
        blocked_categorical(jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"u must have shape \(3, 2\), got \(2,\)"):
        blocked_categorical(jnp.zeros((3, 4))).quantile(jnp.zeros(2))
    with pytest.raises(ValueError, match="logits must have a last axis"):
        blocked_categorical(jnp.zeros((2, 0)))


def test_a_single_symbol_is_certain(key):
    assert jnp.all(draw(key, jnp.zeros(1), (8,)) == 0)


def test_weights_with_nan_pick_no_entry():
    pick = _blocked_categorical._pick
    assert pick(jnp.array([1.0, jnp.nan]), jnp.array(0.3)) == -1
