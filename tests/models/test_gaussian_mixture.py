import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.models import gaussian_mixture as gm

PARAMS = gm.GaussianMixtureParams(
    jnp.log(jnp.array([0.3, 0.7])),
    jnp.array([[-1.0, 0.5], [2.0, 0.0]]),
    # 9 stands above the diagonal, where nothing may be read.
    jnp.array([[[0.5, 9.0], [0.3, 0.8]], [[1.0, 9.0], [-0.4, 0.6]]]),
)
WEIGHTS = (0.3, 0.7)
COVARIANCES = [np.tril(f) @ np.tril(f).T for f in np.asarray(PARAMS.factors)]


@functools.cache
def draws():
    return gm.sample(jax.random.key(5), PARAMS, 4000)


def test_log_prob_is_that_of_scipy():
    x = np.asarray(draws()[:50])
    expected = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(WEIGHTS, np.asarray(PARAMS.means), COVARIANCES, strict=True)
    )
    found = jax.vmap(gm.log_prob, (None, 0))(PARAMS, jnp.asarray(x))
    np.testing.assert_allclose(found, np.log(expected), atol=1e-4)


def test_samples_have_the_mixtures_moments():
    means = np.asarray(PARAMS.means)
    mean = WEIGHTS @ means
    second = sum(
        w * (c + np.outer(m, m)) for w, m, c in zip(WEIGHTS, means, COVARIANCES, strict=True)
    )
    x = np.asarray(draws())
    sampling_checks.assert_mean(x, mean)
    sampling_checks.assert_mean(x[:, :, None] * x[:, None, :], second)


def test_em_climbs_to_where_the_gradient_vanishes():
    x = draws()
    start = gm.GaussianMixtureParams(
        jnp.zeros(2), jnp.array([[-0.5, 0.0], [0.5, 0.0]]), PARAMS.factors
    )

    def value(params):
        return jnp.mean(jax.vmap(gm.log_prob, (None, 0))(params, x))

    def step(params, _):
        return gm.em_step(params, x), value(params)

    params, values = jax.jit(lambda p: jax.lax.scan(step, p, length=300))(start)
    assert np.diff(values).min() > -1e-5, "the likelihood fell"
    assert values[-1] > values[0] + 0.1
    for leaf in jax.tree.leaves(jax.grad(value)(params)):
        np.testing.assert_allclose(leaf, 0.0, atol=2e-4)
    np.testing.assert_allclose(params.means, PARAMS.means, atol=0.15)


def test_a_component_cannot_shrink_onto_a_point():
    x = jnp.array([[0.0, 0.0], [5.0, 5.0], [6.0, 5.0]])
    params = gm.GaussianMixtureParams(
        jnp.zeros(2), jnp.array([[0.0, 0.0], [5.5, 5.0]]), jnp.tile(0.5 * jnp.eye(2), (2, 1, 1))
    )
    for _ in range(5):
        params = gm.em_step(params, x, min_scale=0.1)
    assert np.isfinite(params.factors).all()
    np.testing.assert_allclose(jnp.diagonal(params.factors[0]), 0.1, atol=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match="min_scale must be in"):
        gm.em_step(PARAMS, jnp.zeros((3, 2)), min_scale=-1.0)
    with pytest.raises(ValueError, match="x must have rank"):
        gm.log_prob(PARAMS, jnp.zeros((3, 2)))
