import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.models.latent._linear_gaussian import LinearGaussian, LinearGaussianParams
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives import _likelihood as likelihood


@dataclasses.dataclass(frozen=True)
class Fixed(AutoregressiveModel):
    """Conditionals whose logits are the parameters."""

    num_dims: int = 5
    num_symbols: int = 4

    def logits(self, params, x, *, context=None):
        return params


def test_log_prob_of_a_chain_is_the_sum_of_the_conditionals():
    rng = np.random.default_rng(0)
    logits, x = rng.standard_normal((2, 3, 5, 4), np.float32), rng.integers(0, 4, (2, 3, 5))
    log_p = scipy.special.log_softmax(logits, axis=-1)
    expected = np.take_along_axis(log_p, x[..., None], -1)[..., 0].sum(-1)
    found = jax.jit(likelihood.log_prob)(Fixed(), logits, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_log_prob_is_the_models_own(distrax_broadcasting):
    model, x = LinearGaussian(), jnp.array([[0.3, -1.0]])
    params = LinearGaussianParams(jnp.ones((2, 1)), jnp.zeros(()), jnp.zeros((1, 2)), jnp.eye(1))
    found = jax.jit(likelihood.log_prob)(model, params, x)
    chex.assert_trees_all_close(found, jax.jit(model.log_prob)(params, x), rtol=1e-6)
    with pytest.raises(TypeError, match="model must have an exact log_prob, got VAE"):
        likelihood.log_prob(VAE(2, 2), {}, x)


def test_units_of_a_uniform_model():
    # 64 coordinates of 17 equally likely symbols.
    log_prob = jnp.array([-64 * np.log(17.0)])
    chex.assert_trees_all_close(likelihood.bits_per_dim(log_prob, 64), np.log2(17), rtol=1e-6)
    chex.assert_trees_all_close(likelihood.perplexity(log_prob, 64), 17, rtol=1e-5)


def test_bad_arguments_are_refused(key):
    model = Independent(3, 5)
    params = jax.jit(model.init)(key, np.zeros((2, 3), np.int32))
    with pytest.raises(ValueError, match=r"x must have shape \(..., 3\), got \(2, 4\)"):
        likelihood.log_prob(model, params, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(ValueError, match="num_dims must be at least 1, got 0"):
        likelihood.bits_per_dim(jnp.zeros(2), 0)
