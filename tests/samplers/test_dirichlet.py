import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._dirichlet import dirichlet, log_dirichlet

CONCENTRATION = np.array([0.5, 1.0, 2.5], np.float32)


def test_coordinates_follow_their_beta_marginals_and_sum_to_one(key):
    x = np.asarray(dirichlet(key, CONCENTRATION, (60_000,)), np.float64)
    chex.assert_trees_all_close(x.sum(-1), 1, atol=1e-6, rtol=1e-7)
    for column, a in enumerate(CONCENTRATION):
        marginal = scipy.stats.beta(a, CONCENTRATION.sum() - a)
        sampling_checks.assert_distribution(x[:, column], marginal.cdf)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_categories_are_the_last_axis_whatever_the_batch(shape, key):
    x = dirichlet(key, CONCENTRATION, shape)
    assert x.shape == (*shape, 3)
    chex.assert_trees_all_close(x.sum(-1), np.ones(shape), rtol=1e-5)


def test_tiny_concentrations_keep_finite_logarithms(key):
    log_x = log_dirichlet(key, jnp.full((5, 4), 1e-3))
    assert log_x.shape == (5, 4)
    assert jnp.all(jnp.isfinite(log_x))


def test_gradient_of_the_mean_agrees_with_closed_form(key):
    keys = jax.random.split(key, 1000)
    mean = lambda a, k: jnp.mean(dirichlet(k, a, (16,))[:, 0])  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(mean), (None, 0)))(jnp.array([1.0, 2.0, 3.0]), keys)
    sampling_checks.assert_mean(gradients, np.array([5, -1, -1]) / 36)


def test_a_scalar_is_refused(key):
    with pytest.raises(ValueError, match="concentration must have a last axis"):
        dirichlet(key, 1.0)
