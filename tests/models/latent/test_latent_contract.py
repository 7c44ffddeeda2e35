"""Every latent-variable model through the conformance suite: a new model adds a row."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest

from jaxgen.core.log_mean_exp import log_mean_exp
from jaxgen.models import contracts
from jaxgen.models.latent.discrete import DiscreteVAE
from jaxgen.models.latent.hierarchical import HierarchicalVAE
from jaxgen.models.latent.posteriors import FlowPosterior, InverseCDFPosterior
from jaxgen.models.latent.priors import FlowPrior, MixtureOfNormals, VampPrior
from jaxgen.models.latent.vae import VAE
from jaxgen.models.layers.convolutions import Convolutions
from jaxgen.models.layers.flows import InverseAutoregressive, SplineCoupling
from jaxgen.models.layers.observations import LogisticMixture, SharedNormal

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")


class Row(NamedTuple):
    """A module, its space of z, and what estimates its ELBO's gradient."""

    module: Any
    z_space: conformance.Space
    estimators: tuple[str, ...] = ()
    tolerance: float = 1e-5
    noise: float = 0.4


def two_modes(theta, y):
    """A density that no location and scale make normal."""
    return jnp.logaddexp(theta[0] - 0.5 * (y - 1.0) ** 2, -0.5 * (y + 1.0) ** 2)


SPLINE = SplineCoupling(num_steps=2, num_bins=3, hidden_size=3)
IAF = FlowPosterior(InverseAutoregressive(num_steps=2, hidden_size=4))
TABLES = InverseCDFPosterior(two_modes, (0.5,))
LINE, PLANE = conformance.line(), conformance.plane()
ROWS = {
    "vae_bernoulli": Row(VAE(3, 2, 1, (5,)), LINE, ("analytic",)),
    "vae_categorical": Row(VAE(2, 3, 1, (6, 4)), LINE),
    "vae_convolutional": Row(
        VAE(4, 2, 1, (3,), Convolutions((2, 2), (2,)), prior_family=VampPrior(2)),
        LINE,
        ("monte_carlo",),
    ),
    "vae_logistic": Row(
        VAE(1, 6, 1, (3,), observation=LogisticMixture(2), prior_family=MixtureOfNormals(2)),
        LINE,
    ),
    "vae_tables": Row(
        VAE(1, None, 1, (3,), observation=SharedNormal(), posterior_family=TABLES),
        LINE,
        ("monte_carlo",),
    ),
    "vae_flows": Row(
        VAE(2, 2, 2, (3,), prior_family=FlowPrior(SPLINE), posterior_family=IAF),
        PLANE,
        ("monte_carlo",),
        tolerance=4e-4,  # the rule's nodes do not know the splines' knots
        noise=0.3,
    ),
    "hierarchical": Row(
        HierarchicalVAE(2, 2, (1, 1), ((3,), (2,))),
        conformance.pair(),
        ("doubly_reparameterised",),
        tolerance=1e-4,
    ),
    "discrete": Row(
        DiscreteVAE(2, 2, 2, 3, None, (4,)), conformance.every_symbol(2, 3), ("vimco",)
    ),
    "relaxed": Row(
        DiscreteVAE(2, 2, 1, 2, 0.7, (4,)),
        conformance.simplex(),
        ("reparameterised",),
        1e-4,
        noise=1.0,
    ),
}
GRADIENTS = [(name, estimator) for name, row in ROWS.items() for estimator in row.estimators]


@functools.cache
def built(name):
    row = ROWS[name]
    module = row.module
    if module.num_symbols is None:
        x_space = conformance.line()
        x = np.array([[-1.2], [0.3], [2.0]], np.float32)
    else:
        x_space = conformance.every_symbol(module.num_dims, module.num_symbols)
        x = x_space.points
    shapes = jax.eval_shape(module.init, jax.random.key(0), x[:1])
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: row.noise * random.normal(size=leaf.shape).astype(np.float32), shapes
    )
    return conformance.Case(contracts.latent_variable(module), params, x, x_space, row.z_space)


@functools.cache
def measured(name):
    return conformance.measure(built(name), jax.random.key(2))


@pytest.mark.parametrize("name", ROWS)
def test_sums_to_one(name):
    conformance.check_sums_to_one(built(name), measured(name), ROWS[name].tolerance)


@pytest.mark.parametrize("name", ROWS)
def test_shapes(name):
    conformance.check_shapes(built(name))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "check",
    [
        conformance.check_samples,
        conformance.check_weights_are_unbiased,
        conformance.check_bounds_are_ordered,
    ],
)
def test_draws(name, check):
    check(built(name), measured(name))


@pytest.mark.parametrize(("name", "estimator"), GRADIENTS)
def test_elbo_gradient(name, estimator, key):
    conformance.check_gradient(built(name), key, estimator)


# The suite itself is tried on models that are wrong in the ways published code is wrong.


class _Wrapped:
    """A distribution with some methods replaced."""

    def __init__(self, distribution, **methods):
        self._distribution, self._methods = distribution, methods

    def __getattr__(self, name):
        return self._methods.get(name) or getattr(self._distribution, name)


def with_unnormalised_likelihood(model):
    """A likelihood off by a factor, as when probabilities are fed for logits."""

    def likelihood(params, z):
        inner = model.likelihood(params, z)
        return _Wrapped(inner, log_prob=lambda x: inner.log_prob(x) * 0.9)

    return model._replace(likelihood=likelihood)


def with_forgotten_log_determinant(model):
    """A posterior that scales its sample and forgets the log-determinant."""

    def posterior(params, x):
        inner = model.posterior(params, x)

        def sample_and_log_prob(seed, sample_shape):
            z, log_q = inner.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
            return 1.3 * z, log_q

        return _Wrapped(inner, sample_and_log_prob=sample_and_log_prob)

    return model._replace(posterior=posterior)


def with_flipped_kl(model):
    """A KL term that is added where it should be taken off."""

    def posterior(params, x):
        inner = model.posterior(params, x)
        return _Wrapped(inner, kl_divergence=lambda prior: -inner.kl_divergence(prior))

    return model._replace(posterior=posterior)


def test_unnormalised_likelihood_is_caught():
    case = built("vae_bernoulli")
    case = case._replace(model=with_unnormalised_likelihood(case.model))
    with pytest.raises(AssertionError, match="the joint sums to"):
        conformance.check_sums_to_one(case, conformance.measure(case, jax.random.key(2)))


def test_forgotten_log_determinant_is_caught():
    case = built("vae_bernoulli")
    case = case._replace(model=with_forgotten_log_determinant(case.model))
    measured = conformance.measure(case, jax.random.key(2))
    with pytest.raises(AssertionError, match="standard errors away"):
        conformance.check_weights_are_unbiased(case, measured)
    with pytest.raises(AssertionError):
        conformance.check_samples(case, measured)


def test_flipped_kl_is_caught(key):
    case = built("vae_bernoulli")
    case = case._replace(model=with_flipped_kl(case.model))
    with pytest.raises(AssertionError, match="standard errors away"):
        conformance.check_gradient(case, key, "analytic")


def test_softmax_over_losses_is_caught():
    log_w = measured("vae_bernoulli").log_w
    swapped = [-log_mean_exp(-log_w.reshape(-1, k, log_w.shape[1]), axis=1) for k in (1, 5, 50)]
    with pytest.raises(AssertionError, match="exceeds the next"):
        conformance.check_bounds_are_ordered(
            built("vae_bernoulli"), measured("vae_bernoulli")._replace(bounds=tuple(swapped))
        )


def test_wrong_data_is_refused():
    case = built("vae_bernoulli")
    with pytest.raises(TypeError, match="x must hold integers, got dtype float32"):
        case.model.posterior(case.params, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="num_symbols must be None for real data, got 2"):
        VAE(3, 2, 1, (5,), observation=SharedNormal()).init(jax.random.key(0), jnp.zeros((1, 3)))
