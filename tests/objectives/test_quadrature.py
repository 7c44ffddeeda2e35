import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._quadrature import gauss_legendre, product_rule
from jaxgen.models.latent._linear_gaussian import LinearGaussian, LinearGaussianParams
from jaxgen.objectives._quadrature import quadrature_log_prob

MODEL = LinearGaussian()
LINE = gauss_legendre(-7.0, 7.0, 12, 6)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_value_and_gradient_are_those_of_the_closed_form(num_latents, distrax_broadcasting):
    loadings = jnp.array([[1.0, 0.3], [-0.5, 0.8], [0.2, -0.4]])[:, :num_latents]
    params = LinearGaussianParams(
        loadings, jnp.log(0.7), jnp.zeros((num_latents, 3)), jnp.eye(num_latents)
    )
    x = jnp.array([[1.1, -0.6, 0.4], [0.0, 2.0, -1.0]])
    rule = LINE if num_latents == 1 else product_rule(LINE, LINE)

    def found(params):
        return quadrature_log_prob(MODEL, params, x, rule)

    np.testing.assert_allclose(found(params), MODEL.log_prob(params, x), atol=1e-4)
    gradient = jax.grad(lambda p: found(p).sum())(params)
    exact = jax.grad(lambda p: MODEL.log_prob(p, x).sum())(params)
    np.testing.assert_allclose(gradient.loadings, exact.loadings, atol=1e-3)
    np.testing.assert_allclose(gradient.log_noise, exact.log_noise, atol=1e-3)
