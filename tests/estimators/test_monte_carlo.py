import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.estimators import _monte_carlo as monte_carlo


def uniforms(key, num_samples):
    return jax.random.uniform(key, (num_samples,))


def normals(key, num_samples):
    return jax.random.normal(key, (num_samples,))


def stratified(key, num_samples):
    return (jnp.arange(num_samples) + jax.random.uniform(key, (num_samples,))) / num_samples


def moments_of_uniform(key, num_samples, chunk_size):
    return monte_carlo.expectation(
        key, uniforms, lambda u: (u, jnp.stack([u**2, u**3])), num_samples, chunk_size=chunk_size
    )


def test_mean_and_error_agree_with_numpy_over_the_same_samples(key):
    estimate = moments_of_uniform(key, 1000, 100)
    u = np.concatenate(
        [uniforms(jax.random.fold_in(key, jnp.int32(i)), 100) for i in range(10)]
    ).astype(np.float64)
    chex.assert_trees_all_close(estimate.value[0], u.mean(), rtol=1e-6)
    chex.assert_trees_all_close(
        estimate.value[1], np.array([(u**2).mean(), (u**3).mean()]), rtol=1e-6
    )
    error = np.std(u, ddof=1) / np.sqrt(1000)
    chex.assert_trees_all_close(estimate.standard_error[0], error, rtol=1e-6)
    assert estimate.num_samples == 1000


def test_whole_chunks_are_drawn_and_counted(key):
    assert moments_of_uniform(key, 1001, 100).num_samples == 1001  # eleven chunks of 91
    assert moments_of_uniform(key, 999, 100).num_samples == 1000  # ten chunks of 100


def test_intervals_cover_at_their_stated_rate(key):
    keys = jax.random.split(key, 2000)
    estimate = jax.jit(jax.vmap(lambda k: monte_carlo.expectation(k, normals, jnp.exp, 4000)))(keys)
    score = (np.asarray(estimate.value) - np.exp(0.5)) / np.asarray(estimate.standard_error)
    covered = np.sum(np.abs(score) < scipy.stats.norm.isf(0.05))
    sampling_checks.assert_frequencies([covered, 2000 - covered], [0.9, 0.1])
    covered = np.sum(np.abs(score * 1.25) < scipy.stats.norm.isf(0.05))
    with pytest.raises(AssertionError):  # an error too small by a fifth is seen
        sampling_checks.assert_frequencies([covered, 2000 - covered], [0.9, 0.1])


def test_ten_billion_samples_lose_no_digits():
    num_chunks, chunk_size = 1_000_000, 10_000

    def step(moments, _):
        # Two values a chunk stand for 10,000: only the number of merges matters here. The chunks'
        # means are 1000 and, every third, 1000 + 2⁻¹³; float32's spacing there is 2⁻¹⁴.
        center = 1000.0 + (moments.num_chunks % 3 == 1) * 2.0**-13
        return monte_carlo.update_moments(moments, jnp.stack([center - 1, center + 1])), None

    empty = monte_carlo.init_moments(jax.ShapeDtypeStruct((), jnp.float32))
    moments, _ = jax.jit(lambda m: jax.lax.scan(step, m, length=num_chunks))(empty)
    estimate = monte_carlo.estimate_from_moments(moments, chunk_size)
    exact_mean = float(moments.mean) - 1000 + float(moments.remainder)
    assert abs(exact_mean - 2.0**-13 / 3) < 1e-8  # the standard error is 1e-5
    # No float32 is this close, so the remainder has carried the rest.
    assert abs(float(moments.mean) - 1000 - 2.0**-13 / 3) > 1e-5
    chex.assert_trees_all_close(estimate.num_samples, 1e10, rtol=1e-7)
    chex.assert_trees_all_close(estimate.standard_error, 1e-5, rtol=1e-4)


def test_a_requested_error_is_reached_and_not_far_exceeded(key):
    estimate = monte_carlo.expectation(
        key, uniforms, lambda u: u, 10_000_000, standard_error=1e-3, chunk_size=1000
    )
    assert 0.98e-3 < estimate.standard_error <= 1e-3
    assert abs(estimate.num_samples - 83_333) < 3000
    assert abs(estimate.value - 0.5) < 6e-3


def test_the_budget_ends_a_run_that_cannot_reach_its_error(key):
    estimate = monte_carlo.expectation(
        key, uniforms, lambda u: u, 5000, standard_error=1e-9, chunk_size=1000
    )
    assert estimate.num_samples == 5000
    assert estimate.standard_error > 1e-9


def test_no_variation_yet_is_no_reason_to_stop(key):
    estimate = monte_carlo.expectation(
        key, uniforms, lambda u: u < 1e-4, 100_000, standard_error=1e-3, chunk_size=100
    )
    assert estimate.num_samples > 100
    assert estimate.value > 0


def test_progress_is_reported_on_the_way(key):
    seen = []
    estimate = monte_carlo.expectation(
        key, uniforms, lambda u: u, 1000, chunk_size=100, progress_fn=seen.append
    )
    jax.effects_barrier()
    assert sorted(float(e.num_samples) for e in seen) == [100.0 * (i + 1) for i in range(10)]
    assert any(float(e.value) == float(estimate.value) for e in seen)


def test_gradient_flows_through_a_reparameterized_sampler(key):
    def second_moment(scale):
        return monte_carlo.expectation(
            key, normals, lambda z: (scale * z) ** 2, 1000, chunk_size=100
        ).value

    value, gradient = jax.value_and_grad(second_moment)(2.0)
    chex.assert_trees_all_close(gradient, value, rtol=1e-5)  # d(s² m) / ds = 2 s m, and s = 2


def test_double_precision_is_kept(x64, key):
    estimate = monte_carlo.expectation(key, uniforms, lambda u: 1e9 + u, 1000)
    assert estimate.value.dtype == jnp.float64
    assert abs(float(estimate.value) - 1e9 - 0.5) < 0.1


def test_antithetic_points_of_a_linear_function_have_no_error(key):
    estimate = monte_carlo.expectation(
        key, normals, monte_carlo.antithetic_integrand(lambda z: 3 + z, jnp.negative), 1000
    )
    assert estimate.value == 3
    assert estimate.standard_error == 0


def test_antithetic_error_is_right_and_below_that_of_independent_pairs(key):
    estimate = monte_carlo.expectation(
        key, normals, monte_carlo.antithetic_integrand(jnp.exp, jnp.negative), 200_000
    )
    # Var cosh z = (e² + 1) / 2 − e
    error = np.sqrt(((np.exp(2) + 1) / 2 - np.e) / 200_000)
    chex.assert_trees_all_close(estimate.standard_error, error, rtol=0.05)
    assert error < 0.8 * np.sqrt((np.exp(2) - np.e) / 400_000)
    assert abs(estimate.value - np.exp(0.5)) < 6 * error


def test_common_random_numbers_cancel_what_is_shared(key):
    estimate = monte_carlo.common_random_numbers(
        key, normals, lambda z: jnp.exp(z) + z, jnp.exp, 10_000
    )
    chex.assert_trees_all_close(estimate.standard_error, 0.01, rtol=0.05)
    assert abs(estimate.value) < 0.06


def test_replicates_give_the_error_of_a_stratified_design(key):
    @jax.jit
    @jax.vmap
    def run(key):
        return monte_carlo.replicated(key, stratified, jnp.exp, 64, num_replicates=8)

    estimate = run(jax.random.split(key, 4000))
    assert np.all(np.asarray(estimate.num_samples) == 8)
    score = (np.asarray(estimate.value) - (np.e - 1)) / np.asarray(estimate.standard_error)
    covered = np.sum(np.abs(score) < scipy.stats.t(7).isf(0.1))
    sampling_checks.assert_frequencies([covered, 4000 - covered], [0.8, 0.2])
    plain = np.sqrt((np.exp(2) - 1) / 2 - (np.e - 1) ** 2) / np.sqrt(8 * 64)
    covered = np.sum(np.abs(np.asarray(estimate.value) - (np.e - 1)) < 1.28 * plain)
    with pytest.raises(AssertionError):  # the error of independent points is far too large
        sampling_checks.assert_frequencies([covered, 4000 - covered], [0.8, 0.2])


def autoregression(key, num_steps, persistence=0.9):
    """Steps of x_t = a x_{t−1} + ε_t from its stationary law."""

    def step(x, noise):
        x = persistence * x + noise
        return x, x

    noise = jax.random.normal(key, (num_steps + 1,))
    start = noise[0] / jnp.sqrt(1 - persistence**2)
    return jax.lax.scan(step, start, noise[1:])[1]


@pytest.mark.usefixtures("optimized")
def test_batch_means_of_a_correlated_sequence_cover_at_their_stated_rate(key):
    def run(key):
        chain = autoregression(key, 10_000)
        return [monte_carlo.batch_means(chain, num_batches=num) for num in (20, 10_000)]

    # A few hundred chains at a time: all together take a gigabyte.
    runs = jax.jit(lambda keys: jax.lax.map(run, keys, batch_size=250))
    batched, independent = runs(jax.random.split(key, 4000))
    assert np.all(np.asarray(batched.num_samples) == 20)
    score = np.abs(np.asarray(batched.value)) / np.asarray(batched.standard_error)
    covered = np.sum(score < scipy.stats.t(19).isf(0.1))
    assert abs(covered / 4000 - 0.8) < 0.03
    score = np.abs(np.asarray(independent.value)) / np.asarray(independent.standard_error)
    assert np.mean(score < 1.28) < 0.35  # as if independent, the error is four times too small


@pytest.mark.parametrize("num_batches", [2, 3, 7, 9])
def test_batch_means_agree_with_numpy_over_the_same_batches(num_batches):
    values = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    estimate = monte_carlo.batch_means(values, num_batches=num_batches)
    means = np.stack([batch.mean(0) for batch in np.array_split(values, num_batches)])
    error = means.std(0, ddof=1) / np.sqrt(num_batches)
    chex.assert_trees_all_close(estimate.value, values.mean(0), rtol=1e-6)
    chex.assert_trees_all_close(estimate.standard_error, error, rtol=1e-5)


def test_integers_bits_and_half_precision_are_averaged_as_floats(key):
    assert monte_carlo.antithetic_integrand(lambda x: x > 0, jnp.abs)(jnp.array(1)) == 1
    levels = monte_carlo.antithetic_integrand(lambda x: x, lambda x: x)(jnp.uint8(200))
    assert levels == 200
    values = jnp.ones(1000, jnp.bfloat16).at[::2].set(1.0078125)
    estimate = monte_carlo.batch_means(values, num_batches=10)
    chex.assert_trees_all_close(estimate.value, 1.00390625, rtol=1e-6)


def test_complex_values_are_refused(key):
    def wave(x):
        return jnp.exp(1j * x)

    for run in (
        lambda: monte_carlo.expectation(key, uniforms, wave, 10),
        lambda: monte_carlo.replicated(jax.random.clone(key), uniforms, wave, 4, num_replicates=2),
        lambda: monte_carlo.common_random_numbers(
            jax.random.clone(key), uniforms, wave, jnp.sin, 10
        ),
        lambda: monte_carlo.antithetic_integrand(wave, jnp.negative)(0.5),
        lambda: monte_carlo.mean_of_independent(jnp.ones(3, jnp.complex64)),
    ):
        with pytest.raises(TypeError, match="the value of f must be real, got dtype complex64"):
            run()
    with pytest.raises(TypeError, match="values must be real"):
        monte_carlo.batch_means(jnp.ones(3, jnp.complex64), num_batches=2)


def test_mistakes_are_named(key):
    with pytest.raises(TypeError, match="num_samples must be a Python integer"):
        monte_carlo.expectation(key, uniforms, jnp.exp, 1e10)
    with pytest.raises(ValueError, match="chunk_size must be at least 5"):
        monte_carlo.expectation(key, uniforms, jnp.exp, 10**10, chunk_size=1)
    with pytest.raises(ValueError, match="chunk_size must be at least 2 for"):
        monte_carlo._equal_chunks(2**31, 1)
    assert monte_carlo._equal_chunks(2**31 - 1, 1) == (2**31 - 1, 1)
    with pytest.raises(ValueError, match="standard_error must be in"):
        monte_carlo.expectation(key, uniforms, jnp.exp, 10, standard_error=0.0)
    with pytest.raises(ValueError, match="num_replicates must be at least 2"):
        monte_carlo.replicated(key, uniforms, jnp.exp, 10, num_replicates=1)
    with pytest.raises(ValueError, match="num_batches must be at least 2"):
        monte_carlo.batch_means(jnp.zeros(9), num_batches=1)
    with pytest.raises(ValueError, match="number of values less num_batches must be at least 0"):
        monte_carlo.batch_means(jnp.zeros(9), num_batches=10)
