import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sampling_checks

from jaxgen.models.autoregressive.independent import Independent
from jaxgen.models.autoregressive.made import MADE
from jaxgen.models.latent.vector_quantized import VectorQuantizedVAE, with_prior
from jaxgen.models.layers.convolutions import Convolutions
from jaxgen.objectives.elbo import elbo
from jaxgen.objectives.vector_quantization import (
    commitment,
    moving_average_surrogate,
    perplexity,
    straight_through,
)

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

MODULE = VectorQuantizedVAE(8, 2, Convolutions((2, 4), (3,)), num_codes=3, code_size=2)
PRIOR = MADE(2, 3, (6,))
EVERY_X = (np.arange(256)[:, None] >> np.arange(8)) & 1
EVERY_Z = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)


def test_generates_a_distribution_and_bounds_it(key):
    """Σ_x p(x) = 1 by enumeration; the bound lies below; draws come as often as they should."""
    random = np.random.default_rng(0)
    shapes = {
        "autoencoder": jax.eval_shape(MODULE.init, jax.random.key(0), EVERY_X[:1]),
        "prior": jax.eval_shape(PRIOR.init, jax.random.key(0), EVERY_Z[:1]),
    }
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    params["autoencoder"]["params"]["code_counts"] = np.array([0.5, 1.0, 2.0], np.float32)
    model = with_prior(MODULE, PRIOR)

    @jax.jit
    def measure(params):
        log_prior = model.prior(params).log_prob(EVERY_Z)
        log_likelihood = model.likelihood(params, EVERY_Z[:, None]).log_prob(EVERY_X[None])
        log_prob = jax.nn.logsumexp(log_prior[:, None] + log_likelihood, axis=0)
        bound = elbo(jax.random.key(1), params, model, EVERY_X, kl="monte_carlo").value
        codes = model.posterior(params, EVERY_X).sample(seed=jax.random.key(2))
        z = model.prior(params).sample(seed=jax.random.key(3), sample_shape=(20_000,))
        return log_prior, log_likelihood, log_prob, bound, codes, z

    log_prior, log_likelihood, log_prob, bound, codes, z = measure(params)
    np.testing.assert_allclose(np.exp(log_prior).sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1.0, atol=1e-5)
    chosen = codes @ np.array([3, 1])
    expected = log_prior[chosen] + log_likelihood[chosen, np.arange(256)]
    np.testing.assert_allclose(bound, expected, atol=1e-4)
    assert (bound < log_prob).all()
    sampling_checks.assert_frequencies(np.bincount(z @ np.array([3, 1])), np.exp(log_prior))
    assert len(np.unique(chosen)) > 1


def test_codes_are_the_nearest():
    params = jax.jit(MODULE.init)(jax.random.key(0), EVERY_X[:1])
    h = jax.random.normal(jax.random.key(1), (7, 2, 2))
    codebook = params["params"]["code_sums"]
    expected = np.linalg.norm(h[..., None, :] - codebook, axis=-1).argmin(-1)
    np.testing.assert_array_equal(MODULE.apply(params, h, method="quantize"), expected)


def test_a_gradient_step_is_the_moving_average_and_revives_the_dead(key):
    sums = jnp.array([[2.0, 0.0], [0.0, 3.0], [9.0, 9.0]])
    counts = jnp.array([2.0, 3.0, 0.05])
    encoded = jnp.array([[1.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    codes = jnp.array([0, 0, 1])

    def term(codebook, encoded):
        return moving_average_surrogate(key, *codebook, encoded, codes, decay=0.9)

    (slopes, nothing) = jax.grad(term, argnums=(0, 1))((sums, counts), encoded)
    optimizer = optax.sgd(1 - 0.9)
    updates, _ = optimizer.update(slopes, optimizer.init((sums, counts)))
    new_sums, new_counts = optax.apply_updates((sums, counts), updates)
    np.testing.assert_allclose(new_counts, [2.0, 2.8, 1.0], rtol=1e-5)
    np.testing.assert_allclose(new_sums[:2], [[2.2, 0.2], [0.0, 3.2]], atol=1e-5)
    assert any(np.allclose(new_sums[2], h, atol=1e-5) for h in encoded)
    np.testing.assert_array_equal(nothing, jnp.zeros((3, 2)))


def test_gradients_pass_the_rounding_and_commitment_pulls_the_encoder_alone():
    h, e = jnp.array([1.0, 2.0]), jnp.array([1.5, 0.0])
    np.testing.assert_array_equal(straight_through(h, e), e)
    slopes = jax.grad(lambda h, e: jnp.sum(straight_through(h, e) ** 2), argnums=(0, 1))(h, e)
    np.testing.assert_array_equal(slopes[0], 2 * e)
    np.testing.assert_array_equal(slopes[1], jnp.zeros(2))
    pull, nothing = jax.grad(commitment, argnums=(0, 1))(h, e)
    np.testing.assert_allclose(pull, 2 * (h - e))
    np.testing.assert_array_equal(nothing, jnp.zeros(2))


def test_perplexity_counts_codes_in_use():
    np.testing.assert_allclose(perplexity(jnp.array([[0, 1], [3, 2]]), 8), 4.0, rtol=1e-6)
    np.testing.assert_allclose(perplexity(jnp.zeros(5, jnp.int32), 8), 1.0, rtol=1e-6)


def test_a_prior_over_other_codes_is_refused():
    with pytest.raises(ValueError, match="prior must be over 2 codes of 3 values"):
        with_prior(MODULE, Independent(4, 3))
