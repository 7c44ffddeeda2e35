"""What the causal transformer promises beyond the contract: places, classes, caches."""

import functools

import autoregressive_conformance as conformance
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.models._context import Labels
from jaxgen.models.autoregressive._transformer import CausalTransformer
from jaxgen.models.conditionals._symbols import Categorical
from jaxgen.samplers import _ancestral as ancestral
from jaxgen.training._step import build_step, init_state

CLASSES = CausalTransformer(5, 3, 8, 2, 2, block_size=2, conditioning=Labels(2))
quantile = jax.jit(ancestral.quantile)
logits_of = jax.jit(lambda model, params, x: model.logits(params, x))


@functools.cache
def random_params(module, scale=0.7):
    return conformance.random_params(module, scale)


def symbols(module, num_rows=7):
    return np.random.default_rng(0).integers(0, module.num_symbols, (num_rows, module.num_dims))


PLACES = {
    "rotary": ({}, set()),
    "learned": ({"positions": "learned"}, {"positions"}),
    "rotary_image": ({"image_shape": (2, 3)}, {"rows", "columns"}),
    "learned_image": ({"image_shape": (2, 3), "positions": "learned"}, {"rows", "columns"}),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_are_told_apart(name):
    """Without places one layer of attention sees a set: the order of what came before is lost."""
    fields, tables = PLACES[name]
    module = CausalTransformer(6, 2, 8, 1, 2, **fields)
    params = random_params(module)
    named = {name for name in params["params"] if name.endswith("_table")}
    assert named == {f"{table}_table" for table in tables | {"symbols"}}
    x = np.array([[0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0]])
    last = np.asarray(logits_of(module, params, x))[:, -1]
    assert np.abs(last[0] - last[1]).max() > 1e-3


def test_classes_are_learned_by_conditioning_inside_the_loss():
    """Every image of class k shows k in all its pixels, which the label alone can tell."""
    module = CausalTransformer(4, 2, 8, 1, 2, conditioning=Labels(2))
    labels = jnp.arange(8) % 2
    x = jnp.repeat(labels[:, None], 4, axis=1)

    def loss_fn(key, params, batch, step):
        return -jnp.mean(module.log_prob(params, batch["x"], context=batch["labels"]))

    optimizer = optax.adam(3e-2)
    step = build_step(loss_fn, optimizer)
    state = init_state(jax.jit(module.init)(jax.random.key(0), x), optimizer)

    @jax.jit
    def train(key, state, batch):
        return jax.lax.scan(lambda s, _: step(key, s, batch), state, length=40)

    state, metrics = train(jax.random.key(1), state, {"x": x, "labels": labels})
    assert metrics.loss[0] > np.log(2)
    assert metrics.loss[-1] < 0.1
    unconditional = -jnp.mean(module.log_prob(state.params, x))
    assert unconditional > 0.3


GROWING = CausalTransformer(7, 3, 8, 2, 2, block_size=3)


@functools.cache
def drawn_from_a_full_cache():
    params = random_params(GROWING)
    u = np.random.default_rng(0).random((5, 7), np.float32)
    return params, u, quantile(GROWING.copy(block_size=None), params, u)


@pytest.mark.parametrize(
    ("block_size", "prompt_length", "expected"),
    [
        (3, 0, [3, 6, 7]),
        (100, 0, [7]),
        (3, 2, [3, 6, 7]),
        (3, 3, [6, 7]),
        (3, 7, []),
    ],
)
def test_a_cache_that_grows_gives_what_a_full_one_gives(
    block_size, prompt_length, expected, monkeypatch
):
    params, u, full = drawn_from_a_full_cache()
    prompt = full.x[:, :prompt_length] if prompt_length else None
    lengths, resize = [], CausalTransformer.resize

    def recorded(model, params, cache, length):
        lengths.append(length)
        return resize(model, params, cache, length)

    monkeypatch.setattr(CausalTransformer, "resize", recorded)
    growing = GROWING.copy(block_size=block_size)
    draws = jax.jit(lambda params, u: ancestral.quantile(growing, params, u, prompt=prompt))(
        params, u
    )
    assert lengths == expected
    chex.assert_trees_all_equal(draws.x, full.x)
    # As near as the contract asks: sums over caches of other sizes round otherwise.
    chex.assert_trees_all_close(draws.log_probs, full.log_probs, atol=1e-5, rtol=1e-7)


def test_resize_keeps_what_fits_and_leaves_the_rest_empty():
    model, x = GROWING, symbols(GROWING)
    params = random_params(GROWING)
    _, cache = jax.jit(model.prefill)(params, x[:, :4])
    for length in (2, 4, 6):
        for ours, whole in zip(
            jax.tree.leaves(model.resize(params, cache, length)[0]),
            jax.tree.leaves(cache[0]),
            strict=True,
        ):
            assert ours.shape == (7, 2, length, 4)
            chex.assert_trees_all_equal(ours, whole[:, :, :length])
            assert not ours[:, :, 4:].any()


def test_a_prompt_leaves_the_cache_that_its_steps_leave():
    params, labels = random_params(CLASSES), np.array([0, 1, 2, 2, 1, 0, 1])
    model, x = CLASSES, symbols(CLASSES)
    _, cache = jax.jit(model.prefill)(params, x[:, :3], context=labels)
    stepped, step = model.init_cache(params, 7, context=labels), jax.jit(model.step)
    for i in range(3):
        _, stepped = step(params, stepped, i, x[:, i - 1])
    chex.assert_trees_all_close(cache, stepped, atol=1e-5)
    expected = CLASSES.logits(params, x, context=labels)
    for i in range(3, 5):
        logits, cache = step(params, cache, i, x[:, i - 1])
        chex.assert_trees_all_close(logits, expected[:, i], atol=1e-5, rtol=1e-7)


def test_dropout_acts_only_when_a_key_is_given(key):
    module = CausalTransformer(5, 3, 8, 2, 2, dropout_rate=0.5)
    params, x = random_params(module), symbols(module)
    plain = logits_of(module, params, x)
    chex.assert_trees_all_equal(plain, logits_of(module.copy(dropout_rate=0.0), params, x))
    dropped = jax.jit(lambda key: module.logits(params, x, dropout_key=key))(key)
    assert np.abs(plain - dropped).max() > 0.1


def test_bfloat16_activations_give_float32_logits_near_those_of_float32():
    module = CausalTransformer(64, 3, 32, 2, 2, dtype=jnp.bfloat16)
    params, x = random_params(module, 0.2), symbols(module)
    logits = logits_of(module, params, x)
    assert logits.dtype == jnp.float32
    expected = logits_of(module.copy(dtype=jnp.float32), params, x)
    chex.assert_trees_all_close(logits, expected, atol=0.05, rtol=1e-7)
    assert np.any(logits != expected)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    cache, _ = module.init_cache(params, 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_dims": 0}, "num_dims must be at least 1, got 0"),
        ({"num_symbols": 1}, "num_symbols must be at least 2, got 1"),
        ({"width": 10}, "width must be a multiple of num_heads=4, got 10"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"positions": "sine"}, "positions must be one of rotary, learned, got 'sine'"),
        ({"image_shape": (2, 2)}, r"image_shape must hold num_dims=6 pixels, got \(2, 2\)"),
        ({"width": 4}, "num_channels must be a multiple of 2"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
        ({"dropout_rate": 1.5}, "dropout_rate must be in"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = CausalTransformer(**{"num_dims": 6, "num_symbols": 2, "width": 8, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))


def test_wrong_data_is_refused():
    params = random_params(GROWING)
    with pytest.raises(TypeError, match="x must hold integers"):
        GROWING.logits(params, np.zeros((2, 7)))
    with pytest.raises(ValueError, match=r"x must have shape \(..., 7\), got \(2, 6\)"):
        GROWING.logits(params, np.zeros((2, 6), int))


def test_a_cache_grows_by_half_so_long_arrays_take_few_programs():
    ends = [end for _, end in ancestral._blocks(CausalTransformer(40, 2, block_size=1), 0)]
    assert ends == [1, 2, 3, 4, 6, 9, 13, 19, 28, 40]
    ranges = ancestral._blocks(CausalTransformer(1184, 2, block_size=32), 100)
    assert ranges[:2] == [(100, 128), (128, 192)]
    assert len(ancestral._blocks(CausalTransformer(10**6, 2), 0)) == 24
