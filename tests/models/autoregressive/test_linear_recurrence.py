"""What the linear recurrence promises beyond the contract: its scans, its gradient, its memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.autoregressive import _linear_recurrence as module_under_test
from jaxgen.models.autoregressive._linear_recurrence import LinearRecurrence, linear_recurrence
from jaxgen.models.conditionals._symbols import Categorical

SHAPE = (13, 2, 3)


def decays_and_inputs():
    generator = np.random.default_rng(0)
    return generator.uniform(0.1, 1.0, SHAPE).astype("f4"), generator.normal(size=SHAPE).astype(
        "f4"
    )


def by_loop(a, b):
    h, states = np.zeros(SHAPE[1:]), []
    for a_t, b_t in zip(a.astype("f8"), b.astype("f8"), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return np.stack(states)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scan", [module_under_test._one_by_one, module_under_test._by_doubling])
def test_both_scans_are_the_recurrence(scan, reverse):
    a, b = decays_and_inputs()
    turn = slice(None, None, -1 if reverse else 1)
    expected = by_loop(a[turn], b[turn])[turn]
    chex.assert_trees_all_close(scan(a, b, reverse), expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_that_of_autodiff():
    a, b = decays_and_inputs()
    weights = np.random.default_rng(1).normal(size=SHAPE).astype("f4")

    def gradient(recur):
        return jax.jit(jax.grad(lambda a, b: jnp.sum(weights * recur(a, b)), argnums=(0, 1)))(a, b)

    plain = functools.partial(module_under_test._one_by_one, reverse=False)
    for ours, theirs in zip(gradient(linear_recurrence), gradient(plain), strict=True):
        assert float(jnp.abs(theirs).max()) > 0.1
        chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_layers_memory_lasts_from_one_symbol_to_all():
    module = LinearRecurrence(num_dims=64, num_symbols=2, width=7, num_layers=2)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64), jnp.int32))["params"]
    rate = params["rate"]
    lifetimes = np.exp(-np.asarray(rate))
    np.testing.assert_allclose(lifetimes, [2.0 ** np.arange(7)] * 2, rtol=1e-5)


def test_gates_shut_for_good_leave_gradients_finite(key):
    module = LinearRecurrence(num_dims=4, num_symbols=2, width=3, num_layers=1)
    x = jnp.array([[1, 0, 1, 1]])
    params = jax.jit(module.init)(key, x)
    params["params"]["memory_in_bias"] = jnp.full((1, 12), -200.0)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(module.logits(p, x)[..., 1])))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_cache_is_as_small_for_a_long_chain():
    short, long = (LinearRecurrence(d, 2, width=4, num_layers=3) for d in (8, 800))
    shapes = [jax.tree.map(jnp.shape, module._init_cache(5, None)) for module in (short, long)]
    assert shapes == [((3, 5, 4), None)] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_symbols": 1}, "num_symbols must be at least 2, got 1"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = LinearRecurrence(**{"num_dims": 3, "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))


def test_numpy_parameters_closed_over_do_under_jit():
    model = LinearRecurrence(num_dims=3, num_symbols=2, width=4, num_layers=1)
    x = jnp.ones((2, 3), jnp.int32)
    params = model.init(jax.random.key(0), x)
    held = jax.tree.map(np.asarray, params)
    chex.assert_trees_all_close(
        jax.jit(lambda x: model.logits(held, x))(x), model.logits(params, x), rtol=1e-5
    )

    def step(index):
        return model.step(held, model.init_cache(held, 2), index, x[:, 0])[0]

    assert jnp.all(jnp.isfinite(jax.jit(step)(jnp.int32(1))))
