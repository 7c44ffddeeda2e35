import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models.layers._linear import Dense, matmul

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
@pytest.mark.parametrize("has_bias", [True, False])
def test_matmul_is_the_product_over_one_axis(shape, outputs, has_bias, key):
    keys = jax.random.split(key, 3)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (3, *outputs))
    bias = jax.random.normal(keys[2], outputs) if has_bias else None
    expected = np.tensordot(x, kernel, 1) + (np.asarray(bias) if has_bias else 0.0)
    chex.assert_trees_all_close(matmul(x, kernel, bias), expected, rtol=1e-5, atol=1e-6)


def test_forward_and_reverse_derivatives_agree(key):
    x = jax.random.normal(key, (2, 5, 3))
    params = Dense(7).init(jax.random.clone(key), x)

    def out(params):
        return jnp.tanh(Dense(7).apply(params, x))

    chex.assert_trees_all_close(jax.jacfwd(out)(params), jax.jacrev(out)(params), atol=1e-6)


@pytest.mark.parametrize("layer", ["dense", "matmul"])
def test_gradients_are_products_over_a_single_axis(layer):
    x, params = jnp.ones((2, 5, 3)), {"kernel": jnp.ones((3, 7)), "bias": jnp.ones(7)}

    def total(params):
        if layer == "matmul":
            return jnp.sum(matmul(x, **params) ** 2)
        return jnp.sum(Dense(7).apply({"params": params}, x) ** 2)

    equations = jax.make_jaxpr(jax.grad(total))(params).jaxpr.eqns
    products = [e for e in equations if e.primitive.name == "dot_general"]
    assert len(products) == 4  # the value's and the gradient's, of weights and of bias
    assert all(len(e.params["dimension_numbers"][0][0]) == 1 for e in products)
