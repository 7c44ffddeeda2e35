import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.models._gaussian_mixture import GaussianMixture

MIXTURE = GaussianMixture(
    jnp.log(jnp.array([0.3, 0.7])),
    jnp.array([[-1.0, 0.5], [2.0, 0.0]]),
    # 9 stands above the diagonal, where nothing may be read.
    jnp.array([[[0.5, 9.0], [0.3, 0.8]], [[1.0, 9.0], [-0.4, 0.6]]]),
)
WEIGHTS = (0.3, 0.7)
COVARIANCES = [np.tril(f) @ np.tril(f).T for f in np.asarray(MIXTURE.factors)]


@functools.cache
def draws():
    return MIXTURE.sample(jax.random.key(5), 4000)


def test_log_prob_is_that_of_scipy():
    x = np.asarray(draws()[:50])
    expected = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(WEIGHTS, np.asarray(MIXTURE.means), COVARIANCES, strict=True)
    )
    chex.assert_trees_all_close(MIXTURE.log_prob(x), np.log(expected), atol=1e-4, rtol=1e-7)
    one_by_one = jax.vmap(GaussianMixture.log_prob, (None, 0))(MIXTURE, jnp.asarray(x))
    chex.assert_trees_all_close(one_by_one, np.log(expected), atol=1e-4, rtol=1e-7)


def test_samples_have_the_mixtures_moments():
    means = np.asarray(MIXTURE.means)
    mean = WEIGHTS @ means
    second = sum(
        w * (c + np.outer(m, m)) for w, m, c in zip(WEIGHTS, means, COVARIANCES, strict=True)
    )
    x = np.asarray(draws())
    sampling_checks.assert_mean(x, mean)
    sampling_checks.assert_mean(x[:, :, None] * x[:, None, :], second)


def test_em_climbs_to_where_the_gradient_vanishes():
    x = draws()
    start = GaussianMixture(jnp.zeros(2), jnp.array([[-0.5, 0.0], [0.5, 0.0]]), MIXTURE.factors)

    def value(params):
        return jnp.mean(params.log_prob(x))

    def step(params, _):
        return params.em_step(x), value(params)

    params, values = jax.jit(lambda p: jax.lax.scan(step, p, length=300))(start)
    assert np.diff(values).min() > -1e-5, "the likelihood fell"
    assert values[-1] > values[0] + 0.1
    for leaf in jax.tree.leaves(jax.grad(value)(params)):
        chex.assert_trees_all_close(leaf, 0.0, atol=2e-4, rtol=1e-7)
    chex.assert_trees_all_close(params.means, MIXTURE.means, atol=0.15, rtol=1e-7)


def test_a_component_cannot_shrink_onto_a_point():
    x = jnp.array([[0.0, 0.0], [5.0, 5.0], [6.0, 5.0]])
    params = GaussianMixture(
        jnp.zeros(2), jnp.array([[0.0, 0.0], [5.5, 5.0]]), jnp.tile(0.5 * jnp.eye(2), (2, 1, 1))
    )
    for _ in range(5):
        params = params.em_step(x, min_scale=0.1)
    assert np.isfinite(params.factors).all()
    chex.assert_trees_all_close(jnp.diagonal(params.factors[0]), 0.1, atol=1e-3, rtol=1e-7)


@pytest.mark.parametrize("x", [[[0.0, 0], [1, 0], [0, 1], [2, 2]], [[0.0, 0], [1, 0], [500, 0]]])
def test_a_component_without_points_or_spread_keeps_its_place(x):
    """The last component is far from all points, or has one of them for itself."""
    x = jnp.array(x)
    mixture = GaussianMixture(
        jnp.zeros(3),
        jnp.array([[0.0, 0], [1, 1], [500, 1]]),
        jnp.tile(jnp.eye(2)[None], (3, 1, 1)),
    )

    @jax.jit
    def step(mixture):
        return mixture.em_step(x), jnp.sum(mixture.log_prob(x))

    values = []
    for _ in range(4):
        mixture, value = step(mixture)
        values.append(value)
    assert np.isfinite(values).all()
    assert np.diff(values).min() > -1e-4, "the likelihood fell"
    chex.assert_trees_all_equal(mixture.means[2], np.array([500, 1]))
    weight = jax.nn.softmax(mixture.logits)[2]
    chex.assert_trees_all_close(weight, np.mean(np.asarray(x)[:, 0] > 100), atol=1e-6, rtol=1e-7)


def test_no_solve_is_batched():
    """Some versions of jax hang where two batched ones run at once."""

    def value(mixture, x):
        return jnp.mean(mixture.em_step(x).log_prob(x))

    program = jax.jit(jax.grad(value)).lower(MIXTURE, jnp.zeros((7, 2))).as_text()
    calls = [line for line in program.splitlines() if "@lapack" in line]
    assert calls
    assert not [line for line in calls if re.search(r"tensor<\d+x\d+x\d+x", line)]


def test_refusals():
    with pytest.raises(ValueError, match="min_scale must be in"):
        MIXTURE.em_step(jnp.zeros((3, 2)), min_scale=-1.0)
    with pytest.raises(ValueError, match="the number of points of x must be at least 1, got 0"):
        MIXTURE.em_step(jnp.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"x must have shape \(4, 2\), got \(4, 3\)"):
        MIXTURE.log_prob(jnp.zeros((4, 3)))
