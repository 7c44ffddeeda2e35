"""Every conditional: normalized, finite at extremes, drawn as it scores, and refusing by name."""

import decimal
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from program_sizes import array_sizes

from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._shared_normal import SharedNormal
from jaxgen.models.conditionals._symbols import (
    Bits,
    Categorical,
    Ordinal,
    ordered,
    thermometer,
    unordered,
)

SYMBOLS = [Bits(), Categorical(3), Ordinal(4), LogisticMixture(6, 2)]


def random_outputs(conditional, shape=(), seed=0):
    size = conditional.num_outputs + conditional.num_shared
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, size)), jnp.float32)


def test_bits_are_the_sigmoid_of_their_output():
    p = jax.nn.softmax(Bits().logits(jnp.array([[-2.0], [0.0], [3.0]])))
    chex.assert_trees_all_close(p[:, 1], scipy.special.expit([-2.0, 0.0, 3.0]), rtol=1e-6)


def test_ordinal_sums_its_increments():
    logits = Ordinal(3).logits(jnp.array([1.0, 2.0, -4.0]))
    chex.assert_trees_all_close(logits, np.array([1.0, 3.0, -1.0]), rtol=1e-7)


@pytest.mark.parametrize("conditional", SYMBOLS, ids=str)
def test_log_prob_is_that_of_the_logits_and_sums_to_one(conditional):
    outputs = random_outputs(conditional, (5, 1))
    x = jnp.broadcast_to(jnp.arange(conditional.num_symbols)[None], (5, conditional.num_symbols))
    outputs_of_x = jnp.broadcast_to(outputs, (*x.shape, outputs.shape[-1]))
    log_p = conditional.log_prob(outputs_of_x, x)
    chex.assert_trees_all_close(jnp.sum(jnp.exp(log_p), axis=-1), 1.0, atol=1e-6, rtol=1e-7)
    expected = jax.nn.log_softmax(conditional.logits(outputs[:, 0]))
    chex.assert_trees_all_close(log_p, expected, atol=1e-5, rtol=1e-7)
    mean = conditional.mean(outputs[:, 0])
    chex.assert_trees_all_close(mean, jnp.sum(jnp.exp(log_p) * x, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("conditional", SYMBOLS, ids=str)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_what_is_no_symbol_gives_nan(conditional, dtype):
    outputs = random_outputs(conditional, (2,))
    outside = np.array([-1 if dtype != np.uint8 else 255, conditional.num_symbols]).astype(dtype)
    assert np.isnan(conditional.log_prob(outputs, jnp.asarray(outside))).all()


@pytest.mark.parametrize("conditional", SYMBOLS, ids=str)
def test_quantile_inverts_the_cdf(conditional):
    outputs = random_outputs(conditional, (4, 1))
    u = jnp.asarray(np.random.default_rng(1).random((4, 500)), jnp.float32)
    x = np.asarray(conditional.quantile(outputs, u))
    p = np.asarray(jax.nn.softmax(conditional.logits(outputs)), np.float64)
    cdf = np.concatenate([np.zeros((4, 1, 1)), p.cumsum(-1)], axis=-1)
    below = np.take_along_axis(cdf[:, 0], x, axis=-1)
    above = np.take_along_axis(cdf[:, 0], x + 1, axis=-1)
    assert (below - 1e-6 <= u).all()
    assert (u <= above + 1e-6).all()
    assert (np.asarray(conditional.quantile(outputs[..., :] * jnp.nan, u)) == -1).all()


@pytest.mark.parametrize("conditional", [Bits(), Categorical(3), Ordinal(3)], ids=str)
def test_marginal_outputs_are_laplaces_rule(conditional):
    x = np.random.default_rng(0).integers(0, conditional.num_symbols, (40, 3))
    x[:, 0] = 1
    counts = np.stack([np.bincount(c, minlength=conditional.num_symbols) for c in x.T])
    p = jax.nn.softmax(conditional.logits(jnp.asarray(conditional.marginal_outputs(x))))
    chex.assert_trees_all_close(p, (counts + 1) / (40 + conditional.num_symbols), rtol=1e-5)
    with pytest.raises(ValueError, match="x must hold symbols in"):
        conditional.marginal_outputs(x + conditional.num_symbols)


def test_marginal_logistics_have_the_mean_of_the_data():
    x = np.random.default_rng(0).normal(120, 15, (500, 2)).round().astype(int)
    conditional = LogisticMixture(256, 3)
    mean = conditional.mean(jnp.asarray(conditional.marginal_outputs(x), jnp.float32))
    chex.assert_trees_all_close(mean, x.mean(0), atol=1.0, rtol=1e-7)


def mixture_by_hand(outputs, num_symbols, num_components):
    """The integral over each cell, in float64, by differences of the CDF."""
    weights, means, log_scales = np.split(np.asarray(outputs, np.float64), 3)
    weights = scipy.special.softmax(weights)
    edges = (np.arange(1, num_symbols) - 0.5) * 2 / (num_symbols - 1) - 1
    cdf = scipy.special.expit((edges[:, None] - means) / np.exp(log_scales)) @ weights
    return np.diff(cdf, prepend=0.0, append=1.0)


@pytest.mark.parametrize(("num_symbols", "num_components"), [(2, 1), (256, 5)])
def test_logistic_mixture_integrates_each_cell(num_symbols, num_components, key):
    conditional = LogisticMixture(num_symbols, num_components)
    outputs = jax.random.normal(key, (conditional.num_outputs,)) - jnp.repeat(
        jnp.array([0.0, 0.0, 2.0]), num_components
    )
    p = jnp.exp(conditional.logits(outputs))
    chex.assert_trees_all_close(p.sum(), 1.0, atol=1e-5, rtol=1e-7)
    expected = mixture_by_hand(outputs, num_symbols, num_components)
    chex.assert_trees_all_close(p, expected, rtol=2e-4, atol=1e-9)


def test_logistic_mixture_never_forms_all_levels_of_all_components():
    """Nor does its gradient, its quantile, its mean or its logits: 256 levels of 5 components."""
    conditional = LogisticMixture(256, 5)
    outputs, x = random_outputs(conditional, (3,)), jnp.array([0, 100, 255])

    def largest(fn):
        return max(array_sizes(jax.make_jaxpr(fn)(outputs).jaxpr))

    log_prob = jax.grad(lambda outputs: conditional.log_prob(outputs, x).sum())
    assert largest(log_prob) <= outputs.size
    assert largest(lambda outputs: conditional.quantile(outputs, jnp.zeros(3))) <= outputs.size
    assert largest(conditional.mean) <= outputs.size
    assert largest(conditional.logits) <= 3 * 256
    beside = outputs[:, None], jnp.arange(256)[None]
    assert largest(lambda _: conditional.joint_log_probs(*beside)) >= 3 * 256 * 5


def test_what_is_no_symbol_is_no_feature():
    x = np.array([-1, 4, 1])
    for conditional in (Categorical(4), Ordinal(4), LogisticMixture(4, 1)):
        features = conditional.features(x)
        chex.assert_trees_all_equal(np.isnan(features).all(-1), np.array([True, True, False]))
        chex.assert_trees_all_equal(features[2], conditional.features(np.uint8(1)))


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 0.0, 20.0])
@pytest.mark.parametrize("mean", [-50.0, -1.0, 0.1, 40.0])
def test_logistic_mixture_is_finite_and_normalized_at_extremes(mean, log_scale):
    def log_p(outputs):
        return LogisticMixture(256, 1).logits(outputs)

    outputs = jnp.array([0.0, mean, log_scale])
    chex.assert_trees_all_close(jax.nn.logsumexp(log_p(outputs)), 0.0, atol=1e-4, rtol=1e-7)
    assert np.isfinite(log_p(outputs)).all()
    assert np.isfinite(jax.jacobian(log_p)(outputs)).all()


def log_share_by_decimals(level, mean, log_scale, num_symbols):
    """The log-probability of a level under one logistic, by a difference in 150 digits."""
    with decimal.localcontext(prec=150):
        mean, scale = decimal.Decimal(mean), decimal.Decimal(log_scale).exp()
        ends = [(2 * x + 1) / decimal.Decimal(num_symbols - 1) - 1 for x in (level - 1, level)]
        low, high = ((end - mean) / scale for end in ends)
        if low > 0:  # the upper tail, mirrored
            low, high, level = -high, -low, num_symbols - 1 - level
        below = 0 if level == 0 else 1 / (1 + (-low).exp())
        up_to = 1 if level == num_symbols - 1 else 1 / (1 + (-high).exp())
        return float((up_to - below).ln())


@pytest.mark.parametrize("num_symbols", [256, 2**16])
def test_logistic_mixture_is_exact_at_every_scale(num_symbols):
    conditional = LogisticMixture(num_symbols, 1)
    last = num_symbols - 1
    grid = itertools.product(
        [0, 1, last // 3, last // 2, last - 1, last],
        np.float32([-1.5, -0.3, 0.1, 1.0]),
        np.float32([-100, -50, -20, -6.5, -1, 0, 5, 20, 60, 88, 100]),
    )
    levels, means, log_scales = (np.array(column) for column in zip(*grid, strict=True))

    @jax.jit
    def both(outputs, levels):
        log_prob, pull = jax.vjp(lambda outputs: conditional.log_prob(outputs, levels), outputs)
        return log_prob, pull(jnp.ones(log_prob.shape))[0]

    outputs = np.stack([np.zeros_like(means), means, log_scales], axis=-1)
    log_prob, gradient = both(outputs, levels)
    counted = np.maximum(log_scales.astype(float), conditional.smallest_log_scale)
    rows = zip(levels.tolist(), means.tolist(), counted.tolist(), strict=True)
    expected = np.array([log_share_by_decimals(*row, num_symbols) for row in rows])
    # What float32 leaves of (edge − mean) / s.
    tolerance = 2e-5 + 3e-7 * np.exp(-counted)
    assert (np.abs(log_prob - expected) <= tolerance + 1e-6 * np.abs(expected)).all()
    assert np.isfinite(gradient).all()


def test_shared_normal_is_scipys():
    outputs = jnp.array([[0.5, -1.0], [2.0, -1.0]])
    x = jnp.array([0.3, 1.5])
    expected = scipy.stats.norm(outputs[:, 0], np.exp(-1.0)).logpdf(x)
    chex.assert_trees_all_close(SharedNormal().log_prob(outputs, x), expected, rtol=1e-5)
    u = jnp.array([0.1, 0.9])
    expected = scipy.stats.norm(outputs[:, 0], np.exp(-1.0)).ppf(u)
    chex.assert_trees_all_close(SharedNormal().quantile(outputs, u), expected, rtol=1e-5)


def test_features_are_the_codes_of_symbols():
    x = jnp.array([[0, 2, 1]])
    chex.assert_trees_all_equal(Ordinal(3).features(x), thermometer(x, 3))
    chex.assert_trees_all_equal(Categorical(3).features(x), jax.nn.one_hot(x, 3))
    chex.assert_trees_all_close(
        LogisticMixture(3, 1).features(x)[..., 0], np.array([[-1.0, 1.0, 0.0]]), rtol=1e-7
    )
    for conditional in (Ordinal(3), Categorical(3), LogisticMixture(3, 1)):
        assert conditional.features(x).shape == (1, 3, conditional.num_features)
        with pytest.raises(TypeError, match="x must hold integers"):
            conditional.features(x * 1.0)


def test_bits_are_taken_for_two_symbols():
    assert ordered(2) == unordered(2) == Bits()
    assert (ordered(3), unordered(3)) == (Ordinal(3), Categorical(3))


def test_bad_conditionals_are_refused():
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        LogisticMixture(256, 0)
    with pytest.raises(ValueError, match=r"outputs must have shape \(4, 3\), got \(4, 2\)"):
        Categorical(3).logits(jnp.zeros((4, 2)))
