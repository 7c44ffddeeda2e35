import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import _log_mean_exp as lme

log_mean_exp = jax.jit(lme.log_mean_exp)
update_log_sum = jax.jit(lme.update_log_sum)
streamed_log_mean_exp = jax.jit(lme.streamed_log_mean_exp)


def stream(x, chunk):
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    state = lme.init_log_sum(x.shape[1:], x.dtype)
    for start in range(0, x.shape[0], chunk):
        state = update_log_sum(state, x[start : start + chunk])
    return state


@hypothesis.given(offset=st.floats(-1e4, 1e4), scale=st.floats(0.0, 50.0), chunk=st.integers(1, 12))
def test_stream_agrees_with_a_float64_reference(offset, scale, chunk):
    x = (offset + scale * np.random.default_rng(0).normal(size=(12, 3))).astype(np.float32)
    reference = np.log(np.mean(np.exp(x - x.max(0), dtype=np.float64), 0)) + x.max(0)
    tolerance = 2e-6 * (1 + abs(offset))
    chex.assert_trees_all_close(log_mean_exp(x), reference, atol=tolerance, rtol=1e-7)
    streamed = streamed_log_mean_exp(stream(x, chunk)).value
    chex.assert_trees_all_close(streamed, reference, atol=tolerance, rtol=1e-7)


def test_effective_sample_size_and_error_agree_with_their_formulas():
    x = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
    w = np.exp(x.astype(np.float64))
    state = stream(x, 100)
    chex.assert_trees_all_close(
        lme.streamed_effective_sample_size(state), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4
    )
    delta = w.std(0, ddof=1) / np.sqrt(1000) / w.mean(0)
    chex.assert_trees_all_close(streamed_log_mean_exp(state).standard_error, delta, rtol=1e-3)


def test_the_error_is_right_at_any_scale():
    """Also where weights differ by less than the sum of their squares rounds."""
    scales = np.array([1e-6, 1e-4, 1e-2, 1.0, 3.0])
    x = (scales * np.random.default_rng(2).normal(size=(10_000, 5))).astype(np.float32)
    w = np.exp(x.astype(np.float64))
    for num_terms in (100, 10_000):
        some = w[:num_terms]
        delta = some.std(0, ddof=1) / np.sqrt(num_terms) / some.mean(0)
        estimate = lme.streamed_log_mean_exp(stream(x[:num_terms], num_terms // 4))
        chex.assert_trees_all_close(estimate.standard_error, delta, rtol=1e-2)


def test_no_weight_at_all_gives_minus_infinity_and_no_gradient():
    x = jnp.array([[-jnp.inf, -jnp.inf], [-jnp.inf, 1.0]]).T

    def sums(x):
        state = stream(x, 1)
        return jnp.stack(
            [
                lme.log_mean_exp(x),
                lme.log_sum_exp(x),
                lme.streamed_log_mean_exp(state).value,
                lme.streamed_effective_sample_size(state),
            ]
        )

    values, jacobian = jax.jit(lambda x: (sums(x), jax.jacrev(sums)(x)))(x)
    chex.assert_trees_all_equal(values[:, 0], np.array([-np.inf, -np.inf, -np.inf, 0.0]))
    chex.assert_trees_all_close(
        values[:, 1], np.array([1 - np.log(2), 1.0, 1 - np.log(2), 1.0]), rtol=1e-6
    )
    chex.assert_trees_all_equal(jacobian[:, 0], 0.0)
    chex.assert_trees_all_close(jacobian[:3, 1, 1, 1], 1.0, rtol=1e-6)
    assert np.isfinite(jacobian).all()


def test_integers_and_half_precision_are_promoted_and_complex_numbers_refused():
    assert lme.log_mean_exp(jnp.zeros(3, int)) == 0
    assert lme.log_mean_exp(jnp.zeros(300, jnp.bfloat16).at[0].set(1.0)).dtype == jnp.float32
    with pytest.raises(TypeError, match="x must be real, got dtype complex64"):
        lme.log_mean_exp(jnp.zeros(3, jnp.complex64))


def test_zero_weights_stay_zero():
    x = np.full((4, 2), -np.inf, np.float32)
    chex.assert_trees_all_equal(log_mean_exp(x), np.array([-np.inf, -np.inf]))
    chex.assert_trees_all_equal(
        streamed_log_mean_exp(stream(x, 2)).value, np.array([-np.inf, -np.inf])
    )
    late = np.concatenate([x, np.zeros((4, 2), np.float32)])
    chex.assert_trees_all_close(
        streamed_log_mean_exp(stream(late, 4)).value, np.log(0.5), rtol=1e-6
    )


def test_nan_is_not_hidden():
    x = np.array([0.0, np.nan, 1.0], np.float32)
    assert np.isnan(log_mean_exp(x))
    assert np.isnan(streamed_log_mean_exp(stream(x, 1)).value)


def test_runs_under_jit_with_gradient_equal_to_softmax():
    x = jnp.array([0.3, -1.0, 2.0])
    chex.assert_trees_all_close(
        jax.jit(jax.grad(lme.log_mean_exp))(x), jax.nn.softmax(x), rtol=1e-6
    )


def test_empty_axis_is_refused():
    with pytest.raises(ValueError, match="at least one entry along axis 0"):
        lme.log_mean_exp(jnp.zeros((0, 3)))
