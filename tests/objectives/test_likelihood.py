import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.objectives import likelihood


def test_chain_log_prob_is_the_sum_of_the_conditionals():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    x = jax.random.randint(jax.random.key(1), (2, 3, 5), 0, 4)
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), np.asarray(x)[..., None], -1
    )[..., 0].sum(-1)
    np.testing.assert_allclose(likelihood.chain_log_prob(logits, x), expected, rtol=1e-5)


def test_units_of_a_uniform_model():
    # 64 coordinates of 17 equally likely symbols.
    log_prob = jnp.array([-64 * np.log(17.0)])
    np.testing.assert_allclose(likelihood.bits_per_dim(log_prob, 64), np.log2(17), rtol=1e-6)
    np.testing.assert_allclose(likelihood.perplexity(log_prob, 64), 17, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(2, 3\), got \(2, 4\)"):
        likelihood.chain_log_prob(jnp.zeros((2, 3, 5)), jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(ValueError, match="num_dims must be at least 1, got 0"):
        likelihood.bits_per_dim(jnp.zeros(2), 0)
