import functools

import chex
import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest
import sampling_checks

from jaxgen.models._context import Labels
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.latent._vector_quantized import VectorQuantizedModel, VectorQuantizedVAE
from jaxgen.models.layers._convolutions import Convolutions
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._vector_quantization import (
    code_usage,
    commitment,
    copy_gradient,
    moving_average_codebook,
)

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

AUTOENCODER = VectorQuantizedVAE(8, 2, Convolutions((2, 4), (3,)), num_codes=3, code_size=2)
PRIOR = MADE(2, 3, (6,))
EVERY_X = (np.arange(256)[:, None] >> np.arange(8)) & 1
EVERY_Z = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)


def test_generates_a_distribution_and_bounds_it(key):
    """Σ_x p(x) = 1 by enumeration; the bound lies below; draws come as often as they should."""
    random = np.random.default_rng(0)
    shapes = {
        "autoencoder": jax.eval_shape(AUTOENCODER.init, jax.random.key(0), EVERY_X[:1]),
        "code_prior": jax.eval_shape(PRIOR.init, jax.random.key(0), EVERY_Z[:1]),
    }
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    params["autoencoder"]["params"]["code_counts"] = np.array([0.5, 1.0, 2.0], np.float32)
    model = VectorQuantizedModel(AUTOENCODER, PRIOR)

    @jax.jit
    def measure(params):
        log_prior = model.prior(params).log_prob(EVERY_Z)
        log_likelihood = model.likelihood(params, EVERY_Z[:, None]).log_prob(EVERY_X[None])
        log_prob = jax.nn.logsumexp(log_prior[:, None] + log_likelihood, axis=0)
        bound = elbo(jax.random.key(1), model, params, EVERY_X, kl="monte_carlo").value
        codes = model.posterior(params, EVERY_X).sample(seed=jax.random.key(2))
        z = model.prior(params).sample(seed=jax.random.key(3), sample_shape=(20_000,))
        return log_prior, log_likelihood, log_prob, bound, codes, z

    log_prior, log_likelihood, log_prob, bound, codes, z = measure(params)
    chex.assert_trees_all_close(np.exp(log_prior).sum(), 1.0, atol=1e-5, rtol=1e-7)
    chex.assert_trees_all_close(np.exp(log_prob).sum(), 1.0, atol=1e-5, rtol=1e-7)
    chosen = codes @ np.array([3, 1])
    expected = log_prior[chosen] + log_likelihood[chosen, np.arange(256)]
    chex.assert_trees_all_close(bound, expected, atol=1e-4, rtol=1e-7)
    assert (bound < log_prob).all()
    sampling_checks.assert_frequencies(np.bincount(z @ np.array([3, 1])), np.exp(log_prior))
    assert len(np.unique(chosen)) > 1


def test_codes_are_the_nearest():
    params = jax.jit(AUTOENCODER.init)(jax.random.key(0), EVERY_X[:1])
    h = jax.random.normal(jax.random.key(1), (7, 2, 2))
    codebook = params["params"]["code_sums"]
    expected = np.linalg.norm(h[..., None, :] - codebook, axis=-1).argmin(-1)
    chex.assert_trees_all_equal(AUTOENCODER.quantize(params, h), expected)


def test_a_codebook_is_a_moving_average_and_the_dead_are_revived(key):
    sums = jnp.array([[2.0, 0.0], [0.0, 3.0], [9.0, 9.0]])
    counts = jnp.array([2.0, 3.0, 0.05])
    encoded = jnp.array([[1.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    codes = jnp.array([0, 0, 1])
    new_sums, new_counts = moving_average_codebook(key, sums, counts, encoded, codes, decay=0.9)
    chex.assert_trees_all_close(new_counts, np.array([2.0, 2.8, 1.0]), rtol=1e-5)
    chex.assert_trees_all_close(
        new_sums[:2], np.array([[2.2, 0.2], [0.0, 3.2]]), atol=1e-5, rtol=1e-7
    )
    assert any(np.allclose(new_sums[2], h, atol=1e-5) for h in encoded)


def test_gradients_pass_the_rounding_and_commitment_pulls_the_encoder_alone():
    h, e = jnp.array([1.0, 2.0]), jnp.array([1.5, 0.0])
    chex.assert_trees_all_equal(copy_gradient(h, e), e)
    slopes = jax.grad(lambda h, e: jnp.sum(copy_gradient(h, e) ** 2), argnums=(0, 1))(h, e)
    chex.assert_trees_all_equal(slopes[0], 2 * e)
    chex.assert_trees_all_equal(slopes[1], jnp.zeros(2))
    pull, nothing = jax.grad(commitment, argnums=(0, 1))(h, e)
    chex.assert_trees_all_close(pull, 2 * (h - e), rtol=1e-7)
    chex.assert_trees_all_equal(nothing, jnp.zeros(2))


def test_code_usage_counts_codes_in_use():
    chex.assert_trees_all_close(code_usage(jnp.array([[0, 1], [3, 2]]), 8), 4.0, rtol=1e-6)
    chex.assert_trees_all_close(code_usage(jnp.zeros(5, jnp.int32), 8), 1.0, rtol=1e-6)


def test_a_context_reaches_the_parts_that_take_one():
    conditional = VectorQuantizedModel(AUTOENCODER, MADE(2, 3, (6,), conditioning=Labels(2)))
    random = np.random.default_rng(0)
    shapes = {
        "autoencoder": jax.eval_shape(AUTOENCODER.init, jax.random.key(0), EVERY_X[:1]),
        "code_prior": jax.eval_shape(conditional.code_prior.init, jax.random.key(0), EVERY_Z[:1]),
    }
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    params["autoencoder"]["params"]["code_counts"] = np.ones(3, np.float32)

    @functools.partial(jax.jit, compiler_options=conformance.QUICK)
    def look(params):
        x, labels = EVERY_X[:2], jnp.array([0, 1])
        rows = conditional.prior(params, context=labels)
        each = [conditional.prior(params, context=c).log_prob(EVERY_Z) for c in (0, 1)]
        both = rows.log_prob(jnp.broadcast_to(EVERY_Z[:, None], (9, 2, 2)))
        drawn = rows.sample(seed=jax.random.key(1), sample_shape=(4, 3))
        options = {"context": labels, "kl": "monte_carlo"}
        bound = elbo(jax.random.key(1), conditional, params, x, **options)
        z = AUTOENCODER.posterior(params["autoencoder"], x).sample(seed=jax.random.key(2))
        return jnp.stack(each, -1), both, drawn, bound.kl, rows.log_prob(z)

    each, both, drawn, kl, log_prior = look(params)
    assert conditional.prior(params, context=jnp.array([0, 1])).batch_shape == (2,)
    chex.assert_trees_all_close(both, each, atol=1e-5, rtol=1e-7)
    assert np.abs(each[:, 0] - each[:, 1]).max() > 0.01
    assert drawn.shape == (4, 3, 2, 2)
    chex.assert_trees_all_close(kl, -log_prior, rtol=1e-5)
    with pytest.raises(ValueError, match="context must be None for a model without conditioning"):
        VectorQuantizedModel(AUTOENCODER, PRIOR).prior(params, context=1)


def test_an_autoencoder_alone_has_a_uniform_prior_and_takes_a_context():
    model = AUTOENCODER.clone(conditioning=Labels(2))
    params = jax.jit(model.init)(jax.random.key(0), EVERY_X[:1])
    kernel = params["params"]["from_codes"]["kernel"]
    assert kernel.shape == (AUTOENCODER.code_size + 3, 3)
    assert params["params"]["to_codes"]["kernel"].shape[0] == 3 + 3

    @functools.partial(jax.jit, compiler_options=conformance.QUICK)
    def look(params, context):
        log_prob = model.likelihood(params, EVERY_Z, context=context).log_prob(EVERY_X[:9])
        return model.prior(params).log_prob(EVERY_Z), log_prob

    both = [look(params, context) for context in (0, 1)]
    chex.assert_trees_all_close(both[0][0], -2 * np.log(3), rtol=1e-6)
    assert np.abs(both[0][1] - both[1][1]).max() > 1e-3


def test_a_prior_over_other_codes_is_refused():
    with pytest.raises(ValueError, match="code_prior must be over 2 codes of 3 values"):
        VectorQuantizedModel(AUTOENCODER, Independent(4, 3))
