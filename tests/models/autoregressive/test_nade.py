"""What NADE promises beyond the contract: its own way back, dropout, any order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._likelihood_terms import categorical_log_prob
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._nade import NADE
from jaxgen.models.autoregressive._orders import reordered
from jaxgen.models.conditionals._symbols import Categorical, ordered

MODULE = NADE(num_dims=5, num_symbols=3, hidden_size=7, dropout_rate=0.5)
X = np.random.default_rng(0).integers(0, 3, (6, 5)).astype(np.int32)


@functools.cache
def params():
    plain = jax.jit(MODULE.init)(jax.random.key(0), X)
    return jax.tree.map(lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), plain)


@pytest.mark.parametrize(("dtype", "atol"), [(None, 1e-6), (jnp.bfloat16, 2e-3)])
def test_gradient_is_that_of_the_steps(dtype, atol):
    # Steps are differentiated by JAX, the teacher-forced pass by its own rule.
    module = MODULE.copy(dtype=dtype)

    def gradient(logits_fn):
        mean = jax.jit(jax.grad(lambda p: jnp.mean(categorical_log_prob(logits_fn(p), X).sum(-1))))
        return jax.tree.leaves_with_path(mean(params()))

    read_logits = module.conditional_or_default.logits
    stepped = gradient(lambda p: read_logits(module.prefill(p, X)[0]))
    for (path, ours), (_, theirs) in zip(
        gradient(lambda p: module.logits(p, X)), stepped, strict=True
    ):
        assert float(jnp.abs(theirs).max()) > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=atol, err_msg=str(path))


def test_dropout_is_that_of_a_network_without_the_dropped_units(key):
    dropped = MODULE.logits(params(), X, dropout_key=key)
    again = MODULE.logits(params(), X, dropout_key=key)
    chex.assert_trees_all_equal(dropped, again)
    assert not np.allclose(dropped, MODULE.logits(params(), X))
    # Without a hidden layer's outputs only the bias stays: at a rate near one, that is the case.
    bare = NADE(5, 3, 7, dropout_rate=1 - 1e-7).logits(params(), X, dropout_key=key)
    bias = ordered(3).logits(params()["params"]["bias_1"].reshape(5, 3))
    chex.assert_trees_all_close(bare, np.broadcast_to(bias, bare.shape), atol=1e-6, rtol=1e-7)


def test_gradient_through_dropout_is_finite_and_leaves_dropped_units_alone(key):
    x = X[:1]  # one data point drops the same units for all its coordinates

    def loss(p):
        return jnp.sum(MODULE.log_prob(p, x, dropout_key=key))

    gradient = jax.jit(jax.grad(loss))(params())["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    is_idle = (gradient["kernel_1"] == 0).all(axis=1)
    assert 0 < is_idle.sum() < 7
    assert (np.asarray(gradient["bias_0"])[is_idle] == 0).all()


def test_parameters_are_those_of_a_one_layer_made_and_reorder_alike(key):
    shapes = jax.tree.map(jnp.shape, MADE(5, 3, (7,)).init(key, X))
    assert jax.tree.map(jnp.shape, params()) == shapes
    order = jnp.array([2, 0, 4, 1, 3])
    moved = reordered(params(), order)
    logits_fn = jax.jit(MODULE.logits)
    logits = logits_fn(moved, X[:, order])
    for position, coordinate in enumerate(order):
        flipped = jnp.asarray(X).at[:, coordinate].add(1) % 3
        change = np.abs(logits_fn(moved, flipped[:, order]) - logits).max(axis=(0, 2))
        assert (change[: position + 1] == 0).all()
        assert (change[position + 1 :] > 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0.0, 1.0\), got 1.0"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = NADE(**{"num_dims": 3, "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
