"""What the causal transformer promises beyond the contract: places, classes, caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.models import contracts
from jaxgen.models.autoregressive.transformer import CausalTransformer
from jaxgen.models.layers import heads
from jaxgen.objectives.likelihood import chain_log_prob
from jaxgen.samplers import ancestral
from jaxgen.training.state import init_state
from jaxgen.training.step import build_step

CLASSES = CausalTransformer(5, 3, 8, 2, 2, num_classes=2, block_size=2)
quantile = jax.jit(ancestral.quantile, static_argnums=1)
apply = jax.jit(lambda module, params, x: module.apply(params, x), static_argnums=0)


@functools.cache
def random_params(module, scale=0.7):
    """Parameters with every one away from zero."""
    x = jnp.zeros((1, module.num_dims), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: scale * generator.standard_normal(leaf.shape, "f4"), shapes)


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
    last = np.asarray(apply(module, params, x))[:, -1]
    assert np.abs(last[0] - last[1]).max() > 1e-3


def test_a_label_changes_every_conditional_and_none_is_a_row_of_its_own():
    params, x = random_params(CLASSES), symbols(CLASSES)
    logits = [apply(CLASSES, contracts.conditioned(params, label), x) for label in range(3)]
    np.testing.assert_array_equal(logits[2], apply(CLASSES, params, x))
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        change = np.abs(logits[one] - logits[other]).max(axis=-1)
        assert change.min() > 1e-3


def test_rows_may_have_labels_of_their_own():
    params, x = random_params(CLASSES), symbols(CLASSES)
    labels = np.array([0, 1, 2, 1, 0, 2, 2])
    together = apply(CLASSES, contracts.conditioned(params, labels), x)
    alone = [apply(CLASSES, contracts.conditioned(params, label), x) for label in range(3)]
    expected = np.stack(alone)[labels, np.arange(7)]
    np.testing.assert_allclose(together, expected, atol=1e-5)
    u = np.random.default_rng(2).random((7, 5), np.float32)
    model = contracts.autoregressive(CLASSES)
    drawn = quantile(contracts.conditioned(params, labels), model, u)
    again = quantile(contracts.conditioned(params, labels[::-1]), model, u[::-1])
    np.testing.assert_array_equal(drawn.x, again.x[::-1])
    np.testing.assert_allclose(
        drawn.log_probs.sum(1),
        chain_log_prob(apply(CLASSES, contracts.conditioned(params, labels), drawn.x), drawn.x),
        atol=1e-5,
    )


@pytest.mark.parametrize("label", [-1, 3])
def test_a_wrong_label_shows(label):
    labels = np.array([0, label])
    params = contracts.conditioned(random_params(CLASSES), labels)
    logits = np.asarray(apply(CLASSES, params, symbols(CLASSES, 2)))
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


def test_labels_of_another_kind_or_number_are_refused():
    params, x = random_params(CLASSES), symbols(CLASSES)
    with pytest.raises(TypeError, match="labels must hold integers"):
        jax.eval_shape(CLASSES.apply, contracts.conditioned(params, np.ones(7)), x)
    with pytest.raises(ValueError, match=r"labels must have shape \(7,\), got \(6,\)"):
        jax.eval_shape(CLASSES.apply, contracts.conditioned(params, np.ones(6, int)), x)


def test_classes_are_learned_by_conditioning_inside_the_loss():
    """Every image of class k shows k in all its pixels, which the label alone can tell."""
    module = CausalTransformer(4, 2, 8, 1, 2, num_classes=2)
    labels = jnp.arange(8) % 2
    x = jnp.repeat(labels[:, None], 4, axis=1)

    def loss_fn(key, params, batch, step):
        given_class = contracts.conditioned(params, batch["labels"])
        return -jnp.mean(chain_log_prob(module.apply(given_class, batch["x"]), batch["x"]))

    optimizer = optax.adam(3e-2)
    step = build_step(loss_fn, optimizer)
    state = init_state(jax.jit(module.init)(jax.random.key(0), x), optimizer)

    @jax.jit
    def train(key, state, batch):
        return jax.lax.scan(lambda s, _: step(key, s, batch), state, length=40)

    state, metrics = train(jax.random.key(1), state, {"x": x, "labels": labels})
    assert metrics.loss[0] > np.log(2)
    assert metrics.loss[-1] < 0.1
    unconditional = -jnp.mean(chain_log_prob(apply(module, state.params, x), x))
    assert unconditional > 0.3


GROWING = CausalTransformer(7, 3, 8, 2, 2, block_size=3)


def recorded(model):
    """The model, and the list that the lengths of its caches are added to."""
    lengths = []

    def resize(params, cache, length):
        lengths.append(length)
        return model.resize(params, cache, length)

    return model._replace(resize=resize), lengths


@functools.cache
def drawn_from_a_full_cache():
    params, model = random_params(GROWING), contracts.autoregressive(GROWING)
    u = np.random.default_rng(0).random((5, 7), np.float32)
    return params, model, u, quantile(params, model._replace(resize=None), u)


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
def test_a_cache_that_grows_gives_what_a_full_one_gives(block_size, prompt_length, expected):
    params, model, u, full = drawn_from_a_full_cache()
    prompt = full.x[:, :prompt_length] if prompt_length else None
    growing, lengths = recorded(model._replace(block_size=block_size))
    draws = quantile(params, growing, u, prompt=prompt)
    assert lengths == expected
    np.testing.assert_array_equal(draws.x, full.x)
    # As near as the contract asks: sums over caches of other sizes round otherwise.
    np.testing.assert_allclose(draws.log_probs, full.log_probs, atol=1e-5)


def test_resize_keeps_what_fits_and_leaves_the_rest_empty():
    model, x = contracts.autoregressive(GROWING), symbols(GROWING)
    params = random_params(GROWING)
    _, cache = jax.jit(model.prefill)(params, x[:, :4])
    for length in (2, 4, 6):
        for ours, whole in zip(
            jax.tree.leaves(model.resize(params, cache, length)),
            jax.tree.leaves(cache),
            strict=True,
        ):
            assert ours.shape == (7, 2, length, 4)
            np.testing.assert_array_equal(ours, whole[:, :, :length])
            assert not ours[:, :, 4:].any()


def test_a_prompt_leaves_the_cache_that_its_steps_leave():
    params = contracts.conditioned(random_params(CLASSES), np.array([0, 1, 2, 2, 1, 0, 1]))
    model, x = contracts.autoregressive(CLASSES), symbols(CLASSES)
    _, cache = jax.jit(model.prefill)(params, x[:, :3])
    stepped, step = model.init_cache(params, 7), jax.jit(model.step)
    for i in range(3):
        _, stepped = step(params, stepped, i, x[:, i - 1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), cache, stepped)
    expected = apply(CLASSES, params, x)
    for i in range(3, 5):
        logits, cache = step(params, cache, i, x[:, i - 1])
        np.testing.assert_allclose(logits, expected[:, i], atol=1e-5)


def test_dropout_acts_only_when_a_key_is_given(key):
    module = CausalTransformer(5, 3, 8, 2, 2, dropout_rate=0.5)
    params, x = random_params(module), symbols(module)
    plain = apply(module, params, x)
    np.testing.assert_array_equal(plain, apply(module.copy(dropout_rate=0.0), params, x))
    dropped = jax.jit(lambda key: module.apply(params, x, rngs={"dropout": key}))(key)
    assert np.abs(plain - dropped).max() > 0.1


def test_bfloat16_activations_give_float32_logits_near_those_of_float32():
    module = CausalTransformer(64, 3, 32, 2, 2, dtype=jnp.bfloat16)
    params, x = random_params(module, 0.2), symbols(module)
    logits = apply(module, params, x)
    assert logits.dtype == jnp.float32
    expected = apply(module.copy(dtype=jnp.float32), params, x)
    np.testing.assert_allclose(logits, expected, atol=0.05)
    assert np.any(logits != expected)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    cache = module.apply(params, 2, method="init_cache")
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
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"positions": "sine"}, "positions must be one of rotary, learned, got 'sine'"),
        ({"image_shape": (2, 2)}, r"image_shape must hold num_dims=6 pixels, got \(2, 2\)"),
        ({"width": 4}, "num_channels must be a multiple of 2"),
        ({"head": heads.Categorical(3)}, "head must be for num_symbols=2"),
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
        GROWING.apply(params, np.zeros((2, 7)))
    with pytest.raises(ValueError, match=r"x must have shape \(2, 7\), got \(2, 6\)"):
        GROWING.apply(params, np.zeros((2, 6), int))
