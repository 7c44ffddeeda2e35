import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers import _adaptive_rejection
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


def bimodal_log_prob(distance, x):
    return jnp.logaddexp(-0.5 * (x - distance) ** 2, -0.5 * (x + distance) ** 2)


class Case(NamedTuple):
    log_prob: Callable
    arguments: dict
    exact: Any  # SciPy's distribution; None of what is not concave
    log_normalizer: float = math.nan


CASES = {
    "normal": Case(
        functools.partial(normal_log_prob, (0.0, 1.0)),
        {},
        scipy.stats.norm(),
        0.5 * math.log(2 * math.pi),
    ),
    "truncated": Case(
        functools.partial(normal_log_prob, (0.0, 1.0)),
        {"support": (3.0, INF)},
        scipy.stats.truncnorm(3, INF),
        0.5 * math.log(2 * math.pi) + scipy.stats.norm.logsf(3),
    ),
    "gamma": Case(
        functools.partial(gamma_log_prob, 2.0), {"support": (0.0, INF)}, scipy.stats.gamma(2), 0.0
    ),
    "beta": Case(
        functools.partial(beta_log_prob, None),
        {"support": (0.0, 1.0)},
        scipy.stats.beta(2, 3),
        -math.log(12),
    ),
    "flat": Case(
        functools.partial(flat_log_prob, None), {"support": (0.0, 1.0)}, scipy.stats.uniform(), 0.0
    ),
    "gumbel": Case(functools.partial(gumbel_log_prob, None), {}, scipy.stats.gumbel_r(), 0.0),
    "cauchy": Case(
        functools.partial(cauchy_log_prob, None),
        {"transform": "inverse_sqrt"},
        scipy.stats.cauchy(),
        math.log(math.pi),
    ),
}
NOT_CONCAVE = {
    "two modes": Case(functools.partial(bimodal_log_prob, 1.5), {}, None),
    "far modes": Case(
        functools.partial(bimodal_log_prob, 4.0), {"transform": "inverse_sqrt"}, None
    ),
    "cauchy by its log": Case(functools.partial(cauchy_log_prob, None), {}, None),
    "gamma 1/2": Case(functools.partial(gamma_log_prob, 0.5), {"support": (0.0, INF)}, None),
    "NaN": Case(lambda x: x * jnp.nan, {}, None),
}
NUMBERED = {**CASES, **NOT_CONCAVE}
INDEX = {name: index for index, name in enumerate(NUMBERED)}


def any_log_prob(index, x):
    """All densities as one function of their index, so that hulls of all compile once."""
    return jax.lax.switch(index, [case.log_prob for case in NUMBERED.values()], x)


@functools.cache
def hull_of(name):
    return adaptive_rejection(any_log_prob, INDEX[name], **NUMBERED[name].arguments)


draw = jax.jit(lambda key, hull: hull.sample(key, (50_000,)))


@jax.jit
def heights_above(hull, index, x):
    """The envelope's log-height at points, less the density's."""
    envelope = hull.proposal()

    def height(x):
        top = envelope.log_prob_fn(envelope.params, x) + hull.log_bound
        return top - any_log_prob(index, x)

    return jax.vmap(height)(x)


@pytest.mark.parametrize("name", CASES)
def test_the_envelope_is_tight_and_lies_above_the_density(name):
    _, _, exact, log_normalizer = CASES[name]
    hull = hull_of(name)
    acceptance = math.exp(log_normalizer - float(hull.log_bound))
    assert 0.95 < acceptance < 1 + 1e-5
    x = exact.ppf(np.linspace(1e-6, 1 - 1e-6, 1001)).astype(np.float32)
    assert np.all(heights_above(hull, INDEX[name], x) >= -1e-3)


@pytest.mark.parametrize("name", ["gamma", "cauchy"])
def test_the_proposal_draws_from_the_density_it_states(name, key):
    """Its mean density ratio to the target, under its own draws, is the target's normalizer."""
    log_normalizer = CASES[name].log_normalizer
    hull = hull_of(name)

    @jax.jit
    def mean_ratio(key, hull, index):
        envelope = hull.proposal()

        def log_ratio(u):
            x = envelope.transform_fn(envelope.params, u)
            return any_log_prob(index, x) - envelope.log_prob_fn(envelope.params, x)

        return jnp.mean(jnp.exp(jax.vmap(log_ratio)(scrambled_sobol(key, 2**15, 2))))

    mean = mean_ratio(key, hull, INDEX[name]) / math.exp(log_normalizer)
    chex.assert_trees_all_close(mean, 1, atol=2e-4, rtol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_samples_follow_the_density(name, key):
    drawn = draw(key, hull_of(name))
    assert not drawn.bound_exceeded
    assert np.all(drawn.accepted)
    assert drawn.acceptance_rate > 0.95
    sampling_checks.assert_distribution(drawn.samples, CASES[name].exact.cdf)


def test_a_hull_remembers_what_made_it(key):
    """Its tangents mean nothing under another transform, so its proposal takes no other."""
    hull = hull_of("cauchy")
    assert hull.transform == "inverse_sqrt"
    with pytest.raises(TypeError):
        hull.proposal("log")
    index = INDEX["cauchy"]
    drawn = rejection(key, any_log_prob, index, hull.proposal(), hull.log_bound, (1000,))
    same = hull.sample(jax.random.clone(key), (1000,))
    chex.assert_trees_all_equal(drawn.samples, same.samples)
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
    drawn = draw(key, adaptive_rejection(normal_log_prob, (0.0, 1.1)))
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


@pytest.mark.parametrize("name", NOT_CONCAVE)
def test_a_density_that_is_not_concave_is_refused(name):
    with pytest.raises(ValueError, match="log_prob_fn must be concave"):
        hull_of(name)


def test_inside_a_trace_the_result_says_that_it_is_not_concave(key):
    build = jax.jit(lambda d: adaptive_rejection(bimodal_log_prob, d))
    few = jax.jit(lambda key, hull: hull.sample(key, (64,)))
    assert not build(1.5).is_concave
    assert few(key, build(1.5)).bound_exceeded
    assert build(0.9).is_concave  # one mode up to a distance of 1
    assert not few(jax.random.key(1), build(0.9)).bound_exceeded


def test_vmap_over_parameters_equals_a_loop(key):
    shapes = jnp.array([1.0, 2.5, 40.0])
    keys = jax.random.split(key, 3)
    build = functools.partial(adaptive_rejection, gamma_log_prob, support=(0.0, INF))
    draw = jax.jit(lambda k, s: build(s).sample(k, (500,)))
    mapped = jax.vmap(draw)(jax.random.clone(keys), shapes)
    assert not jnp.any(mapped.bound_exceeded)
    loop = [draw(k, s).samples for k, s in zip(jax.random.clone(keys), shapes, strict=True)]
    # The mode's last bits differ with the order of operations; draws move with them.
    chex.assert_trees_all_close(mapped.samples, jnp.stack(loop), rtol=2e-3, atol=1e-4)


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
    hull = adaptive_rejection(normal_log_prob, (0.0, 1.0))
    drawn = jax.jit(lambda key, hull: hull.sample(key, (10,)))(key, hull)
    assert drawn.samples.dtype == jnp.float64


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="num_points must be at least 4"):
        adaptive_rejection(normal_log_prob, (0.0, 1.0), num_points=3)
    with pytest.raises(ValueError, match="transform must be one of log, inverse_sqrt"):
        adaptive_rejection(normal_log_prob, (0.0, 1.0), transform="sqrt")


def test_the_hull_of_a_symmetric_density_is_symmetric():
    points = np.asarray(hull_of("normal").envelope.points)
    chex.assert_trees_all_close(points, -points[::-1], atol=1e-3, rtol=1e-7)


def test_rounding_excuses_no_more_than_the_lowest_tangent_can_have():
    """Of the two of a Laplace density the other one rises over ten thousand units."""
    points, slopes = jnp.array([-1e4, 0.0]), jnp.array([1.0, -1.0])
    edges, cumulative = jnp.array([-jnp.inf, 0.0, jnp.inf]), jnp.array([1.0, 2.0])
    laplace = _adaptive_rejection.Envelope(points, points, slopes, edges, cumulative)
    log_transform = _adaptive_rejection._TRANSFORMS["log"]
    x = jnp.array([0.5])
    for height, expected in ((-0.5, True), (-0.49, False)):
        found = jnp.array([height])
        below = _adaptive_rejection._below_tangents(log_transform, laplace, x, found, jnp.zeros(()))
        assert below == expected


def test_a_split_at_the_far_end_of_a_steep_piece_stays_in_it():
    """Four pieces of equal mass; the second, at a quarter, is asked for where it has none left."""
    edges, slopes = jnp.arange(5.0), jnp.array([40.0, 40.0, -40.0, -40.0])
    cumulative = jnp.arange(1.0, 5.0)
    steep = _adaptive_rejection.Envelope(edges[:4], jnp.zeros(4), slopes, edges, cumulative)
    log_transform = _adaptive_rejection._TRANSFORMS["log"]
    split = _adaptive_rejection._split_quantile(log_transform, steep, jnp.array([0.25]))
    assert 1 <= split[0] <= 2
