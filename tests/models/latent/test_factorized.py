"""Independent coordinates as a distrax distribution: its draws are what it scores."""

import math

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

import jaxgen as jg
from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._mixed import Mixed
from jaxgen.models.conditionals._mixture import Mixture
from jaxgen.models.conditionals._shared_normal import SharedNormal
from jaxgen.models.conditionals._symbols import Bits, Categorical, Ordinal
from jaxgen.models.latent._factorized import FactorizedDistribution

SYMBOLS = [Bits(), Categorical(3), Ordinal(4), LogisticMixture(6, 2)]


def random_outputs(conditional, shape):
    size = conditional.num_outputs + conditional.num_shared
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, size)), jnp.float32)


@pytest.mark.parametrize("conditional", SYMBOLS, ids=str)
def test_draws_follow_log_prob(conditional, key):
    distribution = FactorizedDistribution(conditional, random_outputs(conditional, (3, 2)))
    assert isinstance(distribution, distrax.Distribution)
    assert (distribution.batch_shape, distribution.event_shape) == ((3,), (2,))
    x, log_prob = distribution.sample_and_log_prob(seed=key, sample_shape=(100_000,))
    assert x.shape == (100_000, 3, 2)
    chex.assert_trees_all_close(log_prob[:5], distribution.log_prob(x[:5]), atol=1e-6, rtol=1e-7)
    v = conditional.num_symbols
    for row in range(3):
        counts = np.bincount(np.asarray(x[:, row, 0] * v + x[:, row, 1]), minlength=v * v)
        pairs = jnp.stack(jnp.meshgrid(jnp.arange(v), jnp.arange(v), indexing="ij"), -1)
        pairs = jnp.broadcast_to(pairs.reshape(-1, 1, 2), (v * v, 3, 2))
        sampling_checks.assert_frequencies(
            counts, np.exp(np.asarray(distribution.log_prob(pairs)[:, row], np.float64))
        )


def test_no_real_is_drawn_at_the_end_of_a_uniform(monkeypatch, key):
    """Once in eight million draws a float32 uniform is 0, whose quantile is −∞."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.zeros(shape))
    distribution = FactorizedDistribution(SharedNormal(), jnp.zeros((3, 2)))
    chex.assert_trees_all_close(
        distribution.sample(seed=key), jax.scipy.special.ndtri(2.0**-24), rtol=1e-7
    )


@pytest.mark.usefixtures("distrax_broadcasting")
def test_mixed_columns_are_a_likelihood_in_the_units_of_the_data(key):
    positive = Mixture(support=(0.0, math.inf), num_components=2)
    conditional = Mixed((Bits(), Mixture(num_components=2), positive))
    vae = jg.VAE(3, None, 2, (4,), conditional=conditional)
    u = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    x = np.stack([np.round(u[:, 0]), 500 + 20 * u[:, 1], 1e-4 + 1e-3 * u[:, 2]], axis=1)
    keys = jax.random.split(key, 3)
    params = jg.models.set_output_bias(vae, jax.jit(vae.init)(keys[0], x[:1]), x)

    @jax.jit
    def measure(params, x):
        def bound(params):
            return jnp.mean(jg.elbo(keys[1], vae, params, x).value)

        likelihood = vae.likelihood(params, jnp.zeros((40, 2)))
        drawn = likelihood.sample(seed=keys[2])
        return *jax.value_and_grad(bound)(params), drawn, likelihood.mean()

    bound, gradient, drawn, mean = measure(params, x)
    assert np.isfinite(bound)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    chex.assert_trees_all_equal(gradient["params"]["units"], 0.0)
    assert conditional.is_value(drawn).all()
    for found in (drawn.mean(0), mean.mean(0)):
        chex.assert_trees_all_close(found, x.mean(0), rtol=0.4)
