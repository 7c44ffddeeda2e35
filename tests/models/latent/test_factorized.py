"""Independent coordinates as a distrax distribution: its draws are what it scores."""

import distrax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._symbols import Bits, Categorical, Ordinal
from jaxgen.models.latent._factorized import FactorizedDistribution

SYMBOLS = [Bits(), Categorical(3), Ordinal(4), LogisticMixture(6, 2)]


def random_outputs(conditional, shape):
    size = conditional.num_outputs + conditional.num_shared
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, size)), jnp.float32)


@pytest.mark.parametrize("conditional", SYMBOLS, ids=str)
def test_draws_follow_log_prob(conditional, key):
    distribution = FactorizedDistribution(conditional, random_outputs(conditional, (3, 2)))
    assert isinstance(distribution, distrax.Distribution)
    assert (distribution.batch_shape, distribution.event_shape) == ((3,), (2,))
    x, log_prob = distribution.sample_and_log_prob(seed=key, sample_shape=(100_000,))
    assert x.shape == (100_000, 3, 2)
    np.testing.assert_allclose(log_prob[:5], distribution.log_prob(x[:5]), atol=1e-6)
    v = conditional.num_symbols
    for row in range(3):
        counts = np.bincount(np.asarray(x[:, row, 0] * v + x[:, row, 1]), minlength=v * v)
        pairs = jnp.stack(jnp.meshgrid(jnp.arange(v), jnp.arange(v), indexing="ij"), -1)
        pairs = jnp.broadcast_to(pairs.reshape(-1, 1, 2), (v * v, 3, 2))
        sampling_checks.assert_frequencies(
            counts, np.exp(np.asarray(distribution.log_prob(pairs)[:, row], np.float64))
        )
