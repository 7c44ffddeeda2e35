"""Every latent-variable model through the conformance suite: a new model adds a row."""

import functools

import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest

from jaxgen.models import contracts
from jaxgen.models.latent.vae import VAE

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

ROWS = {
    "vae_bernoulli": VAE(num_dims=3, num_symbols=2, num_latents=1, hidden_sizes=(5,)),
    "vae_categorical": VAE(num_dims=2, num_symbols=3, num_latents=1, hidden_sizes=(6, 4)),
}


@functools.cache
def built(name):
    module = ROWS[name]
    x = conformance.every_x(module.num_dims, module.num_symbols)
    params = module.init(jax.random.key(0), x)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.4 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return contracts.latent_variable(module), jax.tree.unflatten(structure, noisy), x


@pytest.mark.parametrize("name", ROWS)
def test_sums_to_one(name):
    conformance.check_sums_to_one(*built(name))


@pytest.mark.parametrize("name", ROWS)
def test_weights_are_unbiased(name, key):
    conformance.check_weights_are_unbiased(*built(name), key)


@pytest.mark.parametrize("name", ROWS)
def test_bounds_are_ordered(name, key):
    conformance.check_bounds_are_ordered(*built(name), key)


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("name", ROWS)
def test_elbo_gradient(name, key, kl):
    conformance.check_gradient(*built(name), key, kl)


# The suite itself is tried on models that are wrong in the ways published code is wrong.


class _Wrapped:
    """A distribution with one method replaced."""

    def __init__(self, distribution, **methods):
        self._distribution, self._methods = distribution, methods

    def __getattr__(self, name):
        return self._methods.get(name) or getattr(self._distribution, name)


def logits_squashed_twice(model):
    """Probabilities fed where logits are meant, and read as probabilities again."""

    def likelihood(params, z):
        inner = model.likelihood(params, z)
        return _Wrapped(inner, log_prob=lambda x: inner.log_prob(x) * 0.9)

    return model._replace(likelihood=likelihood)


def log_det_forgotten(model):
    """A posterior that scales its sample and forgets the log-determinant."""

    def posterior(params, x):
        inner = model.posterior(params, x)

        def sample_and_log_prob(seed, sample_shape):
            z, log_q = inner.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
            return 1.3 * z, log_q

        return _Wrapped(inner, sample_and_log_prob=sample_and_log_prob)

    return model._replace(posterior=posterior)


def kl_sign_flipped(model):
    """A KL term that is added where it should be taken off."""

    def posterior(params, x):
        inner = model.posterior(params, x)
        return _Wrapped(inner, kl_divergence=lambda prior: -inner.kl_divergence(prior))

    return model._replace(posterior=posterior)


def test_unnormalised_likelihood_is_caught():
    model, params, x = built("vae_bernoulli")
    with pytest.raises(AssertionError):
        conformance.check_sums_to_one(logits_squashed_twice(model), params, x)


def test_forgotten_log_determinant_is_caught(key):
    model, params, x = built("vae_bernoulli")
    with pytest.raises(AssertionError):
        conformance.check_weights_are_unbiased(log_det_forgotten(model), params, x, key)


def test_flipped_kl_is_caught(key):
    model, params, x = built("vae_bernoulli")
    with pytest.raises(AssertionError):
        conformance.check_gradient(kl_sign_flipped(model), params, x, key, "analytic")


def test_bits_and_levels_get_their_own_likelihood():
    for name, events in [("vae_bernoulli", 3), ("vae_categorical", 2)]:
        model, params, _ = built(name)
        distribution = model.likelihood(params, jnp.zeros((4, 1)))
        assert distribution.batch_shape == (4,)
        assert distribution.event_shape == (events,)


def test_latents_can_have_leading_sample_axes():
    model, params, x = built("vae_categorical")
    log_prob = model.likelihood(params, jnp.zeros((7, len(x), 1))).log_prob(x[None])
    assert log_prob.shape == (7, len(x))
    assert np.isfinite(log_prob).all()


def test_wrong_data_is_refused():
    model, params, _ = built("vae_bernoulli")
    with pytest.raises(TypeError, match="x must hold integers, got dtype float32"):
        model.posterior(params, jnp.zeros((2, 3)))
