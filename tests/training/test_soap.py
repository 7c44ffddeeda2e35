import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training._checkpoint import Checkpointer
from jaxgen.training._soap import soap
from jaxgen.training._step import build_scan, build_step, init_state

RATE, NUM_STEPS = 0.05, 25


def trajectory(optimizer, loss, params):
    """The parameters after each of some steps."""

    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(body, (params, optimizer.init(params)), length=NUM_STEPS)


def quadratic(num_rows):
    """A convex loss of a matrix with four columns that couples all of its entries."""
    rng = np.random.default_rng(0)
    left, right, target = (rng.normal(size=s) for s in ((8, num_rows), (4, 5), (8, 5)))
    return lambda w: jnp.mean((left @ w @ right - target) ** 2)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 2), (7, 6)])
def test_without_a_rotation_it_is_adam(shape, key):
    target = jax.random.normal(key, shape)

    def loss(p):
        return jnp.sum(jnp.cosh(p - target))

    start = jnp.zeros(shape)
    adam = optax.adam(RATE, b1=0.95, b2=0.95)
    ours = trajectory(soap(RATE, max_size=4), loss, start)[1]
    chex.assert_trees_all_close(ours, trajectory(adam, loss, start)[1], rtol=1e-4, atol=1e-5)


def test_steps_do_not_depend_on_the_axes_of_rows_and_columns():
    # A square matrix: the first gradient has no eigenvalue zero, whose eigenvectors are free.
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        u, v = (jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0]) for _ in range(2))
        loss, start = quadratic(4), jnp.asarray(rng.normal(size=(4, 4)))

        def gap(optimizer):
            plain = trajectory(optimizer, loss, start)[1]
            turned = trajectory(optimizer, lambda w: loss(u.T @ w @ v), u @ start @ v.T)[1]
            return float(jnp.max(jnp.abs(u @ plain @ v.T - turned)))

        assert gap(soap(RATE)) < 1e-6
        assert gap(optax.adam(RATE)) > 1e-2


def test_bases_stay_orthonormal_and_long_axes_have_none():
    (_, state), _ = trajectory(soap(RATE, max_size=5), quadratic(6), jnp.zeros((6, 4)))
    ((rows, columns),) = state.bases
    assert rows is None
    chex.assert_trees_all_close(columns.T @ columns, jnp.eye(4), atol=1e-5)
    assert int(state.step) == NUM_STEPS


def test_bases_follow_the_gradients(key):
    first, later = jax.random.normal(key, (2, 4, 4))
    optimizer = soap(RATE)

    def body(state, step):
        return optimizer.update(jnp.where(step < 12, first, later), state)[1], None

    state, _ = jax.lax.scan(body, optimizer.init(first), jnp.arange(300))
    for basis, product in zip(state.bases[0], state.products[0], strict=True):
        turned = basis.T @ product @ basis
        assert float(jnp.abs(turned - jnp.diag(jnp.diag(turned))).max()) < 0.02 * turned.max()


def test_the_rate_is_that_of_the_schedule():
    start = jnp.ones((3, 2))
    rates = optax.piecewise_constant_schedule(0.1, {5: 0.0})
    _, path = trajectory(soap(rates), lambda w: jnp.sum(w**2), start)
    assert float(jnp.abs(path[4] - path[3]).max()) > 0.01
    chex.assert_trees_all_equal(path[5], path[-1])


def test_a_scan_may_write_over_its_state_and_a_checkpoint_holds_it(tmp_path):
    optimizer, loss = soap(RATE), quadratic(6)
    scan = build_scan(build_step(lambda key, w, batch, step: loss(w), optimizer))
    start = init_state(jnp.zeros((6, 4)), optimizer)
    indices = jnp.zeros((NUM_STEPS, 1), jnp.int32)
    state, _ = scan(jax.random.key(0), start, jnp.zeros(1), indices)
    chex.assert_trees_all_close(
        state.params, trajectory(optimizer, loss, jnp.zeros((6, 4)))[1][-1], rtol=1e-3, atol=1e-5
    )
    Checkpointer(tmp_path).save(NUM_STEPS, state)
    chex.assert_trees_all_equal(Checkpointer(tmp_path).load(state), (NUM_STEPS, state))
