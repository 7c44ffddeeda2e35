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
    x = np.asarray(x)
    state = lme.init_log_sum(x.shape[1:], x.dtype)
    for start in range(0, x.shape[0], chunk):
        state = update_log_sum(state, x[start : start + chunk])
    return state


@hypothesis.given(offset=st.floats(-1e4, 1e4), scale=st.floats(0.0, 50.0), chunk=st.integers(1, 12))
def test_stream_agrees_with_a_float64_reference(offset, scale, chunk):
    x = (offset + scale * np.random.default_rng(0).normal(size=(12, 3))).astype(np.float32)
    reference = np.log(np.mean(np.exp(x - x.max(0), dtype=np.float64), 0)) + x.max(0)
    tolerance = 2e-6 * (1 + abs(offset))
    np.testing.assert_allclose(log_mean_exp(x), reference, atol=tolerance)
    streamed = streamed_log_mean_exp(stream(x, chunk)).value
    np.testing.assert_allclose(streamed, reference, atol=tolerance)


def test_effective_sample_size_and_error_agree_with_their_formulas():
    x = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
    w = np.exp(x.astype(np.float64))
    state = stream(x, 100)
    np.testing.assert_allclose(
        lme.streamed_effective_sample_size(state), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4
    )
    delta = w.std(0, ddof=1) / np.sqrt(1000) / w.mean(0)
    np.testing.assert_allclose(streamed_log_mean_exp(state).standard_error, delta, rtol=1e-3)


def test_zero_weights_stay_zero():
    x = np.full((4, 2), -np.inf, np.float32)
    np.testing.assert_array_equal(log_mean_exp(x), [-np.inf, -np.inf])
    np.testing.assert_array_equal(streamed_log_mean_exp(stream(x, 2)).value, [-np.inf, -np.inf])
    late = np.concatenate([x, np.zeros((4, 2), np.float32)])
    np.testing.assert_allclose(streamed_log_mean_exp(stream(late, 4)).value, np.log(0.5), rtol=1e-6)


def test_nan_is_not_hidden():
    x = np.array([0.0, np.nan, 1.0], np.float32)
    assert np.isnan(log_mean_exp(x))
    assert np.isnan(streamed_log_mean_exp(stream(x, 1)).value)


def test_runs_under_jit_with_gradient_equal_to_softmax():
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(jax.jit(jax.grad(lme.log_mean_exp))(x), jax.nn.softmax(x), rtol=1e-6)


def test_empty_axis_is_refused():
    with pytest.raises(ValueError, match="at least one entry along axis 0"):
        lme.log_mean_exp(jnp.zeros((0, 3)))
