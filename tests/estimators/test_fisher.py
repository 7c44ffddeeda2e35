import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

from jaxgen.core._quadrature import Rule, gauss_legendre
from jaxgen.estimators import _fisher as fisher
from jaxgen.estimators._functionals import by_quadrature

LINE = by_quadrature(gauss_legendre(-20.0, 24.0, 16, 16))


def normal(params, x):
    return stats.norm.logpdf(x, params["mean"], params["scale"])


def test_information_of_a_gaussian():
    params = {"mean": np.float32(2.0), "scale": np.float32(1.5)}
    information = jax.jit(lambda p: fisher.fisher_information(LINE, normal, p))(params)
    chex.assert_trees_all_close(information, np.diag([1, 2]) / 1.5**2, atol=1e-5, rtol=1e-7)


def test_information_of_counts():
    values = by_quadrature(Rule(np.arange(80.0), np.ones(80)))

    def log_prob(log_rate, x):
        return stats.poisson.logpmf(x, jnp.exp(log_rate))

    of_rate = jax.jit(lambda log_rate: fisher.fisher_information(values, log_prob, log_rate))
    information = of_rate(np.float32(np.log(4.0)))
    chex.assert_trees_all_close(information, np.array([[4.0]]), rtol=1e-5)


def test_bound_of_a_function_of_the_parameters():
    information = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    jacobian = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bound_fn = jax.jit(fisher.cramer_rao_bound, static_argnames="num_samples")
    bound = np.asarray(bound_fn(information, jacobian, num_samples=10))
    inverse = np.linalg.inv(information) / 10
    chex.assert_trees_all_close(bound[:2, :2], inverse, rtol=1e-5)
    chex.assert_trees_all_close(bound[2, 2], inverse.sum(), rtol=1e-5)


def test_a_wrong_jacobian_is_refused():
    with pytest.raises(ValueError, match="jacobian must have shape"):
        fisher.cramer_rao_bound(jnp.eye(2), jnp.eye(3), num_samples=10)
