import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._quadrature import gauss_legendre, product_rule
from jaxgen.models._context import Labels
from jaxgen.models.latent._linear_gaussian import LinearGaussian, LinearGaussianParams
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives._quadrature import quadrature_log_prob

MODEL = LinearGaussian()
LINE = gauss_legendre(-7.0, 7.0, 12, 6)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_value_and_gradient_are_those_of_the_closed_form(num_latents, distrax_broadcasting):
    loadings = np.array([[1.0, 0.3], [-0.5, 0.8], [0.2, -0.4]], np.float32)[:, :num_latents]
    params = LinearGaussianParams(
        loadings,
        np.float32(np.log(0.7)),
        np.zeros((num_latents, 3), np.float32),
        np.eye(num_latents, dtype=np.float32),
    )
    x = np.array([[1.1, -0.6, 0.4], [0.0, 2.0, -1.0]], np.float32)
    rule = LINE if num_latents == 1 else product_rule(LINE, LINE)

    @jax.jit
    def with_gradient(params):
        found, pull_found = jax.vjp(lambda p: quadrature_log_prob(MODEL, p, x, rule), params)
        exact, pull_exact = jax.vjp(lambda p: MODEL.log_prob(p, x), params)
        return found, exact, pull_found(jnp.ones(2))[0], pull_exact(jnp.ones(2))[0]

    found, expected, gradient, exact = with_gradient(params)
    chex.assert_trees_all_close(found, expected, atol=1e-4, rtol=1e-7)
    chex.assert_trees_all_close(gradient.loadings, exact.loadings, atol=1e-3, rtol=1e-7)
    chex.assert_trees_all_close(gradient.log_noise, exact.log_noise, atol=1e-3, rtol=1e-7)


def test_every_row_has_its_own_context(distrax_broadcasting):
    model = VAE(3, 2, num_latents=2, hidden_sizes=(4,), conditioning=Labels(2))
    x, labels = np.array([[0, 1, 1], [0, 1, 1]]), np.array([0, 1])
    line = gauss_legendre(-6.0, 6.0, 8, 2)
    rule = product_rule(line, line)
    params = jax.jit(model.init)(jax.random.key(0), x, labels)
    found, turned, same = jax.jit(
        lambda contexts: [quadrature_log_prob(model, params, x, rule, context=c) for c in contexts]
    )([labels, labels[::-1], labels * 0])
    chex.assert_trees_all_close(found, turned[::-1], rtol=1e-6)
    chex.assert_trees_all_close(same, found[0], rtol=1e-6)
    assert abs(found[0] - found[1]) > 1e-3
