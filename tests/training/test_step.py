import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training._step import build_scan, build_step, global_norm, init_state

DATA = np.arange(20.0, dtype=np.float32)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))


def loss_fn(key, params, batch, step):
    return jnp.mean((batch + jax.random.normal(key, batch.shape) - params) ** 2)


def test_scan_equals_single_steps():
    indices = np.random.default_rng(0).integers(0, 20, (7, 4)).astype(np.int32)
    step = build_step(loss_fn, OPTIMIZER, average_decay=0.9)
    single = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.9)
    losses = []
    for row in indices:
        single, metrics = jax.jit(step)(jax.random.key(1), single, jnp.asarray(DATA[row]))
        losses.append(metrics.loss)
    start = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.9)
    scanned, metrics = build_scan(step)(jax.random.key(1), start, jnp.asarray(DATA), indices)
    chex.assert_trees_all_close(scanned, single, rtol=1e-6)
    np.testing.assert_allclose(metrics.loss, losses, rtol=1e-6)
    assert start.params.is_deleted()  # the scan wrote over it


def test_an_index_that_is_no_example_gives_a_loss_of_nan():
    indices = np.array([[0, 1], [1, 20], [2, 3], [-1, 2]], np.int32)
    scan = build_scan(build_step(loss_fn, OPTIMIZER))
    state = init_state(jnp.float32(0), OPTIMIZER)
    _, metrics = scan(jax.random.key(1), state, jnp.asarray(DATA), jnp.asarray(indices))
    assert np.isnan(metrics.loss).tolist() == [False, True, False, True]


def test_another_number_of_steps_compiles_nothing_and_gives_the_same_numbers():
    indices = jnp.asarray(np.random.default_rng(0).integers(0, 20, (7, 4)))
    scan, data = build_scan(build_step(loss_fn, OPTIMIZER, average_decay=0.9)), jnp.asarray(DATA)

    def run(*lengths):
        state = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.9)
        first, losses = 0, []
        for length in lengths:
            padded = jnp.pad(indices[first : first + length], ((0, 7 - length), (0, 0)))
            state, metrics = scan(jax.random.key(1), state, data, padded, length)
            chex.assert_trees_all_equal(metrics.loss[length:], np.zeros(7 - length))
            first, losses = first + length, [*losses, *metrics.loss[:length].tolist()]
        return state, losses

    whole = run(7)
    chex.assert_trees_all_equal(run(3, 1, 2, 1), whole)
    chex.assert_trees_all_equal(run(6, 1), whole)
    assert scan._cache_size() == 1


def test_what_follows_a_step_changes_parameters_and_average_without_a_gradient():
    def after(key, params, batch, step):
        noise = jax.random.normal(key, ())
        return {**params, "seen": 0.5 * params["seen"] + jnp.sum(batch) + noise + step}

    def loss(key, params, batch, step):
        return loss_fn(key, params["mean"], batch, step)

    step = jax.jit(build_step(loss, OPTIMIZER, average_decay=0.9, after_step_fn=after))
    plain = jax.jit(build_step(loss, OPTIMIZER, average_decay=0.9))
    params = {"mean": jnp.float32(0), "seen": jnp.float32(2)}
    state, untouched = (init_state(params, OPTIMIZER, average_decay=0.9) for _ in range(2))
    draws, seen, average = set(), 2.0, 2.0
    for t in range(3):
        batch = jnp.full(4, t + 1.0)
        untouched, _ = plain(jax.random.key(0), untouched, batch)
        before, (state, _) = seen, step(jax.random.key(0), state, batch)
        seen = float(state.params["seen"])
        draws.add(round(seen - (0.5 * before + 4 * (t + 1) + t), 4))
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * seen
        chex.assert_trees_all_close(state.average["seen"], average, rtol=1e-5)
        assert float(state.params["mean"]) == float(untouched.params["mean"])
    assert len(draws) == 3


def test_callers_parameters_survive_a_scan():
    params = {"mean": jnp.zeros(2)}
    step = build_step(lambda key, p, batch, step: jnp.sum((p["mean"] - 1) ** 2), OPTIMIZER)
    state = init_state(params, OPTIMIZER)
    build_scan(step)(jax.random.key(1), state, jnp.asarray(DATA), jnp.zeros((3, 4), jnp.int32))
    chex.assert_trees_all_equal(params["mean"], np.zeros(2))


def test_clipping_bounds_the_update_and_the_norm_is_reported_unclipped():
    step = build_step(loss_fn, OPTIMIZER)
    state, metrics = step(
        jax.random.key(0), init_state(jnp.float32(0), OPTIMIZER), jnp.full(4, 50.0)
    )
    assert float(metrics.gradient_norm) > 50
    chex.assert_trees_all_close(state.params, 0.05, rtol=1e-5)  # rate times the clipped norm


def test_average_follows_its_formula():
    step = build_step(loss_fn, OPTIMIZER, average_decay=0.95)
    state, average = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.95), 0.0
    for t in range(5):
        state, _ = step(jax.random.key(0), state, jnp.full(4, 50.0))
        decay = min(0.95, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * float(state.params)
    chex.assert_trees_all_close(state.average, average, rtol=1e-5)


def test_without_averaging_no_average_is_kept():
    step = build_step(loss_fn, OPTIMIZER)
    state, _ = step(jax.random.key(0), init_state(jnp.float32(0), OPTIMIZER), jnp.full(4, 50.0))
    assert state.average is None
    assert float(state.averaged) == float(state.params)
    with_average = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.9)
    with pytest.raises(ValueError, match=r"state must be of the step's average_decay, 0.0"):
        step(jax.random.key(0), with_average, jnp.full(4, 50.0))


@pytest.mark.parametrize("trouble", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_not_taken(trouble):
    def poisoned(key, params, batch, step):
        zero = jnp.where(step == 2, 0.0, 1.0)
        if trouble == "loss":
            return loss_fn(key, params, batch, step) + jnp.log(zero)
        return loss_fn(key, params, batch, step) + jnp.sqrt(
            zero + params - jax.lax.stop_gradient(params)
        )

    optimizer = optax.adam(0.1)
    scan = build_scan(build_step(poisoned, optimizer, average_decay=0.9))
    state = init_state(jnp.float32(0), optimizer, average_decay=0.9)
    indices = jnp.asarray(np.random.default_rng(0).integers(0, 20, (5, 4)))
    good, _ = scan(jax.random.key(1), jax.tree.map(jnp.copy, state), jnp.asarray(DATA), indices, 2)
    found, metrics = scan(jax.random.key(1), state, jnp.asarray(DATA), indices, 3)
    assert metrics.is_taken.tolist() == [True, True, False, False, False]
    assert (int(found.step), int(found.num_skipped)) == (3, 1)
    chex.assert_trees_all_equal(found._replace(step=good.step, num_skipped=good.num_skipped), good)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_the_norm_is_of_all_numbers(dtype):
    rng = np.random.default_rng(0)
    tree = {
        "a": np.asarray(3.0, dtype),
        "b": rng.normal(size=(3, 4, 5)).astype(dtype)
        * np.exp(np.asarray(1j if dtype == np.complex64 else 0)).astype(dtype),
        "c": np.zeros((0, 2), dtype),
    }
    every = np.concatenate([np.ravel(leaf) for leaf in tree.values()])
    chex.assert_trees_all_close(
        global_norm(jax.tree.map(jnp.asarray, tree)), np.linalg.norm(every), rtol=1e-6
    )


def test_bad_decay_is_refused():
    with pytest.raises(ValueError, match=r"average_decay must be in \[0.0, 1.0\), got 1.0"):
        build_step(loss_fn, OPTIMIZER, average_decay=1.0)


def parts_fn(key, params, batch, step):
    loss = loss_fn(key, params, batch, step)
    return loss, {"double": 2 * loss, "step_of": step}


def test_what_stands_beside_the_loss_is_reported_and_changes_no_parameter():
    indices = jnp.asarray(np.random.default_rng(0).integers(0, 20, (5, 4)))
    data, results = jnp.asarray(DATA), []
    for one in (loss_fn, parts_fn):
        scan = build_scan(build_step(one, OPTIMIZER, average_decay=0.9))
        state = init_state(jnp.float32(0), OPTIMIZER, average_decay=0.9)
        results.append(scan(jax.random.key(1), state, data, indices, 3))
    (plain, expected), (state, metrics) = results
    chex.assert_trees_all_equal(state, plain)
    chex.assert_trees_all_equal(metrics.loss, expected.loss)
    assert expected.others == {}
    chex.assert_trees_all_close(metrics.others["double"], 2 * metrics.loss, rtol=1e-6)
    chex.assert_trees_all_equal(metrics.others["step_of"], np.array([0, 1, 2, 0, 0]))
    assert metrics.others["step_of"].dtype == jnp.int32


@pytest.mark.parametrize(
    ("beside", "error", "message"),
    [
        ([1.0], TypeError, "a loss, or a loss and a dict, got list beside"),
        ({1: 1.0}, TypeError, "names of text, got 1"),
        ({"a": "b"}, TypeError, "metric 'a' must be a number, got 'b'"),
        ({"a": jnp.array(True)}, TypeError, "metric 'a' must be a number, got dtype.'bool'"),
        (
            {"a": jnp.zeros(3)},
            ValueError,
            r"metric 'a' must be a scalar, got shape \(3,\); take the",
        ),
        ({"loss": 1.0}, ValueError, "metrics must not be named 'loss'"),
    ],
)
def test_what_stands_beside_the_loss_is_checked(beside, error, message):
    step = build_step(lambda *_: (jnp.zeros(()), beside), OPTIMIZER)
    with pytest.raises(error, match=message):
        jax.eval_shape(step, jax.random.key(0), init_state(jnp.float32(0), OPTIMIZER), jnp.zeros(4))


def test_three_things_are_no_loss():
    step = build_step(lambda *_: (jnp.zeros(()), {}, {}), OPTIMIZER)
    with pytest.raises(TypeError, match="one floating-point number, got tuple"):
        step(jax.random.key(0), init_state(jnp.float32(0), OPTIMIZER), jnp.zeros(4))
