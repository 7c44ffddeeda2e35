"""What one network for every order promises beyond the contract: any cells given any others."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sampling_checks

import jaxgen as jg
from jaxgen.models._context import Labels
from jaxgen.models.autoregressive._order_agnostic import OrderAgnostic
from jaxgen.models.conditionals._mixture import Mixture

MODEL = OrderAgnostic(3, 2, hidden_sizes=(6, 5))
ROWS = jnp.asarray(list(itertools.product([0, 1], repeat=3)))


def random_params(model=MODEL):
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.num_dims), int))
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), "f4"), shapes)


def chain(params, x, order):
    """Log p of the coordinates in an order, one pass for each, `[B]`."""
    total, is_known = 0.0, jnp.zeros(x.shape, bool)
    for i in order:
        outputs = MODEL.outputs_given(params, x, is_known)
        total += MODEL.conditional_or_default.log_prob(outputs, x)[:, i]
        is_known = is_known.at[:, i].set(True)
    return np.asarray(total)


OBSERVED = {"all": (0, 1, 2), "two": (0, 2), "one": (1,), "none": ()}


@pytest.mark.parametrize("observed", OBSERVED)
def test_the_estimate_is_the_mean_over_all_orders_of_what_is_observed(observed, key):
    """And cells that are missing may hold anything."""
    places = OBSERVED[observed]
    params = random_params()
    is_observed = jnp.zeros((8, 3), bool).at[:, np.array(places, int)].set(True)
    orders = list(itertools.permutations(places))
    expected = np.mean([chain(params, ROWS, order) for order in orders], axis=0) + np.zeros(8)
    num_draws = 4000

    @jax.jit
    def draws(params, x):
        def one(key):
            return MODEL.any_order_log_prob(key, params, x, is_observed=is_observed)

        return jax.vmap(one)(jax.random.split(key, num_draws))

    found = np.asarray(draws(params, jnp.where(is_observed, ROWS, 7)))
    sampling_checks.assert_mean(found, expected, rounding=1e-5)
    assert (found.std(axis=0).max() > 0.1) == (len(places) > 1), "sizes of what is known differ"


def test_observed_cells_have_a_density_of_their_own():
    params = random_params()
    cases = {"two": (0, 2), "one": (1,), "all": (0, 1, 2)}
    for places in cases.values():
        is_observed = jnp.zeros((8, 3), bool).at[:, np.array(places)].set(True)
        found = MODEL.observed_log_prob(params, ROWS, is_observed)
        chex.assert_trees_all_close(found, chain(params, ROWS, places), rtol=1e-5)
        num_times = 2 ** (3 - len(places))
        chex.assert_trees_all_close(np.exp(found).sum(), num_times, rtol=1e-5)
    chex.assert_trees_all_close(found, MODEL.log_prob(params, ROWS), rtol=1e-5)


def test_each_row_has_the_context_that_it_is_given(key):
    """Whatever is asked: as if all rows had that context."""
    model = OrderAgnostic(3, 2, (6,), conditioning=Labels(2))
    labels = jnp.arange(8) % 2
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape), "f4"),
        model.init(jax.random.key(0), ROWS, context=labels),
    )
    is_known = jnp.zeros((8, 3), bool).at[:, 1].set(True)
    asked = {
        "outputs": lambda label: model.outputs_given(params, ROWS, is_known, context=label),
        "observed": lambda label: model.observed_log_prob(params, ROWS, is_known, context=label),
        "estimate": lambda label: model.any_order_log_prob(
            jax.random.clone(key), params, ROWS, context=label
        ),
        "filled": lambda label: model.fill_in(
            jax.random.clone(key), params, ROWS, is_known, context=label
        ),
    }
    for what, ask in asked.items():
        own, zero, one = (np.asarray(ask(label)) for label in (labels, 0, 1))
        np.testing.assert_allclose(own[::2], zero[::2], rtol=1e-5, err_msg=what)
        np.testing.assert_allclose(own[1::2], one[1::2], rtol=1e-5, err_msg=what)
        assert np.any(zero != one), what


def test_cells_are_filled_in_given_all_that_are_known(key):
    """The first given the last, which no model of one order could."""
    params = random_params()
    is_known = jnp.zeros((20_000, 3), bool).at[:, 2].set(True)
    x = jnp.full(is_known.shape, 1)
    drawn = np.asarray(jax.jit(MODEL.fill_in)(key, params, x, is_known))
    assert (drawn[:, 2] == 1).all()
    counts = np.bincount(drawn[:, 0] * 2 + drawn[:, 1], minlength=4)
    p = np.exp(chain(params, ROWS, (2, 0, 1)) - chain(params, ROWS, (2,)))[1::2]
    sampling_checks.assert_frequencies(counts, p)
    forgetful = np.exp(chain(params, ROWS, (0, 1, 2)))
    with pytest.raises(AssertionError):
        sampling_checks.assert_frequencies(counts, forgetful[::2] + forgetful[1::2])


def test_no_real_is_filled_in_at_the_end_of_a_uniform(monkeypatch, key):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.zeros(shape))
    model = OrderAgnostic(2, None, (3,), conditional=Mixture(num_components=2))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    filled = model.fill_in(key, params, jnp.zeros((3, 2)), jnp.zeros((3, 2), bool))
    assert np.all(np.isfinite(filled))


def test_training_on_rows_with_missing_cells_is_not_fooled_by_what_stands_in_them(key):
    """Half of the second bits are missing, and a 0 stands there: a reader of all would see 0.75."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 4000)
    second = np.where(generator.random(4000) < 0.9, first, 1 - first)
    x = np.stack([first, second], axis=1)
    is_missing = generator.random(4000) < 0.5
    is_observed = np.stack([np.ones(4000, bool), ~is_missing], axis=1)
    x = np.where(is_observed, x, 0)
    model, optimizer = OrderAgnostic(2, 2, hidden_sizes=(8,)), optax.adam(0.03)

    @jax.jit
    def train(params, x, is_observed):
        def loss(params, key):
            log_prob = model.any_order_log_prob(key, params, x, is_observed=is_observed)
            return -jnp.mean(log_prob)

        def step(carry, key):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, 200))[0][0]

    params = train(model.init(jax.random.key(1), x[:1]), x, is_observed)
    rows = jnp.array([[0, 1], [1, 1]])
    share = float(np.exp(jg.log_prob(model, params, rows)).sum())
    assert abs(share - 0.5) < 0.05
    assert np.exp(jg.log_prob(model, params, rows[1:]) - np.log(0.5)) == pytest.approx(
        0.9, abs=0.07
    )


def test_what_is_no_number_in_a_missing_cell_reaches_no_gradient(key):
    model = OrderAgnostic(3, None, (4,), conditional=Mixture(num_components=2))
    x = jnp.array([[1.0, jnp.nan, 2.0], [jnp.nan, jnp.nan, jnp.nan]])
    params = model.init(jax.random.key(1), jnp.zeros((1, 3)))

    @jax.jit
    def total(key, params, x, is_observed):
        estimate = model.any_order_log_prob(key, params, x, is_observed=is_observed)
        return jnp.sum(estimate + model.observed_log_prob(params, x, is_observed))

    gradient = jax.grad(total, 1)(key, params, x, jnp.isfinite(x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isnan(total(jax.random.clone(key), params, x, jnp.ones(x.shape, bool)))
    row = jnp.array([[1.0, jnp.nan, jnp.inf]])
    lost = model.outputs_given(params, row, jnp.array([[True, False, True]]))
    assert np.isnan(lost).all()


def test_bad_arguments_are_refused(key):
    params, x = random_params(), jnp.zeros((2, 3), int)
    with pytest.raises(TypeError, match="is_observed must hold booleans, got dtype int32"):
        MODEL.observed_log_prob(params, x, x)
    with pytest.raises(ValueError, match=r"is_known must have shape \(2, 3\), got \(3,\)"):
        MODEL.fill_in(key, params, x, jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 3\), got \(2, 2\)"):
        MODEL.outputs_given(params, x[:, :2], jnp.ones((2, 2), bool))
    with pytest.raises(ValueError, match=r"hidden_sizes must name at least one layer, got \(\)"):
        OrderAgnostic(3, 2, ()).init(key, x)
