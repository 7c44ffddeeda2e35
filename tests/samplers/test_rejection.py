"""A normal under a Laplace proposal, accepted with probability √(π/2e) = 0.7602."""

import functools
import math

import chex
import distrax
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._rejection import (
    Proposal,
    rejection,
    rejection_expectation,
    rejection_from_uniforms,
    rejection_log_bound,
)
from jaxgen.samplers._uniform import antithetic_uniforms, iid_uniforms, scrambled_sobol

LOG_BOUND = 0.5 * math.log(2 * math.e / math.pi)  # of a normalized normal over a Laplace
ACCEPTANCE = math.exp(-LOG_BOUND)


def normal_log_prob(scale, x):
    return -0.5 * (x / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def laplace(scale=1.0):
    def transform(scale, u):
        side = u[0] - 0.5
        return -scale * jnp.sign(side) * jnp.log1p(-2 * jnp.abs(side))

    return Proposal(scale, transform, lambda s, x: -jnp.abs(x) / s - jnp.log(2 * s))


@functools.partial(jax.jit, static_argnums=(3, 4))
def draw(key, scale, log_bound, num_samples, max_proposals=1000):
    return rejection(
        key,
        normal_log_prob,
        scale,
        laplace(scale),
        log_bound,
        (num_samples,),
        max_proposals_per_sample=max_proposals,
    )


def rejected(key, *arguments):
    """Samples by rejection, compiled: eagerly, every operation of it is a program."""
    return jax.device_get(jax.jit(lambda key: rejection(key, *arguments))(key))


@jax.jit
def from_uniforms(u):
    return rejection_from_uniforms(normal_log_prob, 1.0, laplace(), LOG_BOUND, u)


def test_a_grid_of_uniforms_accepts_the_right_points(x64):
    grid = (np.arange(1500) + 0.5) / 1500
    drawn = from_uniforms(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))
    assert not drawn.bound_exceeded
    x, accepted = np.asarray(drawn.samples), np.asarray(drawn.accepted)
    chex.assert_trees_all_close(drawn.acceptance_rate, accepted.mean(), rtol=1e-12)
    chex.assert_trees_all_close(accepted.mean(), ACCEPTANCE, atol=2e-4, rtol=1e-7)
    for point in (-2.0, -0.5, 0.0, 1.0, 3.0):
        fraction = np.mean(x[accepted] <= point)
        chex.assert_trees_all_close(fraction, scipy.stats.norm.cdf(point), atol=4e-4, rtol=1e-7)


@pytest.mark.parametrize("design", [antithetic_uniforms, scrambled_sobol])
def test_any_design_of_uniforms_drives_it(design, key):
    drawn = jax.device_get(jax.jit(lambda key: from_uniforms(design(key, 2**14, 2)))(key))
    assert abs(drawn.acceptance_rate - ACCEPTANCE) < 0.02
    assert abs(np.mean(drawn.samples, where=drawn.accepted)) < 0.02


def test_samples_follow_the_target_and_diagnostics_are_right(key):
    drawn = draw(key, 1.0, LOG_BOUND, 200_000)
    assert np.all(drawn.accepted)
    assert not drawn.bound_exceeded
    chex.assert_trees_all_close(drawn.acceptance_rate, ACCEPTANCE, atol=0.01, rtol=1e-7)
    sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)
    counts = [np.sum(np.asarray(drawn.samples) > 3.5), 0]
    counts[1] = 200_000 - counts[0]
    tail = scipy.stats.norm.sf(3.5)
    sampling_checks.assert_frequencies(counts, [tail, 1 - tail])


def test_a_looser_bound_changes_only_the_acceptance_rate(key):
    drawn = draw(key, 1.0, LOG_BOUND + 1, 50_000)
    chex.assert_trees_all_close(drawn.acceptance_rate, ACCEPTANCE / math.e, atol=0.02, rtol=1e-7)
    sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


def test_a_bound_too_low_biases_the_samples_and_is_reported(key):
    drawn = draw(key, 1.0, LOG_BOUND - 0.3, 200_000)
    assert drawn.bound_exceeded
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


def test_rounding_alone_does_not_report_an_exceeded_bound(key):
    """Target and proposal coincide, so every ratio sits on the bound."""
    same = laplace()
    target = lambda s, x: same.log_prob_fn(s, x) + 1000.0  # noqa: E731
    drawn = rejected(key, target, 1.0, same, 1000.0, (4096,))
    assert not drawn.bound_exceeded
    assert drawn.acceptance_rate > 0.99


def test_running_out_of_proposals_shows(key):
    drawn = jax.device_get(draw(key, 1.0, LOG_BOUND + 3, 1000, 1))
    filled = int(np.sum(drawn.accepted))
    assert 0 < filled < 100
    chex.assert_trees_all_equal(drawn.accepted, np.arange(1000) < filled)
    chex.assert_trees_all_equal(np.isnan(drawn.samples), ~drawn.accepted)
    chex.assert_trees_all_close(drawn.acceptance_rate, filled / 1000, rtol=1e-7)


def test_nan_is_never_accepted_and_shows(key):
    target = lambda scale, x: jnp.where(x > 1, jnp.nan, normal_log_prob(scale, x))  # noqa: E731
    drawn = rejected(key, target, 1.0, laplace(), LOG_BOUND, (2000,))
    assert drawn.bound_exceeded
    assert np.all(drawn.samples <= 1)


def test_points_outside_the_support_are_rejected_quietly(key):
    target = lambda scale, x: jnp.where(x > 1, -jnp.inf, normal_log_prob(scale, x))  # noqa: E731
    drawn = rejected(key, target, 1.0, laplace(), LOG_BOUND, (20_000,))
    assert not drawn.bound_exceeded
    mass = scipy.stats.norm.cdf(1)
    sampling_checks.assert_distribution(drawn.samples, lambda x: scipy.stats.norm.cdf(x) / mass)


def test_points_of_several_dimensions_and_integers(key):
    disc = Proposal(None, lambda _, u: 2 * u - 1, lambda _, x: -math.log(4.0), 2)
    inside = lambda _, x: jnp.where(jnp.sum(x**2) < 1, 0.0, -jnp.inf)  # noqa: E731
    drawn = rejected(key, inside, None, disc, math.log(4.0), (100, 200))
    assert drawn.samples.shape == (100, 200, 2)
    chex.assert_trees_all_close(drawn.acceptance_rate, math.pi / 4, atol=0.02, rtol=1e-7)
    radius = np.sum(drawn.samples**2, -1)
    sampling_checks.assert_distribution(radius, lambda x: np.clip(x, 0, 1))
    die = Proposal(
        None, lambda _, u: jnp.floor(6 * u[0]).astype(jnp.int32), lambda _, x: -math.log(6.0)
    )
    weights = jnp.asarray(np.log(np.arange(1.0, 7.0)), jnp.float32)
    drawn = rejected(
        jax.random.key(5), lambda w, x: w[x], weights, die, 2 * math.log(6.0), (30_000,)
    )
    counts = np.bincount(np.asarray(drawn.samples), minlength=6)
    sampling_checks.assert_frequencies(counts, np.arange(1, 7) / 21)


bound_of = jax.jit(lambda k, scale: rejection_log_bound(k, normal_log_prob, scale, laplace()))


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_log_bound_finds_the_supremum(scale, key):
    """sup log f − log g over x is at |x| = scale², the ratio of a normal to a unit Laplace."""
    found = bound_of(key, scale)
    exact = 0.5 * scale**2 - math.log(scale) + math.log(2) - 0.5 * math.log(2 * math.pi)
    chex.assert_trees_all_close(found.largest_log_ratio, exact, atol=1e-6, rtol=1e-7)
    chex.assert_trees_all_close(found.log_bound, exact + 1e-3, atol=1e-6, rtol=1e-7)
    assert not found.at_edge
    chex.assert_trees_all_close(found.exceeding_mass, -math.log(0.05) / 2**14, rtol=1e-3)


def test_log_bound_in_three_dimensions(key):
    def log_prob(_, x):
        return jnp.sum(normal_log_prob(1.0, x))

    one = laplace()
    cube = Proposal(
        1.0,
        lambda s, u: jax.vmap(lambda v: one.transform_fn(s, v[None]))(u),
        lambda s, x: jnp.sum(one.log_prob_fn(s, x)),
        3,
    )
    found = jax.jit(lambda k: rejection_log_bound(k, log_prob, None, cube))(key)
    chex.assert_trees_all_close(found.largest_log_ratio, 3 * LOG_BOUND, atol=2e-3, rtol=1e-7)


def test_log_bound_warns_of_a_ratio_that_grows_without_end(key):
    cauchy = lambda _, x: -jnp.log1p(x**2)  # noqa: E731
    nan = lambda _, x: x * jnp.nan  # noqa: E731
    for log_prob_fn in (cauchy, nan):
        bound_fn = jax.jit(lambda k, f=log_prob_fn: rejection_log_bound(k, f, None, laplace()))
        found = bound_fn(jax.random.clone(key))
        assert found.at_edge if log_prob_fn is cauchy else np.isnan(found.log_bound)


def average_gradient(estimate_fn, key, num_repeats=600):
    keys = jax.random.split(key, num_repeats)
    return jax.jit(jax.vmap(jax.grad(estimate_fn), (None, 0)))(1.3, keys)


@pytest.mark.parametrize("follows", [True, False])
def test_gradient_of_an_expectation_is_unbiased(follows, key):
    """d E[x²] / d scale = 2 scale, whether or not the proposal moves with the target."""

    def estimate(scale, key):
        moving = laplace(scale if follows else jax.lax.stop_gradient(scale))
        unnormalized = lambda s, x: -0.5 * (x / s) ** 2  # noqa: E731
        bound = 0.5 + math.log(2 * 1.3)
        found = rejection_expectation(
            key, lambda s, x: x**2, unnormalized, scale, moving, bound, num_samples=64
        )
        return found.estimate.value

    sampling_checks.assert_mean(average_gradient(estimate, key), 2 * 1.3)


def test_an_expectation_may_take_several_uniforms_a_proposal(key):
    """Both coordinates under a density in proportion to x y² on the unit square."""
    square = Proposal(None, lambda _, u: u, lambda _, x: 0.0, num_uniforms=2)
    log_f = lambda _, x: jnp.log(4 * x[0] * x[1] ** 2)  # noqa: E731
    found = rejection_expectation(
        key, lambda _, x: x[0] + 2 * x[1], log_f, None, square, 1.4, num_samples=20_000
    )
    value, error = found.estimate.value, found.estimate.standard_error
    assert error < 0.01
    assert abs(value - (2 / 3 + 2 * 3 / 4)) < 6 * error


def test_an_expectation_of_arrays_is_that_of_each_number(key):
    """A pytree of a vector and a matrix: values, errors, and gradients of both terms."""

    def values(scale, x):
        powers = jnp.stack([x, x**2, x**4])
        return {"powers": powers, "rows": scale * powers[:, None] * powers[None]}

    def estimate(scale, value_fn):
        proposal = laplace(jnp.sqrt(scale))
        found = rejection_expectation(
            jax.random.clone(key), value_fn, normal_log_prob, scale, proposal, 0.8, num_samples=64
        )
        return found.estimate[:2]

    @jax.jit
    def measure(scale):
        whole, alone = (
            jax.jvp(lambda scale, f=f: estimate(scale, f), (scale,), (jnp.ones(()),))
            for f in (values, lambda scale, x: values(scale, x)["rows"][2, 1])
        )
        return whole, alone

    whole, alone = measure(jnp.float32(1.3))
    parts = [part["rows"] for both in whole for part in both]
    assert [part.shape for part in parts] == [(3, 3)] * 4
    np.testing.assert_allclose([part[2, 1] for part in parts], jax.tree.leaves(alone), rtol=1e-5)
    chex.assert_trees_all_close(whole[0][0]["powers"][1], 1.3**2, rtol=0.6)


def test_without_the_correction_the_gradient_is_biased(key):
    """The proposal's scale is the root of the target's, so its samples stretch too little."""

    def value(scale, key, corrected):
        proposal = laplace(jnp.sqrt(scale))
        target = scale if corrected else jax.lax.stop_gradient(scale)
        found = rejection_expectation(
            key, lambda s, x: x**2, normal_log_prob, target, proposal, 0.6, num_samples=256
        )
        return found.estimate.value

    right = average_gradient(functools.partial(value, corrected=True), key, 200)
    sampling_checks.assert_mean(right, 2 * 1.3)
    keys = jax.random.split(jax.random.key(2), 200)

    def pathwise(scale, key):
        u = iid_uniforms(key, 512, 2)
        fixed = laplace(jnp.sqrt(1.3))
        accepted = rejection_from_uniforms(normal_log_prob, 1.3, fixed, 0.6, u).accepted
        x = jax.vmap(laplace().transform_fn, (None, 0))(jnp.sqrt(scale), u[:, :1])
        return jnp.mean(x**2, where=accepted)

    wrong = jax.jit(jax.vmap(jax.grad(pathwise), (None, 0)))(1.3, keys)
    with pytest.raises(AssertionError, match="standard errors away"):
        sampling_checks.assert_mean(wrong, 2 * 1.3)


def test_the_expectation_has_its_standard_error_and_diagnostics(key):
    found = jax.jit(
        lambda k: rejection_expectation(
            k,
            lambda s, x: x**2,
            normal_log_prob,
            1.0,
            laplace(),
            LOG_BOUND,
            num_samples=10_000,
        )
    )(key)
    assert not found.bound_exceeded
    chex.assert_trees_all_close(found.acceptance_rate, ACCEPTANCE, atol=0.02, rtol=1e-7)
    value, standard_error, num_samples = found.estimate
    assert num_samples == 10_000
    chex.assert_trees_all_close(standard_error, math.sqrt(2 / 10_000), rtol=0.1)
    assert abs(float(value) - 1) < 6.2 * float(standard_error)


def test_differentiating_samples_raises(key):
    with pytest.raises(TypeError, match="use rejection_expectation"):
        jax.grad(lambda s: draw(key, s, 3.0, 64).samples.sum())(1.0)


# Distributions as proposals


def test_a_distribution_proposes_as_its_map_does(key):
    """The same acceptance and the same law, from distrax's own sampler."""
    draw = jax.jit(lambda k: rejection(k, normal_log_prob, 1.0, wide, LOG_BOUND, (100, 500)))
    wide = distrax.Laplace(0.0, 1.0)
    drawn = draw(key)
    assert drawn.samples.shape == drawn.accepted.shape == (100, 500)
    assert np.all(drawn.accepted)
    assert not drawn.bound_exceeded
    chex.assert_trees_all_close(drawn.acceptance_rate, ACCEPTANCE, atol=0.01, rtol=1e-7)
    sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


def test_a_distribution_may_be_an_argument_or_a_table(key):
    """Both are pytrees; the table of a Laplace proposes what distrax's Laplace does."""
    table = inverse_cdf(lambda _, x: -jnp.abs(x), None, support=(-math.inf, math.inf))

    @jax.jit
    def draw(key, proposal):
        return rejection(key, normal_log_prob, 1.0, proposal, LOG_BOUND + 1e-4, (20_000,))

    for proposal in (distrax.Laplace(0.0, 1.0), table.as_distribution()):
        drawn = draw(jax.random.clone(key), proposal)
        assert not drawn.bound_exceeded
        sampling_checks.assert_distribution(drawn.samples, scipy.stats.norm.cdf)


@pytest.mark.usefixtures("distrax_broadcasting")
def test_distributions_of_points_and_of_integers(key):
    square = distrax.Independent(distrax.Uniform(-jnp.ones(2), jnp.ones(2)), 1)
    inside = lambda _, x: jnp.where(jnp.sum(x**2) < 1, 0.0, -jnp.inf)  # noqa: E731
    drawn = rejected(key, inside, None, square, math.log(4.0), (10_000,))
    assert drawn.samples.shape == (10_000, 2)
    chex.assert_trees_all_close(drawn.acceptance_rate, math.pi / 4, atol=0.02, rtol=1e-7)
    sampling_checks.assert_distribution(np.sum(drawn.samples**2, -1), lambda x: np.clip(x, 0, 1))
    die = distrax.Categorical(jnp.zeros(6))
    weights = jnp.asarray(np.log(np.arange(1.0, 7.0)), jnp.float32)
    bound = 2 * math.log(6.0)
    drawn = rejected(jax.random.key(5), lambda w, x: w[x], weights, die, bound, (30_000,))
    counts = np.bincount(np.asarray(drawn.samples), minlength=6)
    sampling_checks.assert_frequencies(counts, np.arange(1, 7) / 21)


class Plain:
    """A distribution that is no pytree and knows no distrax."""

    def __init__(self, scale):
        self.scale = scale

    def sample(self, *, seed, sample_shape):
        return self.scale * jax.random.laplace(seed, sample_shape)

    def log_prob(self, x):
        return -jnp.abs(x) / self.scale - jnp.log(2 * self.scale)


@pytest.mark.parametrize("family", [functools.partial(distrax.Laplace, 0.0), Plain])
@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
def test_differentiating_draws_from_a_distribution_raises(family, transform, key):
    def of_proposal(scale):
        return rejection(key, normal_log_prob, 1.0, family(scale), 3.0, (64,)).samples.sum()

    def of_target(scale):
        return rejection(key, normal_log_prob, scale, family(1.0), 3.0, (64,)).samples.sum()

    for draw in (of_proposal, of_target):
        with pytest.raises(TypeError, match="use rejection_expectation"):
            transform(draw)(1.0)


def test_what_needs_the_map_from_uniforms_refuses_a_distribution(key):
    wide = distrax.Laplace(0.0, 1.0)
    with pytest.raises(TypeError, match=r"rejection_expectation must be a Proposal, got Laplace"):
        rejection_expectation(
            key, lambda _, x: x, normal_log_prob, 1.0, wide, LOG_BOUND, num_samples=8
        )
    with pytest.raises(TypeError, match=r"rejection_log_bound .* write it as Proposal\(params"):
        rejection_log_bound(key, normal_log_prob, 1.0, wide)
    with pytest.raises(TypeError, match="rejection_from_uniforms must be a Proposal"):
        rejection_from_uniforms(normal_log_prob, 1.0, wide, LOG_BOUND, jnp.zeros((3, 2)))


@pytest.mark.usefixtures("distrax_broadcasting")
def test_other_proposals_are_refused(key):
    with pytest.raises(TypeError, match="proposal must be a Proposal, or a distribution"):
        rejection(key, normal_log_prob, 1.0, jnp.zeros(3), LOG_BOUND)
    batch = distrax.Laplace(jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"empty batch shape, got batch shape \(3,\)"):
        rejection(key, normal_log_prob, 1.0, batch, LOG_BOUND)


# Transformations and mistakes


def test_jit_equals_eager_and_vmap_equals_a_loop(key):
    keys = jax.random.split(key, 3)
    scales = jnp.array([0.5, 0.8, 1.0])
    loop = [draw(jax.random.clone(k), s, 1.0, 100) for k, s in zip(keys, scales, strict=True)]
    mapped = jax.vmap(lambda k, s: draw(k, s, 1.0, 100))(jax.random.clone(keys), scales)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    chex.assert_trees_all_close(mapped, stacked, rtol=1e-6)
    eager = rejection(jax.random.clone(keys[0]), normal_log_prob, 0.5, laplace(0.5), 1.0, (100,))
    chex.assert_trees_all_close(eager.samples, loop[0].samples, rtol=1e-6)


def test_float64_is_kept(x64, key):
    drawn = draw(key, 1.0, LOG_BOUND, 100)
    assert drawn.samples.dtype == jnp.float64
    assert drawn.acceptance_rate.dtype == jnp.float64


@hypothesis.given(location=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
@hypothesis.settings(max_examples=10)
def test_any_location_and_scale(location, scale):
    """One compiled sampler serves them all; the proposal moves along."""
    u = shifted(location, scale)
    sampling_checks.assert_distribution((u - location) / scale, scipy.stats.norm.cdf)


@jax.jit
def shifted_samples(location, scale):
    base = laplace()
    proposal = Proposal(
        (location, scale),
        lambda p, u: p[0] + p[1] * base.transform_fn(1.0, u),
        lambda p, x: base.log_prob_fn(1.0, (x - p[0]) / p[1]) - jnp.log(p[1]),
    )
    target = lambda p, x: normal_log_prob(p[1], x - p[0])  # noqa: E731
    key = jax.random.key(4)
    return rejection(key, target, (location, scale), proposal, LOG_BOUND + 1e-2, (4000,))


def shifted(location, scale):
    drawn = shifted_samples(location, scale)
    assert np.all(drawn.accepted)
    return np.asarray(drawn.samples, np.float64)


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="max_proposals_per_sample must be at least 1"):
        draw(key, 1.0, 1.0, 8, 0)
    with pytest.raises(ValueError, match=r"u must have shape \(\*, 2\)"):
        rejection_from_uniforms(normal_log_prob, 1.0, laplace(), 1.0, jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="num_samples must be at least 8"):
        rejection_log_bound(key, normal_log_prob, 1.0, laplace(), num_samples=4)


def test_a_target_that_closes_over_what_moves_has_no_silent_gradient():
    box = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)

    def mean(power):
        drawn = rejection(jax.random.key(0), lambda _, x: power * jnp.log(x), None, box, 0.0, (64,))
        return drawn.samples.mean()

    with pytest.raises(TypeError, match="rejection has no gradient"):
        jax.grad(mean)(1.0)
    assert 0 < jax.jit(mean)(1.0) < 1


def test_more_proposals_may_be_allowed_than_can_be_counted(key):
    box = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)

    @jax.jit
    def draw(key):
        log_prob = lambda _, x: jnp.log(x)  # noqa: E731
        return rejection(key, log_prob, None, box, 0.0, (8,), max_proposals_per_sample=10**15)

    assert jnp.all(draw(key).accepted)


def test_log_bound_climbs_to_the_supremum_from_few_proposals(key):
    """From eight of 64 points in a square, which lie a tenth of it away."""
    square = Proposal(None, lambda _, u: u, lambda _, x: 0.0 * x[0], 2)
    log_prob = lambda _, x: -50 * jnp.sum((x - jnp.array([0.3, 0.6])) ** 2)  # noqa: E731
    bound_fn = jax.jit(lambda k: rejection_log_bound(k, log_prob, None, square, num_samples=64))
    chex.assert_trees_all_close(bound_fn(key).largest_log_ratio, 0, atol=1e-4, rtol=1e-7)


def test_the_acceptance_rate_is_of_all_that_is_filled_at_once(key):
    """So many samples that they are filled in two groups."""
    box = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)
    draw = jax.jit(lambda key: rejection(key, lambda _, x: 0.0 * x, None, box, 0.0, (2**18,)))
    drawn = draw(key)
    assert jnp.all(drawn.accepted)
    assert drawn.acceptance_rate == 1
