import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._student_t import student_t

draw = jax.jit(lambda key, degrees: student_t(key, degrees, (100_000,)))


@pytest.mark.parametrize("degrees", [0.7, 2.0, 30.0])
def test_samples_follow_the_student_t_distribution(degrees, key):
    x = draw(key, degrees)
    sampling_checks.assert_distribution(x, scipy.stats.t(degrees).cdf)


def test_degrees_of_each_sample_are_its_own(key):
    degrees = jnp.tile(jnp.array([1.0, 50.0]), 50_000)
    x = np.asarray(jax.jit(student_t)(key, degrees)).reshape(-1, 2)
    sampling_checks.assert_distribution(x[:, 0], scipy.stats.t(1).cdf)
    sampling_checks.assert_distribution(x[:, 1], scipy.stats.t(50).cdf)
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(x[:, 0], scipy.stats.t(1.2).cdf)


def test_gradient_of_the_tail_mass_proxy_agrees_with_quadrature(key):
    """E[log(1 + x²)] is smooth in the degrees and finite for all of them."""
    keys = jax.random.split(key, 1000)
    mean = lambda d, k: jnp.mean(jnp.log1p(student_t(k, d, (16,)) ** 2))  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(mean), (None, 0)))(3.0, keys)
    ends = [scipy.stats.t(d).expect(lambda x: np.log1p(x**2)) for d in (2.999, 3.001)]
    sampling_checks.assert_mean(gradients, (ends[1] - ends[0]) / 0.002)
