"""Chains of reals and of mixed columns through the contract: a new kind or model adds a row."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

import jaxgen as jg
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.models.conditionals._angles import Angles
from jaxgen.models.conditionals._bounded_mixtures import FoldedMixture, TruncatedMixture
from jaxgen.models.conditionals._energy import Energy
from jaxgen.models.conditionals._mixed import Mixed
from jaxgen.models.conditionals._mixture import Mixture
from jaxgen.models.conditionals._spline import Spline
from jaxgen.models.conditionals._symbols import Bits, Categorical

COLUMNS = (
    Mixture(num_components=2),
    Bits(),
    Energy(support=(0.0, math.inf), num_panels=3, num_nodes=8),
    Categorical(3),
    Mixture(num_components=2),
)
MIXED = Mixed(COLUMNS)
IS_REAL = np.array([column.num_symbols is None for column in COLUMNS])
MODELS = {
    "made": jg.MADE(5, None, (8,), has_direct_connections=True, conditional=MIXED),
    "order_agnostic": jg.models.OrderAgnostic(5, None, (8,), conditional=MIXED),
    "recurrence": jg.LinearRecurrence(5, None, width=4, num_layers=1, conditional=MIXED),
    "transformer": jg.CausalTransformer(5, None, 4, 1, 1, conditional=MIXED, block_size=3),
}
ROWS = 12


def table(num_rows=ROWS):
    """Rows whose columns have units of their own."""
    generator = np.random.default_rng(1)
    columns = [
        generator.normal(100.0, 20.0, num_rows),
        generator.integers(0, 2, num_rows),
        generator.gamma(2.0, 1e-3, num_rows) + 1e-6,
        generator.integers(0, 3, num_rows),
        generator.normal(-3.0, 0.1, num_rows),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def random_params(model, x, scale=0.4):
    """Parameters away from zero, with the units of the data."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x[:1]))
    generator = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: scale * generator.standard_normal(leaf.shape), shapes)
    params["params"]["units"] = model.conditional_or_default.units(x)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), params)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_columns_conform(name, key):
    model, x = MODELS[name], table()
    params = random_params(model, x)
    u = np.random.default_rng(4).random((ROWS, 5), np.float32)
    others = x[::-1].copy()

    @jax.jit
    def outputs(params, x, others):
        moved = jnp.where(jnp.eye(5, dtype=bool)[:, None], others[None], x[None])
        return model.outputs(params, jnp.stack([x, *moved, x.at[:, 1].set(0.5)]))

    quantile = jax.jit(lambda params, u: jg.samplers.quantile(model, params, u))

    @jax.jit
    def measure(params, x, u, drawn):
        return {
            "stepped": jg.AutoregressiveModel.prefill(model, params, x)[0],
            "log_prob": model.log_prob(params, drawn),
            "parallel": jg.samplers.quantile_parallel(model, params, u),
            "prompted": jg.samplers.quantile(model, params, u, prompt=drawn[:, :2]).x,
            "back": jg.criticism.rosenblatt(key, model, params, drawn),
        }

    at_x, *moved, lost = np.asarray(outputs(params, x, others))
    drawn = quantile(params, u)
    found = measure(params, x, u, drawn.x)
    again = quantile(params, found["back"]).x
    change = np.stack(moved) != at_x[None]
    sees = change.any(axis=(1, 3))  # [which x moved, which outputs changed]
    chex.assert_trees_all_equal(sees, np.triu(np.ones((5, 5), bool), 1))
    chex.assert_trees_all_close(found["stepped"], at_x, atol=1e-4, rtol=1e-4)
    scale = np.where(IS_REAL, x.std(0), 1e-3)[None]
    for other in (found["parallel"].draws.x, found["prompted"], again):
        chex.assert_trees_all_close(other / scale, drawn.x / scale, atol=2e-2, rtol=1e-7)
    chex.assert_trees_all_close(drawn.log_probs.sum(1), found["log_prob"], atol=1e-3, rtol=1e-7)
    chex.assert_trees_all_close(found["back"][:, IS_REAL], u[:, IS_REAL], atol=1e-3, rtol=1e-7)
    is_lost = np.isnan(lost).all(-1)
    chex.assert_trees_all_equal(is_lost, np.broadcast_to(np.arange(5) > 1, (ROWS, 5)))
    assert MIXED.is_value(drawn.x).all()


KINDS = {
    "student_ts": Mixture(num_components=2, family="student_t"),
    "logistics": Mixture(support=(0.0, math.inf), num_components=2, family="logistic"),
    "spline": Spline(num_bins=4),
    "energies": Energy(num_panels=3),
    "angles": Angles((0.0, 32.0), num_components=2),
    "truncated": TruncatedMixture((0.0, 32.0), num_components=2),
    "folded": FoldedMixture((0.0, math.inf), num_components=2),
}
ENDS = {"student_ts": 30.0, "logistics": 5.5, "spline": 5.0, "energies": 16.0, "folded": 9.0}


def axis(name, num_panels):
    if name in ("angles", "truncated"):
        return gauss_legendre(0.0, 32.0, 8, num_panels)
    start = 0.0 if name == "folded" else -ENDS[name]
    rule = gauss_legendre(start, ENDS[name], 8, num_panels)
    y, weights = np.sinh(rule.nodes), rule.weights * np.cosh(rule.nodes)
    if name != "logistics":
        return y, weights
    return np.exp(y), weights * np.exp(y)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KINDS)
def test_two_coordinates_integrate_to_one_and_samples_follow(name, key):
    """∬ p = 1 with the inner integral at some x_0, and the second margin by quadrature over x_0."""
    model = jg.MADE(2, None, (6,), conditional=KINDS[name])
    data = np.stack([np.linspace(1.5, 4.0, 9), np.geomspace(1.1, 30.0, 9)], axis=1)
    params = random_params(model, data, scale=0.7)
    x, weights = axis(name, 8000 if name == "spline" else 800)
    coarse, coarse_weights = axis(name, 40)
    some = data[::4, 0]
    num_samples = 20_000

    @jax.jit
    def measure(params, x, some, coarse, u):
        conditional = model.conditional_or_default

        def of(x_0, x_1):
            points = jnp.stack(jnp.broadcast_arrays(x_0[:, None], x_1[None]), axis=-1)
            return points, model.outputs(params, points)

        points, outputs = of(some, x)
        inner = conditional.log_prob(outputs, points)[..., 1]
        first = conditional.log_prob(*of(x, x[:1])[::-1])[:, 0, 0]
        draws = jg.samplers.quantile(model, params, u).x
        ends = jnp.quantile(draws[:, 1], jnp.linspace(0.02, 0.98, 33))
        points, outputs = of(coarse, ends)
        below = conditional.cdf(outputs, points)[..., 1]
        first_coarse = conditional.log_prob(outputs, points)[:, 0, 0]
        return inner, first, draws, ends, below, first_coarse

    u = jax.random.uniform(key, (num_samples, 2))
    inner, first, draws, ends, below, first_coarse = measure(params, x, some, coarse, u)
    tolerance = 1e-5 if name in ("energies", "spline") else 1e-6  # of densities with kinks
    chex.assert_trees_all_close(np.exp(inner) @ weights, 1.0, atol=tolerance, rtol=1e-7)
    chex.assert_trees_all_close(np.exp(first) @ weights, 1.0, atol=tolerance, rtol=1e-7)
    mass = np.exp(first_coarse) * coarse_weights
    margin = mass @ below / mass.sum()
    share = np.mean(np.asarray(draws)[:, 1, None] <= np.asarray(ends)[None], axis=0)
    assert np.abs(share - margin).max() <= sampling_checks.dkw_band(num_samples) + 1e-4
    assert np.ptp(np.asarray(inner), axis=0).max() > 0.1, "x_1 does not depend on x_0"


def test_log_prob_is_of_the_units_of_the_data():
    """A column in other units, with its own statistics, loses the logarithm of the factor."""
    model = jg.Independent(2, None, Mixture(num_components=2))
    x = table()[:, :2] + 0.5
    params = jg.models.set_output_bias(model, model.init(jax.random.key(0), x[:1]), x)
    before = jg.log_prob(model, params, x)
    scaled = x * np.array([1000.0, 1.0], np.float32)
    params = jg.models.set_output_bias(model, params, scaled)
    chex.assert_trees_all_close(
        jg.log_prob(model, params, scaled), before - math.log(1000), atol=1e-3, rtol=1e-7
    )


def test_units_and_biases_are_those_of_the_observed_cells():
    """What stands in the others is not read; whole columns are taken as they are."""
    model = jg.models.OrderAgnostic(5, None, (8,), conditional=MIXED)
    x = table(60)
    is_observed = np.random.default_rng(8).random(x.shape) < 0.7
    is_observed[:, 4] = True
    start = model.init(jax.random.key(0), x[:1])
    told = np.where(is_observed, x, np.nan)
    found = jg.models.set_output_bias(model, start, told, is_observed=is_observed)["params"]
    whole = jg.models.set_output_bias(model, start, x)["params"]
    chex.assert_trees_all_close(found["units"][4], whole["units"][4], rtol=1e-5)
    own = told[is_observed[:, 0], 0]
    center, log_unit = found["units"][0]
    assert abs(center - own.mean()) < 0.1 * own.std()
    assert abs(np.exp(log_unit) / own.std() - 1) < 0.1
    with pytest.raises(ValueError, match="is_observed must have a cell in every column, got none"):
        jg.models.set_output_bias(model, start, x, is_observed=is_observed & (np.arange(5) != 2))


def test_observed_columns_are_kept_and_the_rest_is_drawn(key):
    model, x = MODELS["made"], table()
    params = random_params(model, x)
    is_observed = np.random.default_rng(6).random(x.shape) < 0.5
    draws = jax.jit(lambda k, x: jg.sample(k, model, params, observed=x, is_observed=is_observed))
    drawn = np.asarray(draws(key, x).x)
    chex.assert_trees_all_equal(drawn[is_observed], x[is_observed])
    assert (drawn[~is_observed] != x[~is_observed]).any()
    assert MIXED.is_value(drawn).all()


def test_bad_columns_are_refused(key):
    x = jnp.asarray(table())
    with pytest.raises(ValueError, match="columns must be num_dims=4, got 5"):
        jg.MADE(4, None, (8,), conditional=MIXED).init(jax.random.key(0), x[:, :4])
    with pytest.raises(ValueError, match="conditional must be given where num_symbols is None"):
        jg.MADE(5, None, (8,)).init(jax.random.key(0), x)
    with pytest.raises(TypeError, match="columns must be a tuple of conditionals"):
        Mixed(list(COLUMNS))
    with pytest.raises(ValueError, match="whole numbers in columns of symbols"):
        MIXED.marginal_outputs(np.asarray(x)[:, [0, 0, 2, 3, 4]])
    with pytest.raises(ValueError, match="transform_fn must be None of a model that has no logits"):
        jg.sample(key, MODELS["made"], {}, 3, transform_fn=lambda logits: logits)


def test_a_model_over_reals_moves_to_another_order():
    """Reordered twice, there and back, it is itself; the units go with their columns."""
    model = jg.MADE(3, None, (6,), conditional=Mixture(num_components=2))
    x = table()[:, [0, 2, 4]]
    params = random_params(model, x)
    order = jnp.array([2, 0, 1])

    @jax.jit
    def measure(params, x):
        moved = jg.models.reordered(params, order)
        back = jg.models.reordered(moved, jnp.argsort(order))
        orders = jnp.stack([jnp.arange(3), order])
        members = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, moved)
        ensemble = jg.models.order_ensemble_log_prob(model, members, x, orders)
        own = [model.log_prob(params, x), model.log_prob(moved, x[:, order])]
        return back, moved["params"]["units"], ensemble, own

    back, units, ensemble, own = measure(params, x)
    chex.assert_trees_all_equal(back, params)
    chex.assert_trees_all_equal(units, params["params"]["units"][order])
    expected = np.logaddexp(*(np.asarray(a, np.float64) for a in own)) - math.log(2)
    chex.assert_trees_all_close(ensemble, expected, rtol=1e-5)
