import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.special

from jaxgen.models.layers.distributions import Categorical, DiscretisedLogistic, RelaxedCategorical

WEIGHTS, LOCATIONS, LOG_SCALES = (
    np.array(a, np.float32) for a in ([0.3, -0.2], [1.2, 6.8], [-0.5, 0.4])
)


def test_discretised_logistic_integrates_each_cell(key):
    distribution = DiscretisedLogistic(WEIGHTS, LOCATIONS, LOG_SCALES, 8)
    edges = (np.arange(1, 8) - 0.5)[:, None]
    cdf = scipy.special.expit((edges - LOCATIONS) / np.exp(LOG_SCALES))
    expected = np.diff(cdf @ scipy.special.softmax(WEIGHTS), prepend=0.0, append=1.0)
    probabilities = np.exp(jax.vmap(distribution.log_prob)(jnp.arange(8)))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(distribution.mean(), expected @ np.arange(8), rtol=1e-4)
    np.testing.assert_allclose(
        Categorical(logits=jnp.log(expected)).mean(), distribution.mean(), rtol=1e-4
    )
    drawn = distribution.sample(seed=key, sample_shape=(100_000,))
    sampling_checks.assert_frequencies(np.bincount(drawn, minlength=8), expected)


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 20.0])
@pytest.mark.parametrize("location", [-500.0, 100.2, 2000.0])
def test_discretised_logistic_is_normalised_at_extremes(location, log_scale):
    one = [jnp.array([a]) for a in (0.0, location, log_scale)]
    log_prob = jax.vmap(DiscretisedLogistic(*one, 256).log_prob)(jnp.arange(256))
    assert not np.isnan(log_prob).any()
    np.testing.assert_allclose(jax.nn.logsumexp(log_prob), 0.0, atol=1e-4)


def test_no_symbol_is_nan():
    distribution = DiscretisedLogistic(WEIGHTS, LOCATIONS, LOG_SCALES, 8)
    assert np.isnan([distribution.log_prob(jnp.array(v)) for v in (-1, 8)]).all()


def test_relaxed_symbols_harden_to_the_softmax(key):
    logits = jnp.array([0.5, -1.0, 0.2])
    drawn = RelaxedCategorical(logits, 0.05).sample(seed=key, sample_shape=(100_000,))
    np.testing.assert_allclose(jax.nn.logsumexp(drawn, axis=-1), 0.0, atol=1e-5)
    # The largest coordinate is the symbol that the Gumbel noise would draw, at any temperature.
    counts = np.bincount(np.argmax(drawn, -1), minlength=3)
    sampling_checks.assert_frequencies(counts, scipy.special.softmax(np.float64(logits)))
