"""A briefly trained VAE: three estimates of log p(x) that share no code agree."""

import functools

import chex
import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import optax
import pytest

from jaxgen.estimators._annealed import log_likelihood_bounds, sigmoid_schedule
from jaxgen.models._output_bias import set_output_bias
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._multi_sample import importance_log_prob

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

MODEL = VAE(6, 2, 2, (8,))
# Three bits and their complement: a latent variable has something to say.
HALF = np.random.default_rng(0).integers(0, 2, (256, 3))
X = np.concatenate([HALF, 1 - HALF], axis=1)


@functools.partial(jax.jit, compiler_options=conformance.QUICK)
def trained():
    params = MODEL.init(jax.random.key(0), X[:1])
    optimizer = optax.adam(0.02)

    def step(carry, key):
        params, state = carry
        loss, gradient = jax.value_and_grad(lambda p: -jnp.mean(elbo(key, MODEL, p, X).value))(
            params
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(jax.random.key(1), 300)
    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, losses


@functools.partial(jax.jit, compiler_options=conformance.QUICK)
def three_estimates(params):
    keys = jax.random.split(jax.random.key(2), 4)
    z = MODEL.prior(params).sample(seed=keys[0], sample_shape=(32,))
    x = MODEL.likelihood(params, z).sample(seed=keys[1])
    annealed = log_likelihood_bounds(
        keys[2], MODEL, params, x, z, sigmoid_schedule(250), num_chains=64, num_leapfrog=4
    )
    return annealed, importance_log_prob(keys[3], MODEL, params, x, num_samples=2000)


def test_annealing_from_both_sides_agrees_with_the_importance_bound():
    params, losses = trained()
    assert losses[-20:].mean() < losses[:5].mean() - 0.8  # it learned
    annealed, importance = three_estimates(params)
    assert (np.asarray(importance.standard_error) < 0.1).all()
    for bound in (annealed.lower, annealed.upper):
        differences = np.asarray(bound.value - importance.value)
        error = differences.std() / len(differences) ** 0.5
        assert error < 0.02
        assert abs(differences.mean()) < 6 * error + 0.02
    assert annealed.upper.value.mean() > annealed.lower.value.mean() - 0.02


def test_output_bias_is_the_data_without_a_latent():
    params = set_output_bias(MODEL, jax.jit(MODEL.init)(jax.random.key(0), X[:1]), X)
    bias = params["params"]["outputs"]["bias"]
    smoothed = (X.sum(0) + 1) / (len(X) + 2)
    chex.assert_trees_all_close(jax.nn.sigmoid(bias), smoothed, atol=1e-5, rtol=1e-7)
