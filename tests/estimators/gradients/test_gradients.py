"""Every estimator against the exact gradient.

Where the samples are the caller's to draw, they are the nodes of a rule or all there are, and the
estimate is exact. Where the estimator draws, it is within 4 errors, and a 1 % fault would be seen.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpy as np
import pytest

from jaxgen.core._quadrature import gauss_hermite
from jaxgen.estimators._gradients._measure_valued import (
    bernoulli_triples,
    categorical_triples,
    gamma_triples,
    gaussian_triples,
    measure_valued,
)
from jaxgen.estimators._gradients._pathwise import implicit, pathwise
from jaxgen.estimators._gradients._score_function import score_function

# --- problems: parameters, a function of them and of one sample, the exact expectation


def gaussian_value(params, x):
    direct = params["mean"][0] * jnp.sum(params["scale"])
    return jnp.sum(x**2) + jnp.sin(x[0] + x[1]) + direct


GAUSSIAN = {"mean": jnp.array([0.4, 0.9]), "scale": jnp.array([0.8, 1.1])}
BITS = {"logits": jnp.array([0.5, -1.0, 0.2])}
SYMBOLS = {"logits": jnp.array([[0.5, -0.7, 0.1], [0.0, 1.0, -0.4]])}
GAMMA = {"concentration": jnp.array([0.7, 2.5]), "rate": jnp.array([1.3, 0.8])}


def gaussian_nodes(params, num_nodes=40):
    rule = gauss_hermite(num_nodes)
    z = jnp.asarray(list(itertools.product(rule.nodes, rule.nodes)))
    x = params["mean"][None] + params["scale"][None] * z
    return x, jnp.asarray(np.outer(rule.weights, rule.weights).ravel())


def gaussian_exact(params):
    x, weights = gaussian_nodes(params)
    return weights @ jax.vmap(gaussian_value, (None, 0))(params, x)


def bits_value(params, x):
    jump = jnp.where(x[1] + x[2] > 1.5, 3.0, 0.0)
    return 2 * x[0] + x[0] * x[1] + jump + x[2] * params["logits"][0]


def bits_cases(params):
    x = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
    return x, jnp.exp(jax.vmap(bits_log_prob, (None, 0))(params, x))


def bits_exact(params):
    x, probabilities = bits_cases(params)
    return probabilities @ jax.vmap(bits_value, (None, 0))(params, x)


def bits_log_prob(params, x):
    return jnp.sum(x * params["logits"] - jax.nn.softplus(params["logits"]))


def draw_bits(key, params, num_samples):
    p = jnp.broadcast_to(jax.nn.sigmoid(params["logits"]), (num_samples, 3))
    return jax.random.bernoulli(key, p).astype(jnp.float32)


TABLE = np.array([[1.0, -2.0, 0.5], [-3.0, -2.0, 1.0], [3.0, 2.0, 5.0]], np.float32)


def symbols_value(params, x):
    return jnp.asarray(TABLE)[x[0], x[1]]


def symbols_exact(params):
    p = jax.nn.softmax(params["logits"])
    return p[0] @ jnp.asarray(TABLE) @ p[1]


def symbols_log_prob(params, x):
    log_p = jax.nn.log_softmax(params["logits"])
    return log_p[0, x[0]] + log_p[1, x[1]]


def symbols_cases(params):
    x = jnp.asarray(list(itertools.product(range(3), repeat=2)))
    return x, jnp.exp(jax.vmap(symbols_log_prob, (None, 0))(params, x))


def gamma_value(params, x):
    return 4 * jnp.sqrt(x[0]) + x[1] + x[0] * x[1]


def gamma_exact(params):
    a, b = params["concentration"], params["rate"]
    root = jnp.exp(jax.lax.lgamma(a[0] + 0.5) - jax.lax.lgamma(a[0])) / jnp.sqrt(b[0])
    return 4 * root + a[1] / b[1] + a[0] * a[1] / (b[0] * b[1])


def gamma_nodes(params):
    """Equal steps in log x, whose sums converge as those over a line do."""
    step = 0.4
    y = jnp.stack(
        jnp.broadcast_arrays(jnp.arange(-22.0, 4.5, step)[:, None], jnp.arange(-9.0, 4.5, step)),
        axis=-1,
    ).reshape(-1, 2)
    x = jnp.exp(y) / params["rate"][None]
    log_prob = jax.vmap(gamma_log_prob, (None, 0))(params, x)
    return x, step**2 * jnp.exp(log_prob) * jnp.prod(x, axis=-1)


def gamma_log_prob(params, x):
    a, b = params["concentration"], params["rate"]
    return jnp.sum(a * jnp.log(b) + (a - 1) * jnp.log(x) - b * x - jax.lax.lgamma(a))


def gaussian_log_prob(params, x):
    return jnp.sum(stats.norm.logpdf(x, params["mean"], params["scale"]))


def normals(key, num_samples):
    return jax.random.normal(key, (num_samples, 2))


RATE = {"rate": GAMMA["rate"]}


def with_concentration(fn):
    return lambda params, *x: fn({"concentration": GAMMA["concentration"], **params}, *x)


# --- samples that stand for their whole law


def weighed(value, weight):
    """The value, with its derivative times the weight."""
    return weight * value + jax.lax.stop_gradient((1 - weight) * value)


def with_weights(nodes_fn):
    """Nodes in place of draws, each with N times its weight."""

    def sample_fn(key, params, num_samples):
        x, weights = nodes_fn(params)
        assert len(x) == num_samples
        return x, num_samples * weights

    return sample_fn


def of_nodes(fn):
    return lambda params, x: weighed(fn(params, x[0]), x[1])


def scored(value_fn, nodes_fn, log_prob_fn, **options):
    def estimate(key, params):
        num_samples = len(nodes_fn(params)[0])
        draw = with_weights(nodes_fn)
        fns = of_nodes(value_fn), draw, of_nodes(log_prob_fn)
        return score_function(key, *fns, params, num_samples, **options)

    return estimate


def moved_by_cdf(value_fn, nodes_fn, cdf_fn):
    """The weight is a third coordinate, which no parameter moves."""

    def estimate(key, params):
        num_samples = len(nodes_fn(params)[0])

        def draw(key, params, num):
            x, weights = with_weights(nodes_fn)(key, params, num_samples)
            return jnp.concatenate([x, weights[:, None]], axis=1)[:num]

        return implicit(
            key,
            lambda params, x: weighed(value_fn(params, x[:2]), x[2]),
            draw,
            lambda params, x: jnp.append(cdf_fn(params, x[:2]), x[2]),
            params,
            num_samples,
            chunk_size=num_samples,
        )

    return estimate


def moved_along_path(key, params):
    standard = {"mean": jnp.zeros(2), "scale": jnp.ones(2)}
    z, weights = gaussian_nodes(standard)
    return pathwise(
        key,
        of_nodes(gaussian_value),
        lambda key, num_samples: (z[:num_samples], len(z) * weights[:num_samples]),
        lambda p, noise: (p["mean"] + p["scale"] * noise[0], noise[1]),
        params,
        len(z),
        chunk_size=len(z),
    )


EXACT = {
    "score_function/gaussian": (
        GAUSSIAN,
        gaussian_exact,
        scored(gaussian_value, gaussian_nodes, gaussian_log_prob, baseline=0.7),
    ),
    "pathwise/gaussian": (GAUSSIAN, gaussian_exact, moved_along_path),
    "implicit/gaussian": (
        GAUSSIAN,
        gaussian_exact,
        moved_by_cdf(
            gaussian_value,
            functools.partial(gaussian_nodes, num_nodes=24),
            lambda p, x: stats.norm.cdf(x, p["mean"], p["scale"]),
        ),
    ),
    "score_function/bits": (
        BITS,
        bits_exact,
        scored(bits_value, bits_cases, bits_log_prob, baseline=2.5),
    ),
    "score_function/symbols": (
        SYMBOLS,
        # Of K samples with their weights, what each is given of its own value is 1/K too much.
        lambda params: 9 / 8 * symbols_exact(params),
        scored(symbols_value, symbols_cases, symbols_log_prob),
    ),
    "score_function/gamma": (
        GAMMA,
        gamma_exact,
        scored(gamma_value, gamma_nodes, gamma_log_prob, baseline=0.0),
    ),
    "implicit/gamma": (
        GAMMA,
        gamma_exact,
        moved_by_cdf(
            gamma_value,
            gamma_nodes,
            lambda p, x: jax.scipy.special.gammainc(p["concentration"], p["rate"] * x),
        ),
    ),
}


def exact_gradient(exact_fn, params):
    with jax.enable_x64(True):
        point = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        return jax.tree.map(np.asarray, jax.jit(jax.grad(exact_fn))(point))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", EXACT)
def test_mean_is_the_exact_gradient(name, key):
    params, exact_fn, estimate_fn = EXACT[name]
    point = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    estimate = jax.jit(estimate_fn)(key, point)
    chex.assert_trees_all_close(estimate.value, exact_gradient(exact_fn, params), rtol=1e-5)


# --- samples that the estimator draws, or that have keys of their own

DRAWN = {
    "pathwise/keys": (
        GAUSSIAN,
        gaussian_exact,
        430_000,
        lambda key, params, n: pathwise(
            key,
            gaussian_value,
            jax.random.split,
            lambda p, key: p["mean"] + p["scale"] * jax.random.normal(key, (2,)),
            params,
            n,
        ),
    ),
    "measure_valued/gaussian": (
        GAUSSIAN,
        gaussian_exact,
        280_000,
        lambda key, params, n: measure_valued(key, gaussian_value, gaussian_triples, params, n),
    ),
    "measure_valued/bits": (
        BITS,
        bits_exact,
        190_000,
        lambda key, params, n: measure_valued(key, bits_value, bernoulli_triples, params, n),
    ),
    "measure_valued/symbols": (
        SYMBOLS,
        symbols_exact,
        640_000,
        lambda key, params, n: measure_valued(key, symbols_value, categorical_triples, params, n),
    ),
    "measure_valued/gamma": (
        RATE,
        with_concentration(gamma_exact),
        300_000,
        lambda key, params, n: measure_valued(
            key,
            with_concentration(gamma_value),
            gamma_triples(GAMMA["concentration"]),
            params,
            n,
        ),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_mean_agrees_with_the_exact_gradient_to_one_percent(name, key, request):
    if "gamma" in name:
        request.getfixturevalue("optimized")
    params, exact_fn, num_samples, estimate_fn = DRAWN[name]
    estimate = jax.jit(lambda key, params: estimate_fn(key, params, num_samples))(key, params)
    exact = exact_gradient(exact_fn, params)
    for leaf in params:
        off = np.abs(np.asarray(estimate.value[leaf], np.float64) - exact[leaf])
        error = np.asarray(estimate.standard_error[leaf])
        assert np.all(off < 4 * error), f"{leaf}: {off / error} standard errors away"
        seen = 4 * error / np.abs(exact[leaf])
        assert np.all(seen < 0.01), f"{leaf}: a fault of {seen} would pass"


@pytest.mark.parametrize("baseline", ["leave_one_out", 0.0])
def test_stated_error_of_the_score_function_is_its_spread(baseline, key):
    @jax.jit
    @jax.vmap
    def run(key):
        return score_function(
            key, bits_value, draw_bits, bits_log_prob, BITS, 200, baseline=baseline
        )

    estimate = run(jax.random.split(key, 4000))
    spread = np.std(np.asarray(estimate.value["logits"]), axis=0)
    stated = np.sqrt(np.mean(np.asarray(estimate.standard_error["logits"]) ** 2, axis=0))
    chex.assert_trees_all_close(stated, spread, rtol=0.05)


def test_leave_one_out_removes_what_all_samples_share(key):
    def shifted(params, x):
        return bits_value(params, x) + 1000.0

    @jax.jit
    def both(keys):
        fns = shifted, draw_bits, bits_log_prob
        without = score_function(keys[1], *fns, BITS, 1000, baseline=0.0)
        return score_function(keys[0], *fns, BITS, 1000), without

    with_baseline, without = both(jax.random.split(key))
    ratio = without.standard_error["logits"] / with_baseline.standard_error["logits"]
    assert np.all(ratio > 100)


def test_measure_valued_terms_vanish_where_the_function_is_constant(key):
    estimate = measure_valued(key, lambda p, x: 3.0 + 0 * x[0], gaussian_triples, GAUSSIAN, 100)
    chex.assert_trees_all_equal(estimate.value["mean"], 0.0)
    chex.assert_trees_all_equal(estimate.standard_error["scale"], 0.0)


def test_implicit_gradient_follows_a_chain_of_conditionals(key):
    """E[x0² + x0 x1] is s² (1 + a) for x0 ~ N(0, s²), x1 | x0 ~ N(a x0, 1)."""

    def draw(key, params, num_samples):
        z = jax.random.normal(key, (num_samples, 2))
        x0 = params["s"] * z[:, 0]
        return jnp.stack([x0, params["a"] * x0 + z[:, 1]], axis=1)

    def conditional_cdfs(params, x):
        return jnp.stack(
            [stats.norm.cdf(x[0] / params["s"]), stats.norm.cdf(x[1] - params["a"] * x[0])]
        )

    params = {"a": jnp.array(0.7), "s": jnp.array(1.3)}

    @jax.jit
    def estimated(key):
        value = lambda _, x: x[0] ** 2 + x[0] * x[1]  # noqa: E731
        return implicit(key, value, draw, conditional_cdfs, params, 400_000)

    estimate = estimated(key)
    for name, exact in {"a": 1.3**2, "s": 2 * 1.3 * 1.7}.items():
        error = estimate.standard_error[name]
        assert abs(estimate.value[name] - exact) < 4 * error < 0.01 * exact


def test_result_is_like_the_parameters_under_jit(key):
    estimate = jax.jit(
        lambda key, params: pathwise(
            key, gaussian_value, normals, lambda p, z: p["mean"] + p["scale"] * z, params, 10
        )
    )(key, GAUSSIAN)
    for tree in (estimate.value, estimate.standard_error):
        assert jax.tree.map(jnp.shape, tree) == {"mean": (2,), "scale": (2,)}
    assert estimate.num_samples == 10
