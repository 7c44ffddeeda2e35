"""The rows of the MNIST table that no test can afford to run fit together all the same."""

import jax
import jax.numpy as jnp
import pytest

from experiments import autoregressive_mnist
from experiments._autoregressive_rows import ROWS


@pytest.mark.parametrize("name", ["dynamic/gated_pixelcnn", "dynamic/gated_pixelcnn_large"])
def test_a_row_has_a_gradient(name, key):
    """Traced, not computed: shapes, keys and types fit from grey levels to the optimizer."""
    row = ROWS[name]
    loss = autoregressive_mnist.loss_fn(row, None)
    batch = {
        "grey": jnp.zeros((row.batch_size, 784), jnp.uint8),
        "index": jnp.arange(row.batch_size),
    }
    params = jax.eval_shape(lambda: autoregressive_mnist.initial_params(row, 0))
    value, gradient = jax.eval_shape(
        jax.value_and_grad(lambda p: loss(key, p, batch, jnp.zeros((), jnp.int32))), params
    )
    assert value.shape == ()
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    megabytes = 2e-6 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert megabytes <= 5, "weights in half precision are kept in the repository"
