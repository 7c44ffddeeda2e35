import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxgen.models.layers.linear import Dense, matmul

SHAPES = [(3,), (5, 3), (2, 5, 3), (2, 4, 5, 3), (0, 5, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_is_that_of_flax(shape, use_bias, key):
    x_key, init_key, out_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, shape)
    ours, theirs = Dense(7, use_bias=use_bias), nn.Dense(7, use_bias=use_bias)
    params = ours.init(init_key, x)
    chex.assert_trees_all_equal(params, theirs.init(jax.random.clone(init_key), x))
    out = jax.random.normal(out_key, (*shape[:-1], 7))

    def gradient(module):
        return jax.grad(lambda p, x: jnp.sum(out * module.apply(p, x)), argnums=(0, 1))(params, x)

    chex.assert_trees_all_close(ours.apply(params, x), theirs.apply(params, x), rtol=1e-5)
    chex.assert_trees_all_close(gradient(ours), gradient(theirs), rtol=1e-5, atol=1e-5)


def test_dense_computes_in_the_type_it_is_given(key):
    x = jnp.ones((2, 5, 3))
    params = Dense(7, dtype=jnp.bfloat16).init(key, x)
    assert Dense(7, dtype=jnp.bfloat16).apply(params, x).dtype == jnp.bfloat16
    assert params["params"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("outputs", [(7,), (7, 2)])
def test_matmul_is_the_product_over_one_axis(shape, outputs, key):
    keys = jax.random.split(key)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (3, *outputs))
    chex.assert_trees_all_close(matmul(x, kernel), jnp.tensordot(x, kernel, 1), rtol=1e-5)


@pytest.mark.parametrize("layer", ["dense", "matmul"])
def test_the_gradient_sums_over_a_single_axis(layer):
    x, kernel = jnp.ones((2, 5, 3)), jnp.ones((3, 7))

    def product(kernel):
        if layer == "matmul":
            return jnp.sum(matmul(x, kernel))
        return jnp.sum(Dense(7, use_bias=False).apply({"params": {"kernel": kernel}}, x))

    jaxpr = jax.make_jaxpr(jax.grad(product))(kernel)
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert products
    assert all(len(e.params["dimension_numbers"][0][0]) == 1 for e in products)
