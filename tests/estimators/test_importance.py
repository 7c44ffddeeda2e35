import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.core._quadrature import gauss_hermite
from jaxgen.estimators import _importance as importance


def weights_with_tail(name):
    if name == "ties":
        i = np.arange(600)
        return np.round(1.5 * np.sin(i * i * 0.37) + 0.8 * np.cos(i * 0.11), 1)
    num_weights, k = {
        "good": (1000, 0.3),
        "edge": (1000, 0.7),
        "bad": (1000, 1.2),
        "small": (40, 0.5),
        "bounded": (500, -0.4),
    }[name]
    u = (np.arange(1, num_weights + 1) * 0.6180339887498949) % 1.0
    if k < 0:
        return np.log((1 - (1 - u) ** 0.4) / 0.4) - 3.0
    return -k * np.log1p(-u) + 0.1 * np.sin(np.arange(num_weights)) - 3.0


# From arviz 0.23.4, psislw(log_weights, reff=1): k̂, and of the normalized smoothed log-weights the
# largest, the sum of exp(2 ·) and the tenth from the top.
ARVIZ = {
    "good": (0.29761228511949867, -5.000948158343163, 0.0012018889586901235, -5.856511526176665),
    "edge": (0.612607447521004, -2.9206206854615187, 0.00643297005132148, -4.775783956107537),
    "bad": (1.0676610944299811, -1.1945177152007573, 0.10837847774780669, -4.356648658702356),
    "small": (0.5634571759273499, -2.2657969996628267, 0.03518272084841873, -3.5615685712590683),
    "bounded": (-0.26459132442200417, -5.03353410418237, 0.0031298591995855994, -5.16385968482224),
    "ties": (-0.4497284993616404, -4.717262096894382, 0.0038868065352749637, -4.815557850613109),
}

smooth = jax.jit(importance.pareto_smooth)


def summary(log_weights):
    smoothed = smooth(log_weights)
    x = np.sort(np.asarray(smoothed.log_weights, np.float64))
    x -= np.logaddexp.reduce(x)
    return np.array([float(smoothed.shape), x[-1], np.exp(2 * x).sum(), x[-10]])


@pytest.mark.parametrize("name", ARVIZ)
def test_pareto_smoothing_agrees_with_arviz_in_double_precision(x64, name):
    np.testing.assert_allclose(summary(weights_with_tail(name)), ARVIZ[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["edge", "bounded"])
def test_pareto_smoothing_agrees_with_arviz_in_single_precision(name):
    log_weights = weights_with_tail(name).astype(np.float32)
    np.testing.assert_allclose(summary(log_weights), ARVIZ[name], rtol=0, atol=1e-5)


def test_pareto_smoothing_keeps_scale_order_and_body(x64):
    raw = weights_with_tail("edge")
    smoothed = np.asarray(smooth(raw).log_weights)
    order = np.argsort(raw)
    assert np.all(np.diff(smoothed[order]) >= 0)
    assert smoothed.max() <= raw.max()
    body = order[:-95]
    chex.assert_trees_all_equal(smoothed[body], raw[body])


def test_shape_warns_of_a_proposal_that_is_too_narrow(key):
    z = jax.random.normal(key, (1000,))
    shapes, reliable = [], []
    for scale in (1.2, 0.8, 0.4):  # target N(0, 1): k is 1 − scale² where the proposal is narrow
        smoothed = smooth(-0.5 * (scale * z) ** 2 + 0.5 * z**2 + jnp.log(scale))
        shapes.append(float(smoothed.shape))
        reliable.append(bool(smoothed.reliable))
    assert reliable == [True, True, False]
    assert shapes == sorted(shapes)


@pytest.mark.parametrize(
    "log_weights", [np.zeros(100), np.full(100, -np.inf), np.r_[0.0, np.full(99, -np.inf)]]
)
def test_a_tail_without_spread_is_called_unreliable(log_weights):
    smoothed = smooth(log_weights.astype(np.float32))
    assert not smoothed.reliable
    chex.assert_trees_all_equal(smoothed.log_weights, log_weights)


def test_log_mean_weight_is_within_its_error_and_its_error_is_right(key):
    # log w ~ N(-1/2, 1), so E[w] = 1 and the delta method's error is sqrt((e - 1) / K).
    log_weights = jax.random.normal(key, (400, 2000)) - 0.5
    estimate = importance.log_mean_weight(log_weights)
    spread = np.std(np.asarray(estimate.value))
    chex.assert_trees_all_close(spread, np.sqrt((np.e - 1) / 400), rtol=0.1)
    chex.assert_trees_all_close(np.mean(estimate.standard_error), spread, rtol=0.1)
    bias = -np.mean(np.asarray(estimate.standard_error) ** 2) / 2
    sampling_checks.assert_mean(estimate.value, bias)


def test_self_normalized_mean_and_error_agree_with_quadrature(key):
    rule = gauss_hermite(40)
    x = jax.random.normal(key, (2000, 500))  # tilted by exp(x / 2): the target is N(1/2, 1)
    estimate = jax.vmap(importance.self_normalized, in_axes=1)(x / 2, jnp.sin(x))
    tilt = rule.weights * np.exp(rule.nodes / 2)
    tilt /= tilt.sum()
    mean = tilt @ np.sin(rule.nodes)
    # E_q[w² (f − μ)²] / E_q[w]²
    variance = rule.weights @ ((tilt / rule.weights) ** 2 * (np.sin(rule.nodes) - mean) ** 2)
    error = np.sqrt(variance / 2000)
    chex.assert_trees_all_close(np.mean(estimate.standard_error), error, rtol=0.02)
    chex.assert_trees_all_close(np.std(np.asarray(estimate.value)), error, rtol=0.15)
    assert abs(np.mean(estimate.value) - mean) < 4 * error / np.sqrt(500) + error**2


def test_self_normalized_takes_several_values_at_once():
    log_weights = jnp.log(jnp.array([1.0, 3.0]))
    estimate = importance.self_normalized(log_weights, jnp.eye(2))
    chex.assert_trees_all_close(estimate.value, np.array([0.25, 0.75]), rtol=1e-6)
    assert estimate.standard_error.shape == (2,)


def test_effective_sample_size_of_equal_and_of_single_weights():
    equal_and_single = jnp.array([[0.0, 0.0], [0.0, -jnp.inf], [0.0, -jnp.inf]])
    chex.assert_trees_all_close(
        importance.effective_sample_size(equal_and_single), np.array([3.0, 1.0]), rtol=1e-7
    )
    assert importance.effective_sample_size(jnp.array([-7.0])) == 1


def test_resampling_by_no_distribution_shows_as_nan(key):
    weights = jnp.array([0.0, jnp.nan, 0.0])
    draws = importance.sampling_importance_resampling(key, weights, jnp.ones((3, 2)), num_samples=4)
    assert np.isnan(draws).all()


def test_resampled_frequencies_follow_the_weights(key):
    probabilities = np.array([0.1, 0.2, 0.0, 0.7])
    log_weights = jnp.log(jnp.asarray(probabilities, jnp.float32)) + 300.0
    draws = importance.sampling_importance_resampling(
        key, log_weights, {"z": jnp.arange(4)}, num_samples=100_000
    )
    counts = np.bincount(draws["z"], minlength=4)
    sampling_checks.assert_frequencies(counts, probabilities)
    with pytest.raises(AssertionError):
        sampling_checks.assert_frequencies(counts, [0.11, 0.19, 0.0, 0.7])


def test_mistakes_are_named(key):
    with pytest.raises(TypeError, match="log_weights must be real, got dtype complex64"):
        importance.effective_sample_size(jnp.ones(3, jnp.complex64))
    with pytest.raises(TypeError, match="values must be real, got dtype complex64"):
        importance.self_normalized(jnp.zeros(3), jnp.ones(3, jnp.complex64))
    with pytest.raises(ValueError, match="values must have shape"):
        importance.self_normalized(jnp.zeros(3), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"log_weights must have shape \[K"):
        importance.effective_sample_size(jnp.zeros((0, 2)))
    with pytest.raises(ValueError, match="the number of log_weights must be at least 1, got 0"):
        importance.self_normalized(jnp.zeros(0), jnp.zeros(0))
    with pytest.raises(ValueError, match="log_weights must have rank 1"):
        importance.pareto_smooth(jnp.zeros((3, 3)))
    with pytest.raises(TypeError, match="key must be a typed key"):
        importance.sampling_importance_resampling(
            jnp.zeros(2), jnp.zeros(3), jnp.zeros(3), num_samples=2
        )


def test_what_lies_outside_the_target_does_not_count():
    log_weights = jnp.array([0.0, -jnp.inf, 1.0, -jnp.inf])
    values = jnp.array([[1.0, jnp.nan, 2.0, jnp.inf], [0.0, -jnp.inf, 1.0, 5.0]]).T
    estimate = jax.jit(importance.self_normalized)(log_weights, values)
    without = importance.self_normalized(log_weights[::2], values[::2])
    chex.assert_trees_all_close(estimate.value, without.value, rtol=1e-6)
    chex.assert_trees_all_close(estimate.standard_error, without.standard_error, rtol=1e-6)


def test_a_draw_of_weight_zero_counts_among_the_draws_alone():
    log_weights = jnp.array([0.0, -jnp.inf, 1.0])
    w = np.exp(np.asarray(log_weights, np.float64))
    value, gradient = jax.jit(jax.value_and_grad(lambda x: importance.log_mean_weight(x).value))(
        log_weights
    )
    chex.assert_trees_all_close(value, np.log(w.mean()), rtol=1e-6)
    chex.assert_trees_all_close(gradient, w / w.sum(), rtol=1e-6)


def test_the_shape_is_known_from_five_weights_above_the_threshold():
    distinct = weights_with_tail("small")[:25].astype(np.float32)
    tied = np.sort(distinct)
    tied[-5] = tied[-6]
    for log_weights, is_known in ((distinct, True), (tied, False)):
        smoothed = smooth(log_weights)
        assert np.isfinite(smoothed.shape) == is_known
        assert np.any(smoothed.log_weights != log_weights) == is_known


def test_half_precision_weights_are_summed_in_float32():
    half = jnp.linspace(-3.0, 0.0, 1000).astype(jnp.bfloat16)

    @jax.jit
    def look(log_weights):
        return (
            importance.effective_sample_size(log_weights),
            importance.log_mean_weight(log_weights),
            importance.self_normalized(log_weights, jnp.arange(1000.0)),
            importance.pareto_smooth(log_weights),
        )

    chex.assert_trees_all_equal(look(half), look(half.astype(jnp.float32)))
