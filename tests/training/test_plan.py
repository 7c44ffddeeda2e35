import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen as jg

PARAMS = {"w": np.zeros((64, 128), np.float32), "b": np.zeros(128, np.float32)}


def loss_fn(key, params, batch, step):
    return jnp.mean((batch @ params["w"] + params["b"][None]) ** 2)


def plan(source, **kwargs):
    arguments = jax.random.key(0), PARAMS, loss_fn, source, optax.adam(0.1)
    return jg.training.plan(*arguments, num_steps=1000, batch_size=16, **kwargs)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_plan_counts_parameters_memory_and_operations(is_stream):
    data = np.ones((32, 64), np.float32)
    found = plan(jg.data.Subset(data, np.arange(32)) if is_stream else data)
    assert found.num_params == 64 * 128 + 128
    # Parameters and two moments of Adam, at least, and not many more copies than that; 50 batches
    # are read ahead.
    batches = 50 * 16 * 64 * 4 if is_stream else data.nbytes
    assert 3 < (found.device_bytes - batches) / (4 * found.num_params) < 9
    products = 2 * 16 * 64 * 128 * 2  # forward and for the gradient of the weights
    assert products < found.flops < 2 * products
    assert found.seconds == 1000 * found.step_seconds > 0


def test_a_plan_leaves_the_parameters_as_they_are():
    plan(np.ones((32, 64), np.float32))
    assert not PARAMS["w"].any()


def test_a_plan_refuses_what_fit_refuses():
    with pytest.raises(ValueError, match="batch_size must be at most num_examples, 8, got 16"):
        plan(np.ones((8, 64), np.float32))
