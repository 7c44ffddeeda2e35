"""The rows of the MNIST tables that no test can afford to run fit together all the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import autoregressive_mnist, iwae, shakespeare
from experiments._autoregressive_rows import ROWS
from experiments._iwae_rows import ROWS as LATENT_ROWS
from experiments._mnist import PRETRAINED, dynamic_splits
from jaxgen.training import weights


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.num_orders == 1])
def test_a_row_has_a_gradient(name, key):
    """Traced, not computed: shapes, keys and types fit from the data to the optimizer."""
    row = ROWS[name]
    loss = autoregressive_mnist.loss_fn(row, None)
    images = jnp.zeros((row.batch_size, 784), jnp.uint8)
    batch = {
        "x" if row.data == "static" else "grey": images,
        "index": jnp.arange(row.batch_size),
    }
    params = jax.eval_shape(lambda: autoregressive_mnist.initial_params(row, 0))
    value, gradient = jax.eval_shape(
        jax.value_and_grad(lambda p: loss(key, p, batch, jnp.zeros((), jnp.int32))), params
    )
    assert value.shape == ()
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    jax.eval_shape(row.optimizer(10).init, params)


def test_each_member_of_an_ensemble_has_an_order_of_its_own():
    orders = autoregressive_mnist.member_orders(ROWS["static/made_ensemble"])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(784), (12, 1)))
    assert len(np.unique(orders, axis=0)) == 12
    np.testing.assert_array_equal(orders[0], np.arange(784))
    forth_and_back = orders[2].reshape(28, 28)
    np.testing.assert_array_equal(forth_and_back[:2, 0], [0, 55])


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize("name", LATENT_ROWS)
def test_a_latent_row_has_a_gradient(name, key):
    row = LATENT_ROWS[name]
    x = jnp.zeros((row.batch_size, 784), jnp.int32)
    params = jax.eval_shape(lambda: row.module.init(jax.random.key(0), x))
    batch = {"grey": x.astype(jnp.uint8), "index": jnp.arange(row.batch_size)}
    loss = iwae.loss_fn(row)
    gradient = jax.eval_shape(
        jax.grad(lambda p: loss(key, p, batch, jnp.zeros((), jnp.int32))), params
    )
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    assert row.starts_from is None or LATENT_ROWS[row.starts_from].module == row.module


def test_all_images_are_trained_on_and_the_last_parameters_kept_unless_some_are_held_out():
    some, every = (dynamic_splits(True, trains_on_valid=flag).train["grey"] for flag in (0, 1))
    assert len(every) == 2 * len(some)
    np.testing.assert_array_equal(every[: len(some)], some)
    config, row = iwae.Config(), LATENT_ROWS["vae/1/k1"]
    schedule = iwae.schedule_of(config, row, 600)
    assert schedule.validate_every == schedule.num_steps == 600 * row.num_epochs
    held_out = dataclasses.replace(config, hold_out=True)
    assert iwae.schedule_of(held_out, row, 500).validate_every == 500 * row.num_epochs // 50


def published_model(name):
    """The module and size of x behind a file of published weights."""
    if name == "shakespeare":
        setting = shakespeare.SETTINGS["cpu"]
        return setting.module(num_symbols=65), setting.context
    rows = ROWS | LATENT_ROWS
    return {row.replace("/", "_"): rows[row].module for row in rows}[name], 784


@pytest.mark.parametrize("file", sorted(PRETRAINED.glob("*.safetensors")), ids=lambda f: f.stem)
def test_published_weights_are_small_and_fit_their_model(file):
    assert file.stat().st_size <= 5e6
    module, num_dims = published_model(file.stem)
    x = jnp.zeros((1, num_dims), jnp.int32)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    params = weights.load(file, template)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
