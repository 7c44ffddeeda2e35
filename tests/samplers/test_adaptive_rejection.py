import dataclasses
import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._adaptive_rejection import adaptive_rejection
from jaxgen.samplers._rejection import rejection, rejection_expectation
from jaxgen.samplers._uniform import scrambled_sobol

INF = math.inf


def gamma_log_prob(shape, x):
    return (shape - 1) * jnp.log(x) - x


def normal_log_prob(params, x):
    return -0.5 * ((x - params[0]) / params[1]) ** 2


def cauchy_log_prob(_, x):
    return -jnp.log1p(x**2)


def gumbel_log_prob(_, x):
    return -x - jnp.exp(-x)


def flat_log_prob(_, x):
    return 0.0 * x


def beta_log_prob(_, x):
    return jnp.log(x) + 2 * jnp.log1p(-x)


# density, parameters, build arguments, exact distribution, log-normalizer
CASES = {
    "normal": (normal_log_prob, (0.0, 1.0), {}, scipy.stats.norm(), 0.5 * math.log(2 * math.pi)),
    "truncated": (
        normal_log_prob,
        (0.0, 1.0),
        {"support": (3.0, INF)},
        scipy.stats.truncnorm(3, INF),
        0.5 * math.log(2 * math.pi) + scipy.stats.norm.logsf(3),
    ),
    "gamma": (
        gamma_log_prob,
        2.0,
        {"support": (0.0, INF)},
        scipy.stats.gamma(2),
        0.0,
    ),
    "beta": (
        beta_log_prob,
        None,
        {"support": (0.0, 1.0)},
        scipy.stats.beta(2, 3),
        -math.log(12),
    ),
    "flat": (flat_log_prob, None, {"support": (0.0, 1.0)}, scipy.stats.uniform(), 0.0),
    "gumbel": (gumbel_log_prob, None, {}, scipy.stats.gumbel_r(), 0.0),
    "cauchy": (
        cauchy_log_prob,
        None,
        {"transform": "inverse_sqrt"},
        scipy.stats.cauchy(),
        math.log(math.pi),
    ),
}


@functools.cache
def hull_of(name):
    log_prob_fn, params, arguments, _, _ = CASES[name]
    return adaptive_rejection(log_prob_fn, params, **arguments)


@pytest.mark.parametrize("name", CASES)
def test_the_envelope_is_tight_and_lies_above_the_density(name):
    log_prob_fn, params, _, exact, log_normalizer = CASES[name]
    hull = hull_of(name)
    acceptance = math.exp(log_normalizer - float(hull.log_bound))
    assert 0.95 < acceptance < 1 + 1e-5
    x = jnp.asarray(exact.ppf(np.linspace(1e-6, 1 - 1e-6, 1001)), jnp.float32)
    envelope = hull.proposal()

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def height_above(tangents, x):
        return envelope.log_prob_fn(tangents, x) + hull.log_bound - log_prob_fn(params, x)

    assert jnp.all(height_above(envelope.params, x) >= -1e-3)


@pytest.mark.parametrize("name", ["gamma", "cauchy"])
def test_the_proposal_draws_from_the_density_it_states(name, key):
    """Its mean density ratio to the target, under its own draws, is the target's normalizer."""
    log_prob_fn, params, _, _, log_normalizer = CASES[name]
    hull = hull_of(name)
    envelope = hull.proposal()
    u = scrambled_sobol(key, 2**15, 2)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def log_ratio(tangents, u):
        x = envelope.transform_fn(tangents, u)
        return log_prob_fn(params, x) - envelope.log_prob_fn(tangents, x)

    mean = jnp.mean(jnp.exp(log_ratio(envelope.params, u) - log_normalizer))
    np.testing.assert_allclose(mean, 1, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_samples_follow_the_density(name, key):
    *_, exact, _ = CASES[name]
    drawn = hull_of(name).sample(key, (50_000,))
    assert not drawn.bound_exceeded
    assert jnp.all(drawn.accepted)
    assert drawn.acceptance_rate > 0.95
    sampling_checks.assert_distribution(drawn.samples, exact.cdf)


def test_a_hull_remembers_what_made_it(key):
    """Its tangents mean nothing under another transform, so its proposal takes no other."""
    hull = hull_of("cauchy")
    assert hull.transform == "inverse_sqrt"
    with pytest.raises(TypeError):
        hull.proposal("log")
    drawn = rejection(key, cauchy_log_prob, None, hull.proposal(), hull.log_bound, (1000,))
    same = hull.sample(jax.random.clone(key), (1000,))
    np.testing.assert_array_equal(drawn.samples, same.samples)
    misread = dataclasses.replace(hull, transform="log").sample(jax.random.key(1), (1000,))
    assert misread.bound_exceeded


def test_hulls_pass_through_transformations_whole(key):
    shapes = jnp.array([1.5, 4.0])
    build = functools.partial(adaptive_rejection, gamma_log_prob, support=(0.0, INF))
    hulls = jax.jit(jax.vmap(functools.partial(build, transform="inverse_sqrt")))(shapes)
    assert hulls.transform == "inverse_sqrt"
    keys = jax.random.split(key, 2)
    drawn = jax.jit(jax.vmap(lambda hull, k: hull.sample(k, (20_000,))))(hulls, keys)
    for samples, shape in zip(drawn.samples, shapes, strict=True):
        sampling_checks.assert_distribution(samples, scipy.stats.gamma(float(shape)).cdf)


def test_a_scale_off_by_a_tenth_is_seen(key):
    drawn = adaptive_rejection(normal_log_prob, (0.0, 1.1)).sample(key, (50_000,))
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


def bimodal_log_prob(distance, x):
    return jnp.logaddexp(-0.5 * (x - distance) ** 2, -0.5 * (x + distance) ** 2)


@pytest.mark.parametrize(
    ("log_prob_fn", "params", "arguments"),
    [
        (bimodal_log_prob, 1.5, {}),
        (bimodal_log_prob, 4.0, {"transform": "inverse_sqrt"}),
        (cauchy_log_prob, None, {}),
        (gamma_log_prob, 0.5, {"support": (0.0, INF)}),
        (lambda _, x: x * jnp.nan, None, {}),
    ],
)
def test_a_density_that_is_not_concave_is_refused(log_prob_fn, params, arguments):
    with pytest.raises(ValueError, match="log_prob_fn must be concave"):
        adaptive_rejection(log_prob_fn, params, **arguments)


def test_inside_a_trace_the_result_says_that_it_is_not_concave(key):
    build = jax.jit(lambda d: adaptive_rejection(bimodal_log_prob, d))
    assert not build(1.5).is_concave
    assert build(1.5).sample(key, (64,)).bound_exceeded
    assert build(0.9).is_concave  # one mode up to a distance of 1
    assert not build(0.9).sample(jax.random.key(1), (64,)).bound_exceeded


def test_vmap_over_parameters_equals_a_loop(key):
    shapes = jnp.array([1.0, 2.5, 40.0])
    keys = jax.random.split(key, 3)
    build = functools.partial(adaptive_rejection, gamma_log_prob, support=(0.0, INF))
    draw = jax.jit(lambda k, s: build(s).sample(k, (500,)))
    mapped = jax.vmap(draw)(jax.random.clone(keys), shapes)
    assert not jnp.any(mapped.bound_exceeded)
    loop = [draw(k, s).samples for k, s in zip(jax.random.clone(keys), shapes, strict=True)]
    # The mode's last bits differ with the order of operations; draws move with them.
    np.testing.assert_allclose(mapped.samples, jnp.stack(loop), rtol=2e-3, atol=1e-4)


fitted = jax.jit(lambda k, p: adaptive_rejection(normal_log_prob, p).sample(k, (4000,)))


@hypothesis.given(location=st.floats(-1e4, 1e4), log_scale=st.floats(-3, 5))
@hypothesis.settings(max_examples=15)
def test_any_location_and_scale_is_found(location, log_scale):
    scale = float(np.float32(math.exp(log_scale)))
    location = float(np.float32(location))
    drawn = fitted(jax.random.key(1), (location, scale))
    assert not drawn.bound_exceeded
    z = (np.asarray(drawn.samples, np.float64) - location) / scale
    sampling_checks.assert_distribution(z, scipy.stats.norm.cdf)


def test_the_hull_serves_expectations_with_gradients(key):
    """d E[x] / d shape of a gamma is 1, through the accepted draws of a fixed hull."""
    hull = adaptive_rejection(gamma_log_prob, 2.0, support=(0.0, INF))

    def mean(shape, key):
        found = rejection_expectation(
            key,
            lambda _, x: x,
            gamma_log_prob,
            shape,
            hull.proposal(),
            hull.log_bound,
            num_samples=64,
        )
        return found.estimate.value

    keys = jax.random.split(key, 400)
    gradients = jax.jit(jax.vmap(jax.grad(mean), (None, 0)))(2.0, keys)
    sampling_checks.assert_mean(gradients, 1.0)
    build = functools.partial(adaptive_rejection, gamma_log_prob, support=(0.0, INF))
    with pytest.raises(TypeError, match="no gradient"):
        jax.grad(lambda shape: build(shape).sample(keys[0]).samples)(2.0)


def test_float64_is_kept(x64, key):
    drawn = adaptive_rejection(normal_log_prob, (0.0, 1.0)).sample(key, (10,))
    assert drawn.samples.dtype == jnp.float64


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="num_points must be at least 4"):
        adaptive_rejection(normal_log_prob, (0.0, 1.0), num_points=3)
    with pytest.raises(ValueError, match="transform must be one of log, inverse_sqrt"):
        adaptive_rejection(normal_log_prob, (0.0, 1.0), transform="sqrt")
