import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxgen.models.layers._convolutions import Convolution, patched, unpatched


# All images at once; 30 at once; one at a time, as their number is prime.
@pytest.mark.parametrize("batch", [(2,), (3, 100), (101,)])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_a_convolution_padded_by_one_and_so_do_its_gradients(stride, batch, key):
    x_key, init_key, bias_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (*batch, 13, 14, 3))
    ours = Convolution(4, stride=stride)
    params = ours.init(init_key, x)["params"]
    params = {**params, "bias": jax.random.normal(bias_key, (4,))}
    flax = nn.Conv(4, (3, 3), strides=stride, padding=1)

    def outputs_and_gradients(module):
        def loss(params, x):
            outputs = module.apply({"params": params}, x)
            return jnp.sum(jnp.sin(outputs)), outputs

        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        return outputs, gradients

    chex.assert_trees_all_close(
        outputs_and_gradients(ours), outputs_and_gradients(flax), atol=1e-4, rtol=1e-4
    )


def test_no_images_give_no_maps(key):
    x = jnp.zeros((0, 5, 6, 3))
    outputs, _ = Convolution(4).init_with_output(key, x)
    chex.assert_shape(outputs, (0, 5, 6, 4))


def test_patches_hold_what_lies_together():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patched(x, 2)
    chex.assert_shape(patches, (2, 2, 3, 12))
    chex.assert_trees_all_equal(patches[1, 0, 2], x[1, :2, 4:].ravel())
    chex.assert_trees_all_equal(unpatched(patches, 2), x)
