import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import _log_mean_exp as lme


def stream(x, chunk):
    state = lme.init_log_sum(x.shape[1:], x.dtype)
    for start in range(0, x.shape[0], chunk):
        state = lme.update_log_sum(state, x[start : start + chunk])
    return state


@hypothesis.given(offset=st.floats(-1e4, 1e4), scale=st.floats(0.0, 50.0), chunk=st.integers(1, 12))
def test_stream_agrees_with_a_float64_reference(offset, scale, chunk):
    x = (offset + scale * np.random.default_rng(0).normal(size=(12, 3))).astype(np.float32)
    reference = np.log(np.mean(np.exp(x - x.max(0), dtype=np.float64), 0)) + x.max(0)
    tolerance = 2e-6 * (1 + abs(offset))
    np.testing.assert_allclose(lme.log_mean_exp(x), reference, atol=tolerance)
    np.testing.assert_allclose(
        lme.streamed_log_mean_exp(stream(x, chunk)).value, reference, atol=tolerance
    )


def test_effective_sample_size_and_error_agree_with_their_formulas():
    x = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
    w = np.exp(x.astype(np.float64))
    state = stream(x, 100)
    np.testing.assert_allclose(
        lme.streamed_effective_sample_size(state), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4
    )
    delta = w.std(0, ddof=1) / np.sqrt(1000) / w.mean(0)
    np.testing.assert_allclose(lme.streamed_log_mean_exp(state).standard_error, delta, rtol=1e-3)


def test_zero_weights_stay_zero():
    x = jnp.full((4, 2), -jnp.inf)
    chex.assert_trees_all_equal(lme.log_mean_exp(x), jnp.full(2, -jnp.inf))
    chex.assert_trees_all_equal(
        lme.streamed_log_mean_exp(stream(x, 2)).value, jnp.full(2, -jnp.inf)
    )
    late = jnp.concatenate([x, jnp.zeros((4, 2))])
    np.testing.assert_allclose(
        lme.streamed_log_mean_exp(stream(late, 4)).value, np.log(0.5), rtol=1e-6
    )


def test_nan_is_not_hidden():
    x = jnp.array([0.0, jnp.nan, 1.0])
    assert jnp.isnan(lme.log_mean_exp(x))
    assert jnp.isnan(lme.streamed_log_mean_exp(stream(x, 1)).value)


def test_runs_under_jit_with_gradient_equal_to_softmax():
    x = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(jax.jit(jax.grad(lme.log_mean_exp))(x), jax.nn.softmax(x), rtol=1e-6)


def test_empty_axis_is_refused():
    with pytest.raises(ValueError, match="at least one entry along axis 0"):
        lme.log_mean_exp(jnp.zeros((0, 3)))
