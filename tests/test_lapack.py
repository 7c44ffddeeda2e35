"""No function asks for two batched solves at once: on jax 0.10 they can wait for each other.

A batched LAPACK call on a CPU is split over the threads that programs run on, and holds one of them
until its parts are done; as many such calls at once as there are threads leave none for the parts.
"""

import itertools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg

KEY = jax.random.key(0)
BATCH = 5
LINEAR = jg.models.LinearGaussian()
PARAMS = jg.models.LinearGaussianParams(
    loadings=jnp.ones((3, 2)),
    log_noise=jnp.zeros(()),
    posterior_weights=jnp.ones((2, 3)),
    posterior_factor=jnp.eye(2),
)
X = jnp.ones((BATCH, 3))
MIXTURE = jg.models.GaussianMixture(jnp.zeros(2), jnp.ones((2, 3)), jnp.stack([jnp.eye(3)] * 2))
RULE = jg.gauss_legendre(0.0, 1.0, 8)
SCALES = jnp.arange(1.0, 4.0)


def negative_bound(params):
    bound = jg.iwae(KEY, LINEAR, params, X, num_samples=4)
    return -jnp.mean(getattr(bound, "value", bound))


def gradient_of_two_normals(params):
    """Samples of two coordinates, whose distribution functions make a system for each sample."""
    return jg.estimators.implicit(
        KEY,
        lambda p, x: jnp.sum(x**2),
        lambda key, p, n: p[None] * jax.random.normal(key, (n, 2)),
        lambda p, x: jax.scipy.stats.norm.cdf(x / p),
        params,
        16,
    ).value


def flattest(moment):
    return jg.estimators.minimize_functional(
        lambda x, p: p * jnp.log(p), lambda x: jnp.stack([x]), moment[None], RULE
    ).density


def controlled(values):
    return jg.estimators.control_variates(values[:, 0], values[:, 1:], jnp.zeros(2)).estimate


FUNCTIONS = {
    "linear_gaussian_log_prob": (lambda p: LINEAR.log_prob(p, X), PARAMS),
    "linear_gaussian_importance": (
        lambda p: jg.objectives.importance_log_prob(KEY, LINEAR, p, X, num_samples=50),
        PARAMS,
    ),
    "linear_gaussian_elbo": (lambda p: jg.elbo(KEY, LINEAR, p, X), PARAMS),
    "linear_gaussian_iwae_gradient": (jax.grad(negative_bound), PARAMS),
    "linear_gaussian_diagnose": (lambda p: jg.objectives.diagnose(KEY, LINEAR, p, X), PARAMS),
    "linear_gaussian_gaps": (
        lambda p: jg.objectives.inference_gaps(KEY, LINEAR, p, X, num_steps=2, num_samples=4),
        PARAMS,
    ),
    "exact_posterior": (LINEAR.exact_posterior, PARAMS),
    "mixture_log_prob": (lambda m: m.log_prob(X), MIXTURE),
    "mixture_gradient": (jax.grad(lambda m: jnp.mean(m.log_prob(X))), MIXTURE),
    "mixture_em_step": (lambda m: m.em_step(X), MIXTURE),
    "implicit": (gradient_of_two_normals, jnp.ones(2)),
    "many_implicit": (jax.vmap(gradient_of_two_normals), jnp.ones((BATCH, 2))),
    "many_functionals": (jax.vmap(flattest), SCALES / 8),
    "many_controls": (jax.vmap(controlled), jnp.ones((BATCH, 8, 3))),
    "many_bounds": (
        jax.vmap(
            lambda a: jg.estimators.cramer_rao_bound(a * jnp.eye(2), jnp.eye(2), num_samples=9)
        ),
        SCALES,
    ),
}


def side_by_side(function, *args):
    """The names of two batched LAPACK calls of which neither waits for the other, if any."""
    module = jax.jit(function).lower(*args).compiler_ir("stablehlo")
    functions = {op.attributes["sym_name"].value: op for op in module.body.operations}
    return _unordered(functions["main"].regions[0].blocks[0], functions)


def _unordered(block, functions):
    waits_for = {}  # of each operation: itself and all that it takes results from, directly or not
    calls = []
    for op in block.operations:
        owners = {owner for value in _values(op) if (owner := value.owner) in waits_for}
        waits_for[op.operation] = {op.operation}.union(*(waits_for[owner] for owner in owners))
        name = _batched_call(op, functions)
        if name is None:
            continue
        inside = [_unordered(inner, functions) for inner in _blocks(op, functions)]
        if found := next((pair for pair in inside if pair), None):
            return found
        calls.append((op.operation, name))
    for (first, a), (second, b) in itertools.combinations(calls, 2):
        if first not in waits_for[second]:
            return a, b
    return None


def _values(op):
    """All that an operation reads, inside its regions too."""
    yield from op.operands
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _values(inner)


def _blocks(op, functions):
    """The blocks that an operation runs: its regions', or those of the function it calls."""
    callee = functions[op.attributes["callee"].value] if op.operation.name == "func.call" else op
    return [block for region in callee.regions for block in region.blocks]


def _batched_call(op, functions):
    """The name of a batched LAPACK call that running the operation makes, or None."""
    if op.operation.name == "stablehlo.custom_call":
        target = op.attributes["call_target_name"].value
        is_batched = any(len(value.type.shape) > 2 for value in op.operands)
        return target if target.startswith("lapack_") and is_batched else None
    inner = (op for block in _blocks(op, functions) for op in block.operations)
    return next((name for op in inner if (name := _batched_call(op, functions))), None)


@pytest.mark.usefixtures("distrax_broadcasting")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_batched_solves_come_one_after_another(name):
    function, *args = FUNCTIONS[name]
    with jax.debug_key_reuse(False):
        assert side_by_side(function, *args) is None


class CopiedFactor(jg.models.LinearGaussian):
    """Its posterior holds a copy of the one factor for each data point."""

    def posterior(self, params, x, *, context=None):
        factor = jnp.broadcast_to(params.posterior_factor, (len(x), *params.posterior_factor.shape))
        return distrax.MultivariateNormalTri(x @ params.posterior_weights.T, factor)


@pytest.mark.usefixtures("distrax_broadcasting")
def test_a_copied_factor_is_caught():
    def diagnosed(params):
        return jg.objectives.diagnose(jax.random.clone(KEY), CopiedFactor(), params, X)

    assert side_by_side(diagnosed, PARAMS) == ("lapack_strsm_ffi",) * 2


def solve(a, b):
    return jax.scipy.linalg.solve_triangular(a, b, lower=True)


MATRICES, COLUMNS = np.stack([np.eye(3, dtype=np.float32)] * 4), np.ones((4, 3, 1), np.float32)


def test_two_independent_solves_are_seen():
    both = lambda a, b: solve(a, b) + solve(a, 2 * b)  # noqa: E731
    assert side_by_side(both, MATRICES, COLUMNS) == ("lapack_strsm_ffi",) * 2
    again = lambda a, b: jax.lax.fori_loop(0, 3, lambda _, b: both(a, b), b)  # noqa: E731
    assert side_by_side(again, MATRICES, COLUMNS) == ("lapack_strsm_ffi",) * 2


def test_a_chain_of_solves_and_single_ones_are_not():
    assert side_by_side(lambda a, b: solve(a, solve(a, b)), MATRICES, COLUMNS) is None
    one_by_one = lambda a, b: [solve(x, y) for x, y in zip(a, b, strict=True)]  # noqa: E731
    assert side_by_side(one_by_one, MATRICES, COLUMNS) is None
