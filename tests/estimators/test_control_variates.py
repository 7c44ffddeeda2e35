import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.estimators import _control_variates as control_variates


def test_coefficients_and_error_agree_with_least_squares(key, x64):
    x = np.random.default_rng(0).normal(size=(200, 3))
    values = np.stack([np.exp(x[:, 0]), x[:, 1] ** 2 + x[:, 2]], axis=1)
    controls = np.c_[x[:, 0], x[:, 1] + 2, x[:, 2]]
    means = np.array([0.0, 2.0, 0.0])
    result = control_variates.control_variates(values, controls, means)
    design = np.c_[np.ones(200), controls - means]
    for output in range(2):
        fit, residual, _, _ = np.linalg.lstsq(design, values[:, output], rcond=None)
        chex.assert_trees_all_close(result.estimate.value[output], fit[0], rtol=1e-10)
        chex.assert_trees_all_close(result.coefficients[:, output], fit[1:], rtol=1e-10)
        error = np.sqrt(residual[0] / (200 - 4) / 200)
        chex.assert_trees_all_close(result.estimate.standard_error[output], error, rtol=1e-10)


def test_error_with_estimated_coefficients_covers(key):
    @jax.jit
    @jax.vmap
    def run(key):
        u = jax.random.uniform(key, (100,))
        return control_variates.control_variates(jnp.exp(u), u[:, None], jnp.full(1, 0.5))

    result = run(jax.random.split(key, 4000))
    estimate = result.estimate
    variance = (np.exp(2) - 1) / 2 - (np.e - 1) ** 2
    explained = 12 * (1.5 - np.e / 2) ** 2
    chex.assert_trees_all_close(np.mean(result.variance_ratio), 1 - explained / variance, rtol=0.05)
    score = (np.asarray(estimate.value) - (np.e - 1)) / np.asarray(estimate.standard_error)
    covered = np.mean(np.abs(score) < scipy.stats.norm.isf(0.05))
    assert 0.87 < covered < 0.92  # the error that ignores the control would cover all


def test_dependent_and_constant_controls_do_no_harm(key):
    x = jax.random.normal(key, (100,))
    once = control_variates.control_variates(jnp.exp(x), x[:, None], jnp.zeros(1)).estimate
    controls = jnp.stack([x, 2 * x, jnp.ones(100)], axis=1)
    thrice = control_variates.control_variates(
        jnp.exp(x), controls, jnp.array([0.0, 0.0, 1.0])
    ).estimate
    chex.assert_trees_all_close(once.value, thrice.value, rtol=1e-5)
    chex.assert_trees_all_close(once.standard_error, thrice.standard_error, rtol=0.02)


def test_taylor_control_is_exact_for_a_quadratic():
    curvature = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    mean, covariance = jnp.array([1.0, -2.0]), jnp.array([[1.0, 0.3], [0.3, 0.5]])
    control = control_variates.taylor_control(
        lambda x: x @ curvature @ x + x[0] + 7, mean, covariance
    )
    x = jnp.array([3.0, 0.2])
    chex.assert_trees_all_close(control.fn(x), x @ curvature @ x + 3.0 + 7, rtol=1e-6)
    exact = mean @ curvature @ mean + jnp.sum(curvature * covariance) + 1.0 + 7
    chex.assert_trees_all_close(control.mean, exact, rtol=1e-6)


def test_taylor_control_has_its_stated_mean_and_removes_variance(key):
    covariance = jnp.array([[0.1, 0.05], [0.05, 0.2]])
    mean = jnp.array([0.5, -0.5])
    control = control_variates.taylor_control(
        lambda x: jnp.exp(x[0]) * jnp.cos(x[1]), mean, covariance
    )
    noise = jax.random.normal(key, (100_000, 2)) @ jnp.linalg.cholesky(covariance).T
    x = mean[None] + noise
    controls = jax.vmap(control.fn)(x)
    sampling_checks.assert_mean(controls, control.mean)
    values = jnp.exp(x[:, 0]) * jnp.cos(x[:, 1])
    result = control_variates.control_variates(values, controls[:, None], control.mean[None])
    assert result.variance_ratio < 0.05


def test_leave_one_out_is_the_mean_of_the_others():
    values = np.random.default_rng(0).normal(size=(5, 3))
    expected = np.stack([np.delete(values, k, axis=0).mean(0) for k in range(5)])
    chex.assert_trees_all_close(control_variates.leave_one_out(values), expected, rtol=1e-5)


def euler(level, key, num_samples):
    """Corrections for the mean of exp(B_1) when dX = X dB + X dt / 2 is stepped 2^level times."""
    num_steps = 2**level
    increments = jax.random.normal(key, (num_samples, num_steps)) / jnp.sqrt(num_steps)

    def end(dB):
        dt = 1 / dB.shape[1]
        return jnp.prod(1 + dB + dt / 2, axis=1)

    fine = end(increments)
    if level == 0:
        return fine
    return fine - end(increments.reshape(num_samples, -1, 2).sum(2))


def test_multilevel_mean_and_error_agree_with_the_exact_euler_mean(key):
    num_samples = [40_000, 10_000, 5000, 2500]
    estimate = control_variates.multilevel(key, euler, num_samples)
    exact = (1 + 1 / 16) ** 8  # each of the 8 steps multiplies the mean by 1 + dt / 2
    assert abs(estimate.value - exact) < 6 * estimate.standard_error
    assert estimate.standard_error < 0.03
    errors = [np.var(euler(i, jax.random.key(i), n)) / n for i, n in enumerate(num_samples)]
    chex.assert_trees_all_close(estimate.standard_error, np.sqrt(sum(errors)), rtol=0.1)
    assert estimate.num_samples == 57_500


def test_allocation_meets_the_error_at_the_least_cost():
    variances, costs = np.array([2.0, 0.1, 0.02]), np.array([1.0, 3.0, 9.0])
    counts = np.asarray(control_variates.allocate_samples(variances, costs, standard_error=0.01))
    assert np.sum(variances / counts) <= 0.01**2
    shifted = counts * np.array([0.95, 1.0, 1.0])
    shifted[1] = variances[1] / (1e-4 - variances[0] / shifted[0] - variances[2] / shifted[2])
    assert shifted @ costs > counts @ costs


def test_half_precision_is_averaged_in_float32():
    values = jnp.ones(1001, jnp.bfloat16).at[:500].set(1.0078125)
    others = control_variates.leave_one_out(values)
    chex.assert_trees_all_close(others[-1], 1 + 0.0078125 / 2, rtol=1e-6)
    with pytest.raises(TypeError, match="values must be real"):
        control_variates.leave_one_out(jnp.ones(3, jnp.complex64))


def test_mistakes_are_named(key):
    with pytest.raises(ValueError, match="control_means must have shape"):
        control_variates.control_variates(jnp.zeros(9), jnp.zeros((9, 2)), jnp.zeros(3))
    with pytest.raises(ValueError, match="number of samples less that of controls"):
        control_variates.control_variates(jnp.zeros(3), jnp.zeros((3, 2)), jnp.zeros(2))
    with pytest.raises(ValueError, match="number of values must be at least 2"):
        control_variates.leave_one_out(jnp.zeros(1))
    with pytest.raises(ValueError, match=r"num_samples\[1\]"):
        control_variates.multilevel(key, euler, [10, 1])


def test_few_samples_are_two_on_every_level():
    counts = control_variates.allocate_samples(
        jnp.array([1.0, 0.01, 0.0]), jnp.array([1.0, 4.0, 9.0]), standard_error=0.5
    )
    chex.assert_trees_all_equal(counts, np.array([5.0, 2.0, 2.0]))
