"""What devices compute and send in a training step, counted in the compiled program."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from experiments import _collectives as collectives
from experiments import _step_program as program
from jaxgen.models.autoregressive import _blocks as blocks
from jaxgen.training._layout import Layout

MODEL = jg.CausalTransformer(64, 64, 16, 2, 2, remat=True)
X = np.random.default_rng(0).integers(0, 64, (16, 64))


def loss_fn(key, params, batch, step):
    return -jnp.mean(jg.log_prob(MODEL, params, batch))


def mesh_of(num_devices):
    return jax.make_mesh((num_devices,), ("data",), devices=jax.devices()[:num_devices])


@pytest.fixture
def in_blocks(monkeypatch):
    """Four coordinates at a time, on one device as on each of eight."""
    monkeypatch.setattr(blocks, "MOST_OUTPUTS", 2 * 4 * 64)


@functools.cache
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), X[:1])


@functools.cache
def work(num_devices, param_sharding):
    """Two examples a device."""
    mesh = mesh_of(num_devices) if num_devices > 1 else None
    compiled = program.compiled(loss_fn, params(), (2 * num_devices, 64), mesh, param_sharding)
    return collectives.work(compiled.as_text())


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("param_sharding", ["replicated", "fully_sharded"])
def test_devices_send_parameters_and_gradients_and_share_the_products(param_sharding):
    one, eight = work(1, "replicated"), work(8, param_sharding)
    assert one.sent.total() == 0 < one.flops
    chex.assert_trees_all_close(eight.flops, one.flops, rtol=0.01)
    around = 7 / 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(params()))
    gathered = around if param_sharding == "fully_sharded" else 0
    chex.assert_trees_all_close(eight.sent["all-gather"], gathered, rtol=0.05)
    rest = eight.sent.total() - eight.sent["all-gather"]
    chex.assert_trees_all_close(rest, 2 * around, rtol=0.05)


@pytest.mark.usefixtures("in_blocks")
def test_a_large_model_has_the_numbers_of_one_device():
    """Its loops over heads and over blocks of coordinates go on each device over its own."""
    weights = params()

    def run(mesh):
        layout = Layout(mesh, "fully_sharded")
        spread = layout.spread(loss_fn)
        placed = layout.put(weights, layout.of_params(weights)), layout.put_examples(X)
        with layout.calling():
            return jax.jit(jax.value_and_grad(lambda p, x: spread(None, p, x, 0)))(*placed)

    chex.assert_trees_all_close(run(mesh_of(8)), run(None), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("in_blocks")
def test_evaluation_of_a_large_model_is_spread():
    weights = params()

    @jax.jit
    def fn(x):
        return jg.log_prob(MODEL, weights, x)

    found = jg.training.evaluate(fn, X, batch_size=16, mesh=mesh_of(8))
    chex.assert_trees_all_close(found, fn(X), rtol=1e-5)


@pytest.mark.usefixtures("distrax_broadcasting")
def test_importance_bounds_and_draws_are_spread_and_those_of_one_device():
    vae, chain = jg.VAE(6, 2, 2, (5,)), jg.MADE(6, 2, (5,))
    x = np.random.default_rng(0).integers(0, 2, (24, 6))
    weights = [jax.jit(model.init)(jax.random.key(1), x[:1]) for model in (vae, chain)]

    @jax.jit
    def fn(key, x):
        keys = jax.random.split(key)
        bound = jg.objectives.importance_log_prob(keys[0], vae, weights[0], x, num_samples=50)
        drawn = jg.sample(keys[1], chain, weights[1], prompt=x[:, :2])
        return bound.value, drawn.x

    def evaluate(mesh):
        return jg.training.evaluate(fn, x, batch_size=16, key=jax.random.key(0), mesh=mesh)

    (ours, draws), (expected, same) = evaluate(mesh_of(8)), evaluate(None)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5)
    chex.assert_trees_all_equal(draws, same)
