"""The rows of the tables of images that no test can afford to run fit together all the same."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from experiments import autoregressive_images, iwae, shakespeare
from experiments._autoregressive_rows import ROWS
from experiments._density_table import ROWS as DENSITY_ROWS
from experiments._iwae_rows import ROWS as LATENT_ROWS
from experiments._mnist import PRETRAINED, made_up_images
from jaxgen._cli._open import open_bundle
from jaxgen.training._weights import load_weights, read


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.num_orders == 1])
def test_a_row_has_a_gradient(name, key):
    """Traced, not computed: shapes, keys and types fit from the data to the optimizer."""
    row = ROWS[name]
    loss = autoregressive_images.loss_fn(row, None)
    images = jnp.zeros((row.batch_size, row.model.num_dims), jnp.uint8)
    batch = {
        "gray" if row.data == "dynamic" else "x": images,
        "index": jnp.arange(row.batch_size),
    }
    params = jax.eval_shape(lambda: autoregressive_images.initial_params(row, 0))
    value, gradient = jax.eval_shape(
        jax.value_and_grad(lambda p: loss(key, p, batch, jnp.zeros((), jnp.int32))), params
    )
    assert value.shape == ()
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    jax.eval_shape(row.optimizer(10).init, params)


def test_each_member_of_an_ensemble_has_an_order_of_its_own():
    orders = autoregressive_images.member_orders(ROWS["static/made_ensemble"])
    chex.assert_trees_all_equal(np.sort(orders, axis=1), np.tile(np.arange(784), (12, 1)))
    assert len(np.unique(orders, axis=0)) == 12
    chex.assert_trees_all_equal(orders[0], np.arange(784))
    forth_and_back = orders[2].reshape(28, 28)
    chex.assert_trees_all_equal(forth_and_back[:2, 0], np.array([0, 55]))


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize("name", LATENT_ROWS)
def test_a_latent_row_has_a_gradient(name, key):
    row = LATENT_ROWS[name]
    x = jnp.zeros((row.batch_size, 784), jnp.int32)
    params = jax.eval_shape(lambda: row.model.init(jax.random.key(0), x))
    batch = {"gray": x.astype(jnp.uint8), "index": jnp.arange(row.batch_size)}
    loss = iwae.loss_fn(row, num_steps=10)
    gradient = jax.eval_shape(
        jax.grad(lambda p: loss(key, p, batch, jnp.zeros((), jnp.int32))), params
    )
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    assert row.starts_from is None or LATENT_ROWS[row.starts_from].model == row.model


def test_a_deep_row_trains_with_free_bits_and_tells_its_resolutions_apart():
    scales = (jg.models.Scale(14, 2, 2, 1, 1), jg.models.Scale(2, 2, 2, 2, 1))
    model = jg.DeepHierarchicalVAE(784, 2, (28, 28), scales)
    row = dataclasses.replace(LATENT_ROWS["dynamic/deep_vae"], model=model, free_bits=0.5)
    x = jnp.zeros((4, 784), jnp.int32)
    batch = {"gray": x.astype(jnp.uint8), "index": jnp.arange(4)}
    params = jax.jit(model.init)(jax.random.key(0), x)
    loss = jax.jit(iwae.loss_fn(row, num_steps=100))

    def risen(step):
        return float(loss(jax.random.key(1), params, batch, jnp.int32(step)))

    # At the start three groups diverge by nothing and are charged what they may use for free.
    assert risen(99) - risen(0) == pytest.approx(3 * 0.5 * (1 - 1 / 11), rel=1e-3)
    found = iwae.latents_in_use(iwae.Config(), model, params, np.asarray(x))
    assert [name.split("/")[-1] for name in found] == [
        *(f"active_units_{group}" for group in (1, 2, 3)),
        "kl_nats_1x1",
        "kl_nats_2x2",
    ]
    assert [metric.value for metric in found.values()] == [0.0] * 5
    sheets = iwae.of_top_groups(row, params, num_images=2)
    assert [(text, images.shape) for text, images in sheets] == [
        ("top groups: 1", (2, 784)),
        ("top groups: 3", (2, 784)),
    ]


@pytest.mark.usefixtures("distrax_broadcasting")
def test_the_divergence_is_warmed_up_where_a_row_says_so(key):
    row = LATENT_ROWS["iwae/2/smoke"]
    assert [float(row.beta(jnp.int32(step), 100)) for step in (0, 49, 50, 99)] == [
        pytest.approx(1 / 51),
        pytest.approx(50 / 51),
        1.0,
        1.0,
    ]
    assert LATENT_ROWS["iwae/2/k5"].warm_up > 0
    started = {name: row for name, row in LATENT_ROWS.items() if row.starts_from is not None}
    warmed = {name for name, row in started.items() if row.warm_up != 0}
    assert warmed == {"iwae/1/k50"}
    x = jnp.zeros((2, 784), jnp.int32)
    batch = {"gray": x.astype(jnp.uint8), "index": jnp.arange(2)}
    loss = jax.jit(iwae.loss_fn(row, num_steps=100))
    params = jax.jit(row.model.init)(jax.random.key(0), x)
    first, last = (
        float(loss(jax.random.clone(key), params, batch, jnp.int32(step))) for step in (0, 99)
    )
    assert first != last


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize(("hold_out", "num_images"), [(False, 400), (True, 200)])
def test_images_that_are_held_out_are_not_trained_on(hold_out, num_images, tmp_path, monkeypatch):
    seen = []

    def train(run, row, params, splits):
        seen.append(splits)
        raise KeyboardInterrupt

    monkeypatch.setattr(iwae, "train", train)
    config = iwae.Config.smoke()
    with pytest.raises(KeyboardInterrupt):
        iwae.main(dataclasses.replace(config, hold_out=hold_out, run_dir=tmp_path / "run"))
    data, images = made_up_images(), seen[0].train["gray"]
    every = np.concatenate([data.train.x, data.valid.x])
    chex.assert_trees_all_equal(images, every[:num_images])
    chex.assert_trees_all_equal(seen[0].train["index"], np.arange(num_images))


def test_validation_looks_at_the_end_alone_unless_images_are_held_out():
    config, row = iwae.Config(), LATENT_ROWS["vae/1/k1"]
    assert iwae.schedule(config, row, 600) == (600 * row.num_epochs, 600 * row.num_epochs)
    held_out = dataclasses.replace(config, hold_out=True)
    assert iwae.schedule(held_out, row, 500)[1] == 500 * row.num_epochs // 50


def published_model(name):
    """The module behind a file of published weights, and data of a shape that it takes."""
    if name == "shakespeare":
        setting = shakespeare.SETTINGS["cpu"]
        return setting.module(num_symbols=65), jnp.zeros((1, setting.context), jnp.int32)
    if name.startswith("bsds300"):
        row = DENSITY_ROWS[name.replace("_", "/", 1)]
        return row.recipe.model, jnp.zeros((1, 63))
    rows = ROWS | LATENT_ROWS
    model = {row.replace("/", "_"): rows[row].model for row in rows}[name]
    return model, jnp.zeros((1, 3072 if name.startswith("cifar10") else 784), jnp.int32)


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize("file", sorted(PRETRAINED.glob("*.safetensors")), ids=lambda f: f.stem)
def test_published_weights_are_small_and_fit_their_model(file):
    assert file.stat().st_size <= 5e6
    module, x = published_model(file.stem)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    params = load_weights(file, template)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


BUNDLES = {
    "cifar10/gated_pixelcnn": jg.data.Colors((32, 32)),
    "dynamic/gated_pixelcnn": jg.data.GrayLevels((28, 28), 2),
    "dynamic/pixelsnail": jg.data.GrayLevels((28, 28), 2),
    "fashion_mnist/gated_pixelcnn": jg.data.GrayLevels((28, 28)),
    "mnist/gated_pixelcnn": jg.data.GrayLevels((28, 28)),
    "static/pixelsnail": jg.data.GrayLevels((28, 28), 2),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_published_images_open_at_the_command_line(name, tmp_path):
    """Of the halves in which they are stored, they compute in single precision."""
    file, row = PRETRAINED / f"{name.replace('/', '_')}.safetensors", ROWS[name]
    bundle = open_bundle(file, takes_colors=True)
    assert (bundle.model, bundle.vocabulary) == (row.model, BUNDLES[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(bundle.params)} == {np.dtype(np.float32)}
    autoregressive_images.write_weights(tmp_path / "again", row, bundle.params)
    (arrays, *about), (arrays_again, *about_again) = (read(f) for f in (file, tmp_path / "again"))
    assert about == about_again
    assert arrays.keys() == arrays_again.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float16
        chex.assert_trees_all_equal(array, arrays_again[name])


def test_an_ensemble_is_written_as_weights_alone(tmp_path):
    row = ROWS["dynamic/made_smoke"]
    params = {"a": jnp.ones((2, 3))}
    autoregressive_images.write_weights(tmp_path / "weights", row, params)
    found = load_weights(tmp_path / "weights", params)
    chex.assert_trees_all_equal(found["a"], params["a"])
    with pytest.raises(ValueError, match="does not say what model it is of"):
        open_bundle(tmp_path / "weights")
