"""Every latent-variable model through the conformance suite: a new model adds a row."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest

from jaxgen.models import contracts
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
    estimators: tuple[str, ...] = ("monte_carlo",)
    tolerance: float = 1e-5
    noise: float = 0.4


def two_modes(theta, y):
    """A density that no location and scale make normal."""
    return jnp.logaddexp(theta[0] - 0.5 * (y - 1.0) ** 2, -0.5 * (y + 1.0) ** 2)


SPLINE = SplineCoupling(num_steps=2, num_bins=3, hidden_size=3)
LINE, PLANE = conformance.line(), conformance.plane()
ROWS = {
    "vae_bernoulli": Row(VAE(3, 2, 1, (5,)), LINE, ("analytic", "monte_carlo")),
    "vae_categorical": Row(VAE(2, 3, 1, (6, 4)), LINE, ("analytic",)),
    "vae_convolutional": Row(
        VAE(4, 2, 1, (3,), Convolutions((2, 2), (2,)), prior_family=VampPrior(2)), LINE
    ),
    "vae_logistic": Row(
        VAE(1, 6, 1, (3,), observation=LogisticMixture(2), prior_family=MixtureOfNormals(2)), LINE
    ),
    "vae_normal": Row(
        VAE(
            1,
            None,
            1,
            (3,),
            observation=SharedNormal(),
            posterior_family=InverseCDFPosterior(two_modes, (0.5,)),
        ),
        LINE,
    ),
    "vae_autoregressive": Row(
        VAE(
            2,
            2,
            2,
            (3,),
            prior_family=FlowPrior(SPLINE),
            posterior_family=FlowPosterior(InverseAutoregressive(num_steps=2, hidden_size=4)),
        ),
        PLANE,
        tolerance=1e-4,
        noise=0.15,
    ),
    "vae_spline": Row(
        VAE(2, 2, 2, (3,), posterior_family=FlowPosterior(SPLINE)),
        PLANE,
        ("doubly_reparameterised",),
        tolerance=1e-4,
        noise=0.15,
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
    params = jax.jit(module.init)(jax.random.key(0), x[:1])
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + row.noise * random.normal(size=leaf.shape).astype(np.float32), params
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
