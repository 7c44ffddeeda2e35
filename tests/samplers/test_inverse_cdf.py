import dataclasses

import chex
import hypothesis
import hypothesis.strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats as st

from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._inverse_cdf._table import InverseCDF
from jaxgen.samplers._random_bits import random_bits

INF = float("inf")
LINE, HALF = (-INF, INF), (0.0, INF)


def normal(params, x):
    loc, scale = params
    return -0.5 * ((x - loc) / scale) ** 2


def gamma(shape, x):
    return (shape - 1) * jnp.log(x) - x


def mixture(params, x):
    log_weights = jax.nn.log_softmax(params["logits"])
    z = (x - params["means"]) / params["scales"]
    return jax.nn.logsumexp(log_weights - jnp.log(params["scales"]) - 0.5 * z**2)


MIXTURE = {
    "logits": jnp.array([0.0, 0.0]),
    "means": jnp.array([-2.5, 2.5]),
    "scales": jnp.array([1.0, 1.0]),
}


@pytest.fixture(scope="module")
def table():
    return inverse_cdf(normal, (0.5, 2.0), support=LINE)


build_gamma = jax.jit(lambda shape: inverse_cdf(gamma, shape, support=HALF))
draw = jax.jit(InverseCDF.sample, static_argnums=2)


# The functions of a table


def test_quantile_inverts_cdf(table):
    u = np.linspace(0.001, 0.999, 997, dtype=np.float32)
    x = table.quantile(u)
    chex.assert_trees_all_close(x, st.norm.ppf(u, 0.5, 2), atol=2e-6, rtol=1e-7)
    chex.assert_trees_all_close(table.cdf(x), u, atol=3e-7, rtol=1e-7)


def test_tail_mass_inverts_tail_quantile_far_out(table):
    v = jnp.array([1e-18, 1e-12, 1e-6, 0.3])
    for is_upper in (False, True):
        side, mass = table.tail_mass(table.tail_quantile(is_upper, v))
        assert (side == is_upper).all()
        chex.assert_trees_all_close(mass, v, rtol=4e-5)


def test_log_prob_is_normalized_and_minus_infinity_outside(table):
    x = np.linspace(-9, 9, 7, dtype=np.float32)
    chex.assert_trees_all_close(table.log_prob(x), st.norm.logpdf(x, 0.5, 2), rtol=1e-5, atol=1e-6)
    gamma_table = inverse_cdf(gamma, 2.5, support=HALF)
    assert gamma_table.log_prob(jnp.array(-1.0)) == -INF


def test_quantile_at_and_beyond_the_ends():
    table = inverse_cdf(normal, (0.0, 1.0), support=(-1.0, INF))
    u = jnp.array([0.0, 1.0, -0.1, 1.1, jnp.nan])
    chex.assert_trees_all_equal(table.quantile(u), np.array([-1.0, INF, np.nan, np.nan, np.nan]))


def test_tail_offset_resolves_what_x_cannot():
    table = inverse_cdf(normal, (1.0, 1e-8), support=LINE)
    offset = table.tail_offset(False, jnp.array([0.1, 0.2]))
    chex.assert_trees_all_close(offset * 1e8, st.norm.ppf([0.1, 0.2]), rtol=1e-5)


def test_distribution_of_a_table(table, key):
    distribution = table.as_distribution()
    x, log_prob = distribution.sample_and_log_prob(seed=key, sample_shape=(3, 2))
    assert x.shape == (3, 2)
    chex.assert_trees_all_equal(log_prob, table.log_prob(x))
    chex.assert_trees_all_equal(distribution.cdf(x), table.cdf(x))


def test_a_distribution_is_a_pytree_with_gradients():
    def log_prob(distribution, x):
        return distribution.log_prob(x)

    def log_prob_of_shape(shape):
        return jax.jit(log_prob)(build_gamma(shape).as_distribution(), jnp.float32(2.0))

    step = 1e-3
    exact = (st.gamma.logpdf(2.0, 2.5 + step) - st.gamma.logpdf(2.0, 2.5 - step)) / (2 * step)
    chex.assert_trees_all_close(jax.grad(log_prob_of_shape)(2.5), exact, rtol=1e-3)


# Draws


def test_a_draw_is_the_quantile_of_its_word(table, key):
    words = np.asarray(random_bits(jax.random.clone(key), (1000,)), np.uint64)
    v = ((words & 0x7FFFFFFF).astype(np.float64) + 0.5) / 2.0**32
    expected = table.tail_quantile(words >= 2**31, v.astype(np.float32))
    chex.assert_trees_all_close(draw(table, key, (1000,)), expected, rtol=1e-5, atol=1e-6)


def test_draws_follow_the_density_and_a_shift_of_2e_minus_3_is_seen(table, key):
    samples = np.asarray(draw(table, key, (2**22,)))
    law = st.norm(0.5, 2)
    grid = law.ppf(np.linspace(0, 1, 2**15 + 1)[1:-1])
    below = np.searchsorted(np.sort(samples), grid) / samples.size
    band = sampling_checks.dkw_band(samples.size)
    assert np.max(np.abs(below - law.cdf(grid))) <= band
    assert np.max(np.abs(below - law.cdf(grid - 2e-3 / law.pdf(0.5)))) > band


def test_draws_reach_the_tails(table, key):
    samples = np.asarray(draw(table, key, (2**22,)), np.float64)
    edges = st.norm.isf([2.0**-8, 2.0**-12, 2.0**-16, 2.0**-20], 0.5, 2)
    for tail in (samples, 1 - samples):
        counts = np.diff([0, *[(tail > edge).sum() for edge in edges[::-1]], samples.size])
        masses = np.diff([0, 2.0**-20, 2.0**-16, 2.0**-12, 2.0**-8, 1])
        sampling_checks.assert_frequencies(counts, masses)


def test_float64_draws_use_float64(x64, key):
    table = inverse_cdf(normal, (0.0, 1.0), support=LINE)
    samples = table.sample(key, (2**16,))
    assert samples.dtype == jnp.float64
    sampling_checks.assert_distribution(samples, st.norm.cdf)


# Gradients


def test_gradient_of_a_mixture_mean_reaches_its_logits(key):
    def mean(params):
        table = inverse_cdf(mixture, params, support=LINE)
        v = (jnp.arange(4096) + 0.5) / 8192
        tails = [table.tail_quantile(is_upper, v).mean() for is_upper in (False, True)]
        return (tails[0] + tails[1]) / 2, table.u_error

    gradient, u_error = jax.jit(jax.grad(mean, has_aux=True))(MIXTURE)
    assert u_error < 1e-5
    chex.assert_trees_all_close(gradient["logits"], np.array([-1.25, 1.25]), atol=1e-4, rtol=1e-7)
    chex.assert_trees_all_close(gradient["means"], np.array([0.5, 0.5]), atol=1e-4, rtol=1e-7)
    chex.assert_trees_all_close(gradient["scales"], np.array([0.0, 0.0]), atol=1e-4, rtol=1e-7)


def test_sampled_gradient_is_within_its_standard_error(key):
    def draws(shape):
        return build_gamma(shape).sample(key, (2**16,)) ** 2

    _, slopes = jax.jvp(draws, (jnp.float32(2.5),), (jnp.float32(1.0),))
    sampling_checks.assert_mean(slopes, 2 * 2.5 + 1)  # E[x²] = a (a + 1)


@jax.jit
def quantile_slopes(shape, u):
    """Derivatives of quantiles in the shape of a gamma distribution."""
    return jax.jvp(lambda a: build_gamma(a).quantile(u), (shape,), (jnp.ones_like(shape),))[1]


@pytest.mark.parametrize("shape", [0.5, 3.0])
def test_quantile_gradient_agrees_with_finite_differences(shape):
    u = np.array([0.02, 0.3, 0.5, 0.8, 0.99])
    step = 1e-4
    exact = (st.gamma.ppf(u, shape + step) - st.gamma.ppf(u, shape - step)) / (2 * step)
    slopes = quantile_slopes(jnp.float32(shape), jnp.float32(u))
    chex.assert_trees_all_close(slopes, exact, rtol=2e-4, atol=1e-5)


def test_quantile_gradient_in_u_is_one_over_the_density(table):
    u = jnp.array([0.01, 0.3, 0.6, 0.97])
    slopes = jax.vmap(jax.grad(lambda u: table.quantile(u)))(u)
    density = np.exp(table.log_prob(table.quantile(u)))
    chex.assert_trees_all_close(slopes * density, 1.0, rtol=1e-3)


def test_a_moving_edge_gives_nan_and_not_a_quiet_zero():
    def mean(width):
        log_prob_fn = lambda w, x: jnp.where(x < w, 0.0, -jnp.inf)  # noqa: E731
        return inverse_cdf(log_prob_fn, width, support=(0.0, 2.0)).quantile(0.5)

    value, gradient = jax.jit(jax.value_and_grad(mean))(1.0)
    assert abs(value - 0.5) < 1e-5
    assert np.isnan(gradient)


# Transformations


def test_a_traced_table_agrees_with_an_eager_one():
    traced, eager = build_gamma(2.5), inverse_cdf(gamma, 2.5, support=HALF)
    u = jnp.linspace(0.01, 0.99, 50)
    assert traced.u_error < 2e-6
    chex.assert_trees_all_close(traced.log_normalizer, eager.log_normalizer, atol=1e-5, rtol=1e-7)
    chex.assert_trees_all_close(traced.quantile(u), eager.quantile(u), rtol=1e-4)


def test_many_tables_at_once_agree_with_one_by_one():
    shapes = jnp.array([0.5, 1.0, 4.0])
    tables = jax.jit(jax.vmap(build_gamma))(shapes)
    u = jnp.linspace(0.01, 0.99, 50)
    many = jax.vmap(lambda table: table.quantile(u))(tables)
    one = jnp.stack([build_gamma(shape).quantile(u) for shape in shapes])
    chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-6)
    x = jnp.array([0.3, 1.0, 5.0])
    log_prob = jax.vmap(InverseCDF.log_prob)(tables, x)
    chex.assert_trees_all_close(log_prob, st.gamma.logpdf(x, np.asarray(shapes)), rtol=1e-4)


@hypothesis.given(
    loc=hypothesis.strategies.floats(-1e6, 1e6),
    log_scale=hypothesis.strategies.floats(-6, 6),
    cut=hypothesis.strategies.floats(-4, 4),
)
@hypothesis.settings(max_examples=12)
def test_any_location_scale_and_truncation(loc, log_scale, cut):
    scale = 10.0**log_scale * max(1.0, abs(loc))
    lower = loc + cut * scale
    hypothesis.assume(lower < loc + (cut + 1) * scale)
    table = inverse_cdf(normal, (loc, scale), support=(lower, INF))
    v = jnp.array([1e-6, 0.01, 0.2, 0.5])
    for is_upper, ppf in ((False, st.truncnorm.ppf), (True, st.truncnorm.isf)):
        offset = np.asarray(table.tail_offset(is_upper, v), np.float64)
        exact = ppf(np.asarray(v, np.float64), (lower - loc) / scale, np.inf) * scale + loc - lower
        chex.assert_trees_all_close(offset, exact, rtol=1e-5, atol=1e-6 * scale)


# Refusals


def constant(value, x):
    return value + 0 * x


def power(params, x):
    value, exponent = params
    return value + exponent * jnp.log(x)


@pytest.mark.parametrize(
    ("log_prob_fn", "params", "support", "message"),
    [
        (power, (-INF, 0.0), (0.0, 1.0), "no mass"),
        (power, (np.nan, 0.0), (0.0, 1.0), "NaN"),
        (constant, 0.0, LINE, "infinite mass"),
        (power, (0.0, -1.0), (0.0, 1.0), "infinite mass"),
        (power, (0.0, -1.2), (0.0, 1.0), "infinite mass"),
        (lambda p, x: jnp.stack([x, x]), 0.0, (0.0, 1.0), "must return a scalar"),
        (constant, 0.0, (1.0, 1.0), "lower < upper"),
        (constant, 0.0, (0.0, np.nan), "lower < upper"),
        (constant, 0.0, (0.0,), "two concrete numbers"),
        (power, (0.0, -0.99), (0.0, 1.0), "u-error reached"),
    ],
)
def test_what_cannot_be_met_is_refused(log_prob_fn, params, support, message):
    with pytest.raises(ValueError, match=message):
        inverse_cdf(log_prob_fn, params, support=support)


def test_an_integer_log_density_is_refused():
    with pytest.raises(TypeError, match="floating-point"):
        inverse_cdf(lambda _, x: x.astype(int), None, support=(0.0, 1.0))


def test_an_accuracy_out_of_reach_is_refused_with_the_error_reached():
    with pytest.raises(ValueError, match=r"max_u_error is 1e-12, but the u-error reached is \d"):
        inverse_cdf(gamma, 2.5, support=HALF, max_u_error=1e-12)


def test_under_a_trace_trouble_shows_in_the_u_error():
    build = jax.jit(lambda p: inverse_cdf(power, (0.0, p), support=(0.0, 1.0)).u_error)
    assert build(-0.5) < 1e-5
    for exponent in (-1.0, -1.2, np.nan):
        assert not np.isfinite(build(exponent))


def test_a_density_that_was_seen_compiles_nothing_for_other_parameters():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name.endswith("backend_compile_duration"))
    )

    def half_normal(scale, x):
        return -0.5 * (x / scale) ** 2

    try:
        inverse_cdf(half_normal, 1.0, support=HALF)
        assert any(compiled)
        compiled.clear()
        for scale in (2.0, 1e3):
            inverse_cdf(half_normal, scale, support=HALF)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not any(compiled)


def test_tables_are_pytrees(table):
    leaves, structure = jax.tree.flatten(table)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert dataclasses.asdict(jax.tree.unflatten(structure, leaves))["num_levels"] == 0
