import chex
import jax
import jax.numpy as jnp
import numpy as np
import sampling_checks
import scipy.special

from jaxgen.models.layers._distributions import RelaxedCategorical


def test_relaxed_symbols_harden_to_the_softmax(key):
    logits = jnp.array([0.5, -1.0, 0.2])
    drawn = RelaxedCategorical(logits, 0.05).sample(seed=key, sample_shape=(100_000,))
    chex.assert_trees_all_close(jax.nn.logsumexp(drawn, axis=-1), 0.0, atol=1e-5, rtol=1e-7)
    # The largest coordinate is the symbol that the Gumbel noise would draw, at any temperature.
    counts = np.bincount(np.argmax(drawn, -1), minlength=3)
    sampling_checks.assert_frequencies(counts, scipy.special.softmax(np.float64(logits)))
