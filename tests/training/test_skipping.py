import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training._skipping import skip_large_gradients


def run(optimizer, gradients):
    """The parameter after each of some gradients, and the last state."""

    def body(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = jnp.zeros(2)
    return jax.jit(lambda g: jax.lax.scan(body, (start, optimizer.init(start)), g))(gradients)


def test_a_large_gradient_leaves_no_trace():
    adam = optax.adam(0.1)
    gradients = jnp.array([[1.0, 2.0], [60.0, 80.0], [jnp.nan, 0.0], [0.0, 5.0], [2.0, 1.0]])
    (params, state), path = run(skip_large_gradients(adam, 5.0), gradients)
    (expected, inner), _ = run(adam, gradients[jnp.array([0, 3, 4])])
    chex.assert_trees_all_close((params, state.inner), (expected, inner), rtol=1e-6)
    assert (int(state.num_skipped), int(state.num_in_row)) == (2, 0)
    np.testing.assert_array_equal(path[0], path[2])


def test_skipping_for_ever_is_said():
    optimizer = skip_large_gradients(optax.sgd(0.1), 1.0, warn_after=3)
    gradients = jnp.full((8, 2), 9.0).at[3].set(0.5)
    text = "the last 3 steps were all skipped: max_norm is 1, the gradient's norm now 12.73"
    with pytest.warns(RuntimeWarning, match=text) as said:
        (_, state), path = jax.block_until_ready(run(optimizer, gradients))
    assert len(said) == 2
    assert int(state.num_skipped) == 7
    np.testing.assert_allclose(path[-1], -0.05 * np.ones(2), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="max_norm must be in"):
        skip_large_gradients(optax.sgd(0.1), 0.0)
    with pytest.raises(TypeError, match="optimizer must be an Optax transformation"):
        skip_large_gradients(optax.sgd, 1.0)
