import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training.soap import scale_by_soap

ADAM = optax.scale_by_adam(0.9, 0.99)


def run(optimizer, loss, params, num_steps):
    """Parameters and state after steps of plain gradient descent on what `optimizer` gives."""

    @jax.jit
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)[0]


@pytest.mark.parametrize("max_size", [1, 256])
def test_it_is_adam_where_no_axis_is_rotated(key, max_size):
    shape = (5, 7) if max_size == 1 else (5,)
    params = jax.random.normal(key, shape)
    loss = lambda p: jnp.sum(jnp.cosh(2.0 * p))  # noqa: E731
    rate = optax.scale_by_learning_rate(0.1)
    ours = run(optax.chain(scale_by_soap(max_size=max_size), rate), loss, params, 20)[0]
    chex.assert_trees_all_close(ours, run(optax.chain(ADAM, rate), loss, params, 20)[0], rtol=1e-5)


def test_it_is_adam_in_the_eigenbasis(key):
    """A gradient that keeps its singular vectors is scaled to the same size along each."""
    keys = jax.random.split(key)
    left, right = (jnp.linalg.qr(jax.random.normal(k, (4, 4)))[0] for k in keys)
    gradient = left @ jnp.diag(jnp.array([8.0, 4.0, 2.0, 1.0])) @ right.T
    optimizer = scale_by_soap(refresh_every=1)
    # Long enough for the averages to forget the steps before the basis was found.
    state = jax.lax.fori_loop(
        0, 1000, lambda _, state: optimizer.update(gradient, state)[1], optimizer.init(gradient)
    )
    updates, state = optimizer.update(gradient, state)
    np.testing.assert_allclose(left.T @ updates @ right, np.eye(4), atol=1e-2)
    for i in range(2):
        basis, covariance = state.basis[i], state.covariance[i]
        np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
        rotated = basis.T @ covariance @ basis
        np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-3)


def test_it_descends_a_rotated_valley_that_adam_does_not(key):
    keys = jax.random.split(key, 3)
    left, right = (jnp.linalg.qr(jax.random.normal(k, (10, 10)))[0] for k in keys[:2])
    curvature = jnp.logspace(-2, 2, 10)
    curved = [q @ (curvature[:, None] * q.T) for q in (left, right)]
    loss = lambda w: 0.5 * jnp.sum((curved[0] @ w @ curved[1]) * w)  # noqa: E731
    rate = optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 300))
    start = jax.random.normal(keys[2], (10, 10))
    reached = [
        loss(run(optax.chain(optimizer, rate), loss, start, 300)[0])
        for optimizer in (scale_by_soap(refresh_every=5), ADAM)
    ]
    assert reached[0] < 0.01 * reached[1], reached


def test_long_axes_are_left_alone(key):
    params = {"kernel": jnp.zeros((300, 20)), "bias": jnp.zeros(20)}
    state = scale_by_soap(max_size=256).init(params)
    chex.assert_trees_all_equal_shapes(
        state.basis, {"kernel": {1: jnp.zeros((20, 20))}, "bias": {}}
    )


@pytest.mark.parametrize(
    "arguments", [{"mean_decay": 1.0}, {"square_decay": -0.1}, {"refresh_every": 0}]
)
def test_bad_settings_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        scale_by_soap(**arguments)
