"""What MADE promises beyond the contract: one set of parameters in any order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models._output_bias import set_output_bias
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._orders import reordered


@pytest.mark.parametrize(
    "module", [MADE(4, 3, (9, 5), has_direct_connections=True), MADE(4, 2, (8, 6))]
)
def test_reordered_parameters_visit_the_coordinates_in_that_order(module, key):
    params = module.init(key, jnp.zeros((1, 4), jnp.int32))
    params = jax.tree.map(lambda a: a + 0.1 * jnp.arange(a.size).reshape(a.shape) % 1, params)
    order = jnp.array([2, 0, 3, 1])
    moved = jax.jit(reordered)(params, order)
    x = jnp.array([[1, 0, 1, 1], [0, 1, 1, 0]])
    # The first coordinate visited is coordinate 2, with its own bias and what no input changes.
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, params)
    logits = module.logits(moved, x[:, order])
    for position, coordinate in enumerate(order):
        flipped = x.at[:, coordinate].set(1 - x[:, coordinate])
        change = np.abs(module.logits(moved, flipped[:, order]) - logits).max(axis=(0, 2))
        assert (change[: position + 1] == 0).all()
        assert (change[position + 1 :] > 0).all()


def test_reordering_carries_every_connection_with_its_coordinate(key):
    module = MADE(3, 3, (5,))
    params = module.init(key, jnp.zeros((1, 3), jnp.int32))["params"]
    moved = reordered({"params": params}, jnp.array([2, 0, 1]))["params"]
    chex.assert_trees_all_equal(moved["kernel_0"][:2], params["kernel_0"][4:])
    chex.assert_trees_all_equal(moved["kernel_1"][:, :3], params["kernel_1"][:, 6:])
    chex.assert_trees_all_equal(moved["bias_1"][3:], params["bias_1"][:6])


@pytest.mark.parametrize("num_symbols", [2, 3])
def test_a_model_started_from_marginals_gives_them_where_nothing_else_speaks(num_symbols, key):
    module = MADE(3, num_symbols, (5,))
    params = module.init(key, jnp.zeros((1, 3), jnp.int32))
    silent = jax.tree.map(jnp.zeros_like, params)
    x = np.random.default_rng(0).integers(0, num_symbols, (50, 3))
    x[:, 2] = 0  # a coordinate that is always off, which Laplace's rule leaves a chance
    started = set_output_bias(module, silent, x)
    p = (np.stack([np.bincount(c, minlength=num_symbols) for c in x.T]) + 1) / (50 + num_symbols)
    logits = module.logits(started, jnp.zeros((3,), jnp.int32))
    chex.assert_trees_all_close(jax.nn.softmax(logits), p, rtol=1e-5)
