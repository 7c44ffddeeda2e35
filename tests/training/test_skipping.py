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
    chex.assert_trees_all_equal(path[0], path[2])


def test_skipping_for_ever_is_said():
    optimizer = skip_large_gradients(optax.sgd(0.1), 1.0, warn_after=3)
    gradients = jnp.full((8, 2), 9.0).at[3].set(0.5)
    text = "the last 3 steps were all skipped: a norm may be 1, the gradient's norm now 12.73"
    with pytest.warns(RuntimeWarning, match=text) as said:
        (_, state), path = jax.block_until_ready(run(optimizer, gradients))
    assert len(said) == 2
    assert int(state.num_skipped) == 7
    chex.assert_trees_all_close(path[-1], -0.05 * np.ones(2), rtol=1e-6)


def test_a_moving_threshold_follows_the_gradients():
    optimizer = skip_large_gradients(optax.sgd(0.1), max_ratio=4.0, decay=0.9)
    norms = np.concatenate([[50.0], np.full(40, 1.0), [5.0, 3.9], np.full(30, 100.0)])
    gradients = jnp.asarray(norms)[:, None] * jnp.array([[0.6, 0.8]])
    _, path = run(optimizer, gradients)
    was_taken = np.any(np.diff(np.asarray(path), axis=0, prepend=0.0), axis=1)
    log_norm, expected = np.log(50.0), []
    for norm in norms:
        largest = log_norm + np.log(4.0) if expected else np.inf
        expected.append(np.log(norm) <= largest)
        log_norm = 0.9 * log_norm + 0.1 * min(np.log(norm), largest)
    np.testing.assert_array_equal(was_taken, expected)
    assert not was_taken[41]
    assert was_taken[42]
    assert not was_taken[43:50].any()
    assert was_taken[-1]  # it does not skip for ever


def test_a_gradient_that_is_not_finite_moves_no_threshold():
    optimizer = skip_large_gradients(optax.sgd(0.1), max_ratio=4.0)
    gradients = jnp.array([[jnp.nan, 0.0], [3.0, 4.0], [jnp.inf, 0.0], [jnp.nan, 1.0]])
    (_, state), path = run(optimizer, gradients)
    chex.assert_trees_all_close(path[-1], np.array([-0.3, -0.4]), rtol=1e-6)
    chex.assert_trees_all_close(state.log_norm, np.log(5.0), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="max_norm or max_ratio must be finite"):
        skip_large_gradients(optax.sgd(0.1))
    with pytest.raises(ValueError, match="max_ratio must be in"):
        skip_large_gradients(optax.sgd(0.1), max_ratio=1.0)
    with pytest.raises(ValueError, match="max_norm must be in"):
        skip_large_gradients(optax.sgd(0.1), 0.0)
    with pytest.raises(TypeError, match="optimizer must be an Optax transformation"):
        skip_large_gradients(optax.sgd, 1.0)
