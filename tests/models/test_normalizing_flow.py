"""Flows as densities, against Jacobians and quadrature."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.core._quadrature import gauss_legendre, product_rule
from jaxgen.models._context import Covariates
from jaxgen.models._normalizing_flow import NormalizingFlow, standardized, whitened
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.conditionals._mixture import Mixture
from jaxgen.models.layers._flows import SplineCoupling
from jaxgen.models.layers._masked_flows import MaskedAutoregressive

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

FLOWS = {
    "affine": MaskedAutoregressive(num_steps=2, hidden_sizes=(7, 6), num_bins=None),
    "spline": MaskedAutoregressive(num_steps=2, hidden_sizes=(8,), num_bins=4),
    "coupling": SplineCoupling(num_steps=2, num_bins=4, hidden_size=6),
    "over mixtures": MaskedAutoregressive(num_steps=1, hidden_sizes=(7,), num_bins=None),
}
HALF = {
    f"{name}_in_bfloat16": FLOWS[name].copy(dtype=jnp.bfloat16) for name in ("affine", "coupling")
}


def built(name, num_dims, scale=0.2, **fields):
    """A flow with parameters that are all away from where they start."""
    if name == "over mixtures":
        conditional = Mixture(num_components=2)
        fields["base"] = MADE(num_dims, None, hidden_sizes=(6,), conditional=conditional)
    model = NormalizingFlow(num_dims, (FLOWS | HALF)[name], **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, num_dims)))
    random = np.random.default_rng(3)
    params = jax.tree.map(
        lambda a: jnp.asarray(scale * random.standard_normal(a.shape), jnp.float32), shapes
    )
    skew = np.eye(num_dims) + np.tri(num_dims, k=-1) / 2
    x = 1.0 + random.standard_normal((50, num_dims)) @ skew.T
    return model, whitened(params, x)


@pytest.mark.parametrize("name", FLOWS | HALF)
def test_the_density_is_the_base_times_the_jacobian_and_the_way_back_is_exact(name):
    model, params = built(name, 4)
    x = jnp.array([[0.4, -1.3, 0.1, 6.0], [-0.2, 0.5, 2.0, 0.3], [1.0, 0.0, -0.5, -1.0]])

    @jax.jit
    def passes(x):
        to_base = functools.partial(model.to_base, params)
        z = to_base(x)
        jacobian = jax.vmap(jax.jacfwd(to_base))(x)
        return z, jacobian, model.log_prob(params, x), model.from_base(params, z)

    z, jacobian, log_prob, back = passes(x)
    if model.base is None:
        base = np.sum(-0.5 * np.asarray(z) ** 2 - 0.5 * np.log(2 * np.pi), axis=1)
    else:
        base = np.asarray(jax.jit(model.base.log_prob)({"params": params["params"]["base"]}, z))
    expected = base + np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    chex.assert_trees_all_close(log_prob, expected, rtol=1e-4)
    chex.assert_trees_all_close(back, x, atol=1e-3, rtol=1e-7)
    assert np.abs(expected - base).max() > 0.1  # the steps do something


@pytest.mark.parametrize("name", FLOWS | HALF)
def test_the_density_integrates_to_one(name):
    model, params = built(name, 2, scale=0.1)
    line = gauss_legendre(-9.0, 9.0, 3, 300)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), params)
        grid = product_rule(line, line)
        rows = grid.nodes.reshape(len(line.nodes), -1, 2)
        log_prob = jax.jit(lambda rows: jax.lax.map(lambda x: model.log_prob(params, x), rows))(
            rows
        )
        total = float(jnp.sum(jnp.exp(log_prob).ravel() * grid.weights))
    assert abs(total - 1) < (1e-6 if name in FLOWS else 1e-4), total


@pytest.mark.parametrize("name", HALF)
def test_the_way_back_rounds_hidden_units_as_the_way_forth(name):
    """All but the few points with a unit at the edge between two numbers of bfloat16."""
    model, params = built(name, 4, scale=0.4)
    x = np.random.default_rng(0).normal(size=(256, 4)).astype("f4")
    back = jax.jit(lambda x: model.from_base(params, model.to_base(params, x)))(x)
    assert np.mean(np.abs(back - x).max(axis=1) < 1e-5) > 0.9


@pytest.mark.parametrize("hidden_sizes", [(2,), (3, 11)])
def test_a_draw_is_what_the_density_takes_back_whatever_the_widths(hidden_sizes):
    """Fewer units than coordinates, and blocks of units of more than one degree, with dropout."""
    flow = MaskedAutoregressive(
        num_steps=2, hidden_sizes=hidden_sizes, num_bins=None, dropout_rate=0.3
    )
    model = NormalizingFlow(5, flow, conditioning=Covariates(1))
    x, context = jnp.ones((4, 5)), jnp.array([[0.1], [1.0], [-2.0], [0.4]])
    shapes = jax.eval_shape(functools.partial(model.init, context=context), jax.random.key(0), x)
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype("f4") / 2, shapes)

    @jax.jit
    def there_and_back(y):
        bound = model.bind(params, rngs={"dropout": jax.random.key(1)})
        results = []
        for step in bound._steps(context, (4,)):
            x, log_det = step.inverse(y)
            results.append((*step.forward(x), log_det))
        return results

    y = random.normal(size=(4, 5)).astype("f4")
    for back, claimed, log_det in there_and_back(y):
        chex.assert_trees_all_close(back, y, atol=1e-4, rtol=1e-7)
        chex.assert_trees_all_close(log_det, -claimed, atol=1e-4, rtol=1e-7)


def test_a_masked_step_sees_what_is_before_in_its_order_and_all_of_it():
    model, params = built("affine", 4)
    for order, steps in ((np.arange(4), 1), (np.arange(4)[::-1], 2)):
        bound = model.bind(params)
        step = bound._steps(None, ())[steps - 1]
        jacobian = jax.jacfwd(lambda x, step=step: step.forward(x)[0])(jnp.ones(4) * 0.3)
        seen = np.abs(np.asarray(jacobian))[np.ix_(order, order)]
        assert (np.triu(seen, 1) == 0).all()
        assert (seen[np.tril_indices(4)] > 0).all()


@pytest.mark.parametrize("name", ["spline", "over mixtures"])
def test_draws_follow_the_marginal_that_quadrature_gives(key, name):
    model, params = built(name, 2)
    x = np.asarray(jax.jit(model.sample, static_argnums=2)(key, params, 20_000))
    line = gauss_legendre(-8.0, 8.0, 4, 100)
    grid = product_rule(line, line)
    density = np.exp(np.asarray(jax.jit(model.log_prob)(params, grid.nodes), np.float64))
    for axis in range(2):
        mass = (density * grid.weights).reshape(len(line.nodes), -1).sum(axis=1 - axis)
        cdf = np.cumsum(mass) - 0.5 * mass
        sampling_checks.assert_distribution(
            x[:, axis], lambda t, cdf=cdf: np.interp(t, line.nodes, cdf)
        )


def test_units_of_the_data_are_in_the_density():
    model, params = built("coupling", 3)
    x = np.random.default_rng(0).normal(size=(50, 3))
    scaled = x * [10.0, 0.1, 3.0] + [5.0, 0.0, -2.0]
    plain = model.log_prob(standardized(params, x), x)
    other = model.log_prob(standardized(params, scaled), scaled)
    chex.assert_trees_all_close(other, plain - np.log(3.0), atol=1e-4, rtol=1e-7)


def test_training_leaves_the_statistics_alone_and_moves_all_else():
    model, params = built("affine", 3, scale=0.6)  # so that no layer is all below zero
    params = standardized(params, np.random.default_rng(0).normal(size=(20, 3)))
    x = np.random.default_rng(1).normal(size=(8, 3)).astype("f4")
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.log_prob(p, x))))(params)["params"]
    assert not any(gradient.pop(name).any() for name in ("shift", "factor", "inverse_factor"))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("set_statistics", [standardized, whitened])
def test_it_starts_as_the_normal_of_the_data(set_statistics):
    model = NormalizingFlow(2, MaskedAutoregressive(num_steps=2, hidden_sizes=(4,), num_bins=4))
    x = np.random.default_rng(0).normal(3.0, 2.0, (100, 2)) @ np.array([[1.0, 0.7], [0.0, 0.1]])
    params = set_statistics(model.init(jax.random.key(0), x[:1]), x)
    covariance = np.cov(x.T, bias=True)
    if set_statistics is standardized:
        covariance = np.diag(np.diag(covariance))
    density = scipy.stats.multivariate_normal(x.mean(axis=0), covariance).logpdf(x)
    chex.assert_trees_all_close(jax.jit(model.log_prob)(params, x), density, atol=1e-4, rtol=1e-7)
    z = np.asarray(jax.jit(model.to_base)(params, x))
    chex.assert_trees_all_close(jax.jit(model.from_base)(params, z), x, atol=1e-4, rtol=1e-7)


def test_dropout_needs_a_key():
    flow = MaskedAutoregressive(num_steps=1, hidden_sizes=(32,), num_bins=None, dropout_rate=0.5)
    model = NormalizingFlow(2, flow)
    x = jnp.array([[0.3, -0.4]])
    params = jax.tree.map(lambda a: a + 0.1, model.init(jax.random.key(0), x))
    log_prob = jax.jit(model.log_prob)
    plain = log_prob(params, x)
    dropped = [log_prob(params, x, dropout_key=jax.random.key(k)) for k in range(2)]
    assert len({float(value[0]) for value in (plain, *dropped)}) == 3


def test_a_context_moves_the_density():
    model, params = built("affine", 2, conditioning=Covariates(1))
    x = jnp.array([[0.3, -0.4], [0.3, -0.4]])
    context = jnp.array([2.0])

    @jax.jit
    def measure(params, x):
        each = model.log_prob(params, x, context=jnp.array([[0.0], [2.0]]))
        alone = model.log_prob(params, x[0], context=context)
        z = model.to_base(params, x[0], context=context)
        return each, alone, model.from_base(params, z, context=context)

    each, alone, back = measure(params, x)
    assert each[0] != each[1]
    chex.assert_trees_all_close(alone, each[1], rtol=1e-5)
    chex.assert_trees_all_close(back, x[0], atol=1e-4, rtol=1e-7)


def test_what_does_not_fit_is_refused():
    model, params = built("affine", 2)
    with pytest.raises(ValueError, match="x must have"):
        model.log_prob(params, jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"vary in every column, got a deviation of 0\.0 in col"):
        standardized(params, np.array([[1.0, 2.0], [3.0, 2.0]]))
    with pytest.raises(ValueError, match="full rank, got 1 for 2 columns"):
        whitened(params, np.outer(np.arange(5.0), [1.0, 2.0]))
    normals = Mixture(num_components=2)
    for base in (MADE(2, 3), MADE(3, None, conditional=normals)):
        with pytest.raises(ValueError, match="base must be a model of 2 reals, got MADE"):
            NormalizingFlow(2, FLOWS["affine"], base=base).init(
                jax.random.key(0), jnp.zeros((1, 2))
            )
    with pytest.raises(ValueError, match="hidden_sizes must name at least one layer"):
        NormalizingFlow(2, MaskedAutoregressive(hidden_sizes=())).init(
            jax.random.key(0), jnp.zeros((1, 2))
        )
