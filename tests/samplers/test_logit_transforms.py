import itertools

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers._blocked_categorical import blocked_categorical
from jaxgen.samplers._categorical import categorical
from jaxgen.samplers._gumbel_top_k import gumbel_top_k
from jaxgen.samplers._logit_transforms import keep_top_k, keep_top_p, temper

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
rows = hnp.arrays(np.float32, (3, 11), elements=st.floats(-30, 30, width=32))


def kept(logits):
    return np.isfinite(np.asarray(logits))


def test_temper_divides_log_probabilities():
    probabilities = jax.nn.softmax(temper(LOGITS, 0.5))
    squares = jnp.exp(2 * LOGITS)
    chex.assert_trees_all_close(probabilities, squares / squares.sum(), rtol=1e-6)


def test_a_tiny_temperature_is_greedy_and_does_not_overflow():
    cold = jax.nn.softmax(temper(1e4 + LOGITS, 1e-37))
    chex.assert_trees_all_equal(cold, np.array([0, 1, 0, 0]))


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 1e-300])
def test_a_temperature_below_all_floats_is_greedy(temperature):
    chex.assert_trees_all_equal(jax.nn.softmax(temper(LOGITS, temperature)), np.array([0, 1, 0, 0]))
    assert not jnp.any(jnp.isnan(temper(LOGITS.at[0].set(-jnp.inf), 1e39)))


TRANSFORMS = {
    "temper": lambda logits: temper(logits, 0.5),
    "keep_top_k": lambda logits: keep_top_k(logits, 2),
    "keep_top_p": lambda logits: keep_top_p(logits, 0.5),
    "all": lambda logits: keep_top_p(keep_top_k(temper(logits, 0.5), 3), 0.9),
}
SAMPLERS = {
    "categorical": lambda key, logits: categorical(key, logits),
    "blocked": lambda key, logits: blocked_categorical(logits).sample(key),
    "gumbel": lambda key, logits: gumbel_top_k(key, logits, 1).symbols[..., 0],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_nan_of_either_sign_draws_no_symbol_whatever_stands_between(sampler, key):
    bad = [np.float32(np.nan), -np.float32(np.nan), np.float32(np.inf)]
    rows = np.tile(np.asarray(LOGITS), (len(bad) * 4, 1))
    for i, (place, number) in enumerate(itertools.product(range(4), bad)):
        rows[i, place] = number
    assert np.signbit(rows[1, 0])

    @jax.jit
    def draw(key, rows):
        drawn = {name: SAMPLERS[sampler](key, fn(rows)) for name, fn in TRANSFORMS.items()}
        return {**drawn, "none": SAMPLERS[sampler](key, rows)}

    with jax.debug_key_reuse(False):
        for name, symbols in draw(key, rows).items():
            np.testing.assert_array_equal(symbols, -1, err_msg=name)


def test_keep_top_k_keeps_exactly_k_even_among_equals():
    chex.assert_trees_all_equal(kept(keep_top_k(LOGITS, 2)), np.array([0, 1, 0, 1]))
    chex.assert_trees_all_equal(kept(keep_top_k(jnp.zeros(4), 3)), np.array([1, 1, 1, 0]))
    chex.assert_trees_all_equal(keep_top_k(LOGITS, 9), LOGITS)


def test_keep_top_p_keeps_the_fewest_that_hold_the_mass():
    for mass, expected in [
        (1e-6, [0, 1, 0, 0]),
        (0.39, [0, 1, 0, 0]),
        (0.41, [0, 1, 0, 1]),
        (0.69, [0, 1, 0, 1]),
        (0.71, [0, 1, 1, 1]),
        (1.0, [1, 1, 1, 1]),
    ]:
        np.testing.assert_array_equal(kept(keep_top_p(LOGITS, mass)), expected)
    np.testing.assert_array_equal(kept(keep_top_p(jnp.zeros(4), 0.5)), [1, 1, 0, 0])


def test_keep_top_p_of_one_keeps_a_tail_that_float32_sums_would_lose():
    logits = jnp.zeros(5000).at[1:].set(-40.0).at[4999].set(-200.0)
    chex.assert_trees_all_equal(keep_top_p(logits, 1.0), logits)


compiled_keep_top_p = jax.jit(keep_top_p)


@hypothesis.given(logits=rows, mass=st.floats(0.01, 0.99))
def test_keep_top_p_agrees_with_a_float64_reference(logits, mass):
    result = np.asarray(compiled_keep_top_p(logits, mass))
    p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, -1)
    before = np.cumsum(ranked, -1) - ranked
    clear = np.abs(before - mass) > 1e-5  # within rounding of the threshold either is right
    stays = np.take_along_axis(np.isfinite(result), order, -1)
    chex.assert_trees_all_equal(stays[clear], (before < mass)[clear])
    chex.assert_trees_all_equal(result[np.isfinite(result)], logits[np.isfinite(result)])


def test_transforms_compose_under_jit_and_vmap():
    def pipeline(logits):
        cooled = temper(logits, 0.7)
        return keep_top_p(keep_top_k(cooled, 3), 0.9)

    logits = jax.random.normal(jax.random.key(0), (4, 9))
    loop = jnp.stack([pipeline(row) for row in logits])
    chex.assert_trees_all_close(jax.jit(pipeline)(logits), loop, rtol=1e-6)
    chex.assert_trees_all_close(jax.vmap(pipeline)(logits), loop, rtol=1e-6)


def test_forbidden_symbols_stay_forbidden():
    logits = LOGITS.at[1].set(-jnp.inf)
    for transformed in (
        temper(logits, 2.0),
        keep_top_k(logits, 4),
        keep_top_p(logits, 1.0),
    ):
        chex.assert_trees_all_equal(kept(transformed), np.array([1, 0, 1, 1]))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="temperature must be in"):
        temper(LOGITS, 0.0)
    with pytest.raises(ValueError, match="num_kept must be at least 1"):
        keep_top_k(LOGITS, 0)
    with pytest.raises(ValueError, match="mass must be in"):
        keep_top_p(LOGITS, 1.5)
    with pytest.raises(ValueError, match="mass must be in"):
        keep_top_p(LOGITS, 0.0)
    with pytest.raises(TypeError, match="logits must hold floating-point"):
        keep_top_p(jnp.arange(3), 0.5)
    assert jnp.all(jnp.isnan(temper(LOGITS, jnp.array(-1.0))))
