import chex
import jax
import pytest
from flax import linen as nn

from jaxgen.models.layers.convolutions import Convolution


@pytest.mark.parametrize("stride", [1, 2])
def test_equals_a_convolution_padded_by_one(stride, key):
    x_key, init_key, bias_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (2, 5, 6, 3))
    ours = Convolution(4, stride=stride)
    params = ours.init(init_key, x)["params"]
    params = {**params, "bias": jax.random.normal(bias_key, (4,))}
    flax = nn.Conv(4, (3, 3), strides=stride, padding=1)
    chex.assert_trees_all_close(
        ours.apply({"params": params}, x), flax.apply({"params": params}, x), atol=1e-5
    )
