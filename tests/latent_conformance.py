"""What every latent-variable model must satisfy; a new model joins by one row where these are run.

The model must have one latent (Z = 1) and a space of x small enough to enumerate: then log p(x),
the bounds and their gradients are integrals over one z that quadrature gives to float32's last
digits, and everything random is held against them at the suite's stated rate.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import sampling_checks
import scipy.stats

from jaxgen.core import quadrature
from jaxgen.objectives.elbo import elbo
from jaxgen.objectives.multi_sample import iwae_bound, log_weights

NUM_DRAWS = 20_000


def every_x(num_dims, num_symbols):
    """All data points, `[V^D, D]`."""
    return np.array(list(itertools.product(range(num_symbols), repeat=num_dims)), np.int32)


# Fine enough for the steep likelihoods that random networks make, where Gauss-Hermite is not.
RULE = quadrature.gauss_legendre(-8.0, 8.0, 16, num_panels=16)
NODES = RULE.nodes.astype(np.float32)[:, None, None]
LOG_WEIGHTS = np.log(RULE.weights).astype(np.float32)[:, None]


@functools.partial(jax.jit, static_argnums=0)
def exact_log_prob(model, params, x):
    """log ∫ p(z) p(x | z) dz, `[B]`."""
    z = jnp.broadcast_to(NODES, (len(NODES), len(x), 1))
    log_joint = model.prior(params).log_prob(z) + model.likelihood(params, z).log_prob(x[None])
    return jax.nn.logsumexp(log_joint + LOG_WEIGHTS, axis=0)


@functools.partial(jax.jit, static_argnums=0)
def exact_elbo(model, params, x):
    """E_q[log p(x, z) − log q(z | x)] at nodes that move with the posterior, `[B]`."""
    posterior = model.posterior(params, x)
    z = posterior.mean()[None] + NODES * posterior.stddev()[None]
    terms = model.likelihood(params, z).log_prob(x[None]) + model.prior(params).log_prob(z)
    terms = terms - posterior.log_prob(z)
    weights = jnp.exp(LOG_WEIGHTS + jax.scipy.stats.norm.logpdf(NODES[..., 0]))
    return jnp.sum(weights * terms, axis=0)


@functools.partial(jax.jit, static_argnums=0)
def posterior_mass(model, params, x):
    """∫ q(z | x) dz, `[B]`."""
    posterior = model.posterior(params, x)
    z = posterior.mean()[None] + NODES * posterior.stddev()[None]
    return jnp.sum(jnp.exp(posterior.log_prob(z) + LOG_WEIGHTS), 0) * posterior.stddev()[..., 0]


def check_sums_to_one(model, params, x):
    """Σ_x ∫ p(x, z) dz = 1, and ∫ q(z | x) dz = 1 at every x."""
    total = np.exp(np.asarray(exact_log_prob(model, params, x), np.float64)).sum()
    assert abs(total - 1) <= 1e-5, f"the joint sums to {total}"
    np.testing.assert_allclose(posterior_mass(model, params, x), 1.0, atol=1e-5)


def check_weights_are_unbiased(model, params, x, key):
    """E[w] = p(x) at every x."""
    log_w = jax.jit(log_weights, static_argnums=(2, 4))(key, params, model, x, NUM_DRAWS)
    ratios = np.exp(log_w - exact_log_prob(model, params, x)[None])
    sampling_checks.assert_mean(ratios, 1.0)
    assert ratios.std(0).max() < 0.15 * NUM_DRAWS**0.5, "weights too heavy for this check"


def check_bounds_are_ordered(model, params, x, key):
    """ELBO ≤ IWAE_5 ≤ IWAE_50 ≤ log p(x) in expectation, and the ELBO is what quadrature says."""
    log_w = jax.jit(log_weights, static_argnums=(2, 4))(key, params, model, x, NUM_DRAWS)
    sampling_checks.assert_mean(log_w, exact_elbo(model, params, x))
    bounds = [bound_samples(log_w, k) for k in (1, 5, 50)]
    means = [samples.mean(0) for samples in bounds] + [exact_log_prob(model, params, x)]
    errors = [samples.std(0) / len(samples) ** 0.5 for samples in bounds] + [0.0]
    limit = scipy.stats.norm.isf(sampling_checks.FALSE_POSITIVE_RATE / (3 * len(x)))
    for i in range(3):
        excess = np.asarray(means[i] - means[i + 1]) / np.hypot(errors[i], errors[i + 1])
        assert (excess <= limit).all(), f"bound {i} exceeds the next by {excess.max()} errors"
    assert (means[0] < means[2] - limit * np.hypot(errors[0], errors[2])).any(), "no bound improves"


def bound_samples(log_w, num_samples):
    """Independent draws of the K-sample bound from the weights `[N, B]`: `[N / K, B]`."""
    groups = jnp.swapaxes(log_w.reshape(-1, num_samples, log_w.shape[1]), 0, 1)
    return np.asarray(iwae_bound(groups.reshape(num_samples, -1))).reshape(-1, log_w.shape[1])


def check_gradient(model, params, x, key, kl):
    """The ELBO's gradient is that of the integral, in every parameter, on average over keys."""
    x = x[:1]

    def drawn(key):
        return jax.grad(lambda p: jnp.sum(elbo(key, p, model, x, kl=kl).value))(params)

    draws = jax.jit(jax.vmap(drawn))(jax.random.split(key, NUM_DRAWS // 4))
    exact = jax.grad(lambda p: jnp.sum(exact_elbo(model, p, x)))(params)
    for sampled, reference in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        sampling_checks.assert_mean(sampled, reference, rounding=3e-5)
