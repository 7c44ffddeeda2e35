"""Log-likelihoods a few coordinates at a time: the plain numbers, and no array of all outputs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_sizes import array_sizes

import jaxgen as jg
from jaxgen.models._context import Labels
from jaxgen.models.autoregressive import _blocks as blocks
from jaxgen.models.autoregressive._linear_recurrence import LinearRecurrence
from jaxgen.models.autoregressive._pixelcnn import GatedPixelCNN
from jaxgen.models.autoregressive._pixelsnail import PixelSNAIL
from jaxgen.models.autoregressive._transformer import CausalTransformer
from jaxgen.models.conditionals._symbols import Ordinal
from jaxgen.samplers._ancestral import sample

DOUBLE = {"dtype": jnp.float64, "conditioning": Labels(2)}
SPLIT = {
    "transformer": CausalTransformer(7, 5, 8, 2, 2, remat=True, **DOUBLE),
    "recurrence": LinearRecurrence(7, 5, width=4, num_layers=2, **DOUBLE),
    "recurrence_of_levels": LinearRecurrence(7, 5, 4, 1, conditional=Ordinal(5), **DOUBLE),
}


def random_params(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.num_dims), int))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda a: 0.5 * generator.standard_normal(a.shape).astype("f4"), shapes)


def value_and_grad(module, params, x, **options):
    """log p of each row, and the gradient of a sum that weighs them unequally."""

    def weighed(params):
        log_probs = module.log_prob(params, x, **options)
        weights = 1.0 + jnp.arange(log_probs.size).reshape(log_probs.shape)
        return jnp.sum(weights * log_probs), log_probs

    (_, log_probs), gradient = jax.jit(jax.value_and_grad(weighed, has_aux=True))(params)
    return log_probs, gradient


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SPLIT)
def test_log_prob_in_blocks_is_the_plain_one(name, monkeypatch):
    """7 coordinates in blocks of 2, for rows of two axes; −1 and V lose their rows alone."""
    module = SPLIT[name]
    params = jax.tree.map(lambda a: a.astype("f8"), random_params(module))
    x = np.random.default_rng(0).integers(0, 5, (2, 3, 7))
    x[0, 1, 3], x[1, 2, 6] = -1, 5
    labels = np.array([[0, 1, 2], [2, 1, 0]])
    plain = value_and_grad(module, params, x, context=labels)
    monkeypatch.setattr(blocks, "MOST_OUTPUTS", 6 * 2 * 5)
    in_blocks = value_and_grad(module, params, x, context=labels)
    chex.assert_trees_all_equal(np.isnan(in_blocks[0]), np.isnan(plain[0]))
    assert np.isnan(plain[0]).sum() == 2
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), in_blocks, plain)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))


@pytest.mark.parametrize(
    "module",
    [
        CausalTransformer(256, 50_257, 4, 1, 2, remat=True),
        LinearRecurrence(256, 50_257, width=4, num_layers=1),
    ],
)
def test_many_outputs_are_never_held_at_once(module):
    """8 rows of 256 coordinates have 103 million logits; no array of the gradient has 17."""
    x = jax.ShapeDtypeStruct((8, 256), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)

    def loss(log_prob, params, x):
        return jnp.sum(log_prob(params, x))

    def plain(params, x):
        return module.conditional_or_default.log_prob(module.outputs(params, x), x)

    def largest(log_prob):
        gradient = jax.grad(functools.partial(loss, log_prob))
        return max(array_sizes(jax.make_jaxpr(gradient)(params, x).jaxpr))

    assert largest(module.log_prob) <= blocks.MOST_OUTPUTS
    assert largest(plain) >= 8 * 256 * 50_257
    drawn = jax.make_jaxpr(lambda params, x: sample(jax.random.key(0), module, params, prompt=x))
    prompt = jax.ShapeDtypeStruct((8, 255), jnp.int32)
    assert max(array_sizes(drawn(params, prompt).jaxpr)) <= blocks.MOST_OUTPUTS


@pytest.mark.parametrize(
    ("num_rows", "num_dims", "num_outputs", "expected"),
    [(1, 8, 2**21, 8), (1, 9, 2**21, 8), (3, 9, 2**23, 1), (0, 5, 7, 5), (2**25, 3, 1, 1)],
)
def test_blocks_hold_what_they_may_or_one_coordinate(num_rows, num_dims, num_outputs, expected):
    assert blocks.block_length(num_rows, num_dims, num_outputs) == expected


DEEP = {
    "transformer": CausalTransformer(6, 3, 8, 3, 2, dropout_rate=0.2),
    "recurrence": LinearRecurrence(6, 3, width=6, num_layers=3, remat=False),
    "pixelcnn": GatedPixelCNN((2, 3), 3, width=4, num_layers=4, conditioning=Labels(2)),
    "pixelsnail": PixelSNAIL((2, 3), 3, 4, 2, 1, num_heads=1, dropout_rate=0.2),
    "pixelcnn_of_two_layers": GatedPixelCNN((2, 3), 3, width=4, num_layers=2),
}


@pytest.mark.parametrize("name", DEEP)
def test_rematerialisation_changes_no_number(name):
    module = DEEP[name]
    params, x = random_params(module), np.random.default_rng(0).integers(0, 3, (4, 6))
    rematerialised = module.copy(remat=True)
    shapes = jax.eval_shape(rematerialised.init, jax.random.key(0), x)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(near, value_and_grad(rematerialised, params, x), value_and_grad(module, params, x))


def test_rematerialised_layers_drop_units_of_their_own(key):
    """With what a layer adds dropped by halves, equal masks in all layers would be told apart."""
    module = CausalTransformer(6, 3, 8, 3, 2, dropout_rate=0.5, remat=True)
    params, x = random_params(module), np.zeros((1, 6), np.int32)
    log_prob = jax.jit(lambda key: module.log_prob(params, x, dropout_key=key))
    draws = {float(log_prob(jax.random.fold_in(key, i))[0]) for i in range(4)}
    assert len(draws) == 4


@pytest.mark.parametrize("name", ["recurrence", "pixelcnn"])
def test_bfloat16_activations_give_float32_log_probabilities_near_those_of_float32(name):
    module = DEEP[name].copy(dtype=jnp.bfloat16)
    params, x = random_params(module), np.random.default_rng(0).integers(0, 3, (16, 6))
    outputs = jax.jit(lambda module: module.outputs(params, x), static_argnums=0)
    ours, theirs = outputs(module), outputs(DEEP[name])
    assert ours.dtype == jnp.float32
    assert jax.eval_shape(module.log_prob, params, x).dtype == jnp.float32
    chex.assert_trees_all_close(ours, theirs, atol=0.1, rtol=1e-7)
    assert np.any(ours != theirs)
    step = jax.jit(module.step)
    cache, previous = jax.jit(module.init_cache, static_argnums=1)(params, 16), x[:, 0]
    for i in range(6):
        stepped, cache = step(params, cache, i, previous)
        chex.assert_trees_all_close(stepped, ours[:, i], atol=0.1, rtol=1e-7)
        previous = x[:, i]
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["transformer", "recurrence"])
def test_a_prompt_is_scored_in_blocks_as_at_once(name, monkeypatch):
    """One of its symbols is none: what it makes unknown is the same too."""
    module = DEEP[name]
    params, x = random_params(module), np.random.default_rng(0).integers(0, 3, (4, 6))
    x[1, 2] = 3

    def drawn(key):
        halved = functools.partial(jnp.multiply, 0.5)
        return sample(key, module, params, prompt=x[:, :5], transform_fn=halved)

    at_once = jax.jit(drawn)(jax.random.key(0))
    monkeypatch.setattr(blocks, "MOST_OUTPUTS", 4 * 2 * 3)
    in_blocks = jax.jit(lambda key: drawn(key))(jax.random.key(0))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), in_blocks, at_once)
    assert np.isnan(at_once.log_probs).sum() == 4
    assert np.any(at_once.log_probs[0] != at_once.transformed_log_probs[0])


READ = {
    "rotary": CausalTransformer(11, 3, 8, 2, 2, **DOUBLE),
    "learned": CausalTransformer(11, 3, 8, 2, 2, positions="learned", **DOUBLE),
    "image": CausalTransformer(12, 3, 8, 1, 2, image_shape=(3, 4), **DOUBLE),
    "recurrence": LinearRecurrence(11, 3, width=8, num_layers=2, **DOUBLE),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "most"),
    [("rotary", 128), ("rotary", 576), ("learned", 64), ("image", 96), ("recurrence", 576)],
)
def test_a_prompt_read_in_blocks_is_the_plain_pass_and_the_steps_behind_it(name, most, monkeypatch):
    """9 of its coordinates, 2 to 4 or all at a time, of 7 rows 1 or 2: no block divides them."""
    module = READ[name]
    params = jax.tree.map(lambda a: a.astype("f8"), random_params(module))
    generator = np.random.default_rng(0)
    x, labels = generator.integers(0, 3, (7, module.num_dims)), generator.integers(0, 3, 7)
    x[3, 4] = -1
    expected = jax.jit(module.outputs)(params, x, context=labels)
    _, plain = jax.jit(module.prefill)(params, x[:, :9], context=labels)
    monkeypatch.setattr(blocks, "MOST_OUTPUTS", most)
    outputs, cache = jax.jit(lambda: module.prefill(params, x[:, :9], context=labels))()
    near = functools.partial(np.testing.assert_allclose, atol=1e-12)
    near(outputs, expected[:, :9])
    jax.tree.map(near, cache, plain)
    for i in (9, 10):
        outputs, cache = jax.jit(module.step)(params, cache, i, x[:, i - 1])
        near(outputs, expected[:, i])


def long_prompt(module):
    """Scoring of 64 prompts of 8,000 tokens, and the shapes of parameters and prompts."""

    def read(params, x):
        return module.prefill(params, x, score_fn=module.conditional_or_default.log_prob)

    whole = jax.ShapeDtypeStruct((1, module.num_dims), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), whole)
    return read, params, jax.ShapeDtypeStruct((64, 8000), jnp.int32)


@pytest.mark.parametrize("kind", [CausalTransformer, LinearRecurrence])
def test_a_long_prompt_holds_nothing_larger_than_the_stream(kind):
    """64 prompts of 8,000 tokens, of which an MLP would have four times the stream, heads more."""
    module = kind(8001, 50_257, 768, 2)
    read, *shapes = long_prompt(module)
    assert max(array_sizes(jax.make_jaxpr(read)(*shapes).jaxpr)) <= 64 * 8001 * 768


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("kind", [CausalTransformer, LinearRecurrence])
def test_a_long_prompt_needs_the_stream_a_few_times_beside_its_cache(kind):
    """To score it; inside of a layer one pass would need it many times."""
    module = kind(8001, 50, 128, 2)
    read, *shapes = long_prompt(module)
    memory = jax.jit(read).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3 * (4 * 64 * 8000 * 128)


@pytest.mark.parametrize(("num_rows", "most"), [(7, 3), (6, 3), (2, 3), (1, 1), (0, 2)])
def test_rows_a_few_at_a_time_give_what_all_give(num_rows, most):
    def fn(params, x, y):
        assert len(x) <= most
        return {"sum": params + x + y[:, None], "sign": y < 0}

    x, y = jnp.arange(2.0 * num_rows).reshape(num_rows, 2), jnp.arange(num_rows) - 3.0
    found = jax.jit(lambda x, y: blocks.map_rows(fn, jnp.ones((1, 2)), (x, y), most))(x, y)
    chex.assert_trees_all_equal(found["sum"], 1 + x + y[:, None])
    chex.assert_trees_all_equal(found["sign"], y < 0)


class FromTable(jg.AutoregressiveModel):
    """What follows a symbol, from a table; it reads by steps alone."""

    num_dims, num_symbols = 6, 100

    def init_cache(self, params, batch_size, *, context=None):
        return ()

    def step(self, params, cache, index, previous):
        return params[previous], cache


def test_a_prompt_read_by_steps_is_scored_as_it_is_read():
    """The outputs at all of its coordinates are never held."""
    model, x = FromTable(), np.random.default_rng(0).integers(0, 100, (40, 6))
    params = jnp.asarray(np.random.default_rng(1).standard_normal((100, 100), "f4"))

    def read(params, x):
        return model.prefill(params, x, score_fn=model.conditional_or_default.log_prob)[0]

    outputs, _ = model.prefill(params, x)
    expected = model.conditional_or_default.log_prob(outputs, jnp.asarray(x))
    chex.assert_trees_all_close(jax.jit(read)(params, x), expected, atol=1e-5, rtol=1e-7)
    assert max(array_sizes(jax.make_jaxpr(read)(params, x).jaxpr)) < 40 * 6 * 100


@pytest.mark.usefixtures("optimized")
def test_rematerialised_layers_keep_their_inputs_alone():
    """Outside of a loop XLA would merge what is computed twice, and keep it after all."""
    module = CausalTransformer(16, 2, 32, 4, 2)
    x = jax.ShapeDtypeStruct((64, 16), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)

    def num_bytes(module):
        gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(module.log_prob(params, x))))
        return gradient.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert num_bytes(module.copy(remat=True)) < num_bytes(module) / 2


def test_a_subclass_that_changes_the_outputs_alone_is_taken_at_its_word(monkeypatch):
    class Flat(LinearRecurrence):
        def _outputs(self, x, context):
            return jnp.zeros((*x.shape, self.num_symbols))

    monkeypatch.setattr(blocks, "MOST_OUTPUTS", 1)
    module = Flat(6, 3, width=6, num_layers=3)
    log_prob = module.log_prob(random_params(module), np.zeros((2, 6), np.int32))
    chex.assert_trees_all_close(log_prob, np.full(2, -6 * np.log(3)), rtol=1e-6)
