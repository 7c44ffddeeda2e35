"""Channels of a pixel: their conditionals multiply to the joint law that is claimed."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._symbols import Bits, Categorical
from jaxgen.models.layers._channels import ChannelHead

NUM_LEVELS, NUM_COMPONENTS = 4, 2
MIXTURE = ChannelHead(LogisticMixture(NUM_LEVELS, NUM_COMPONENTS), 3)
ALL = np.array(list(itertools.product(range(NUM_LEVELS), repeat=3)))


def joint(outputs, x):
    """Return p(x) of one pixel by its definition, in float64."""
    parts = np.asarray(outputs, float).reshape(-1, NUM_COMPONENTS)
    levels, width = 2 * x / (NUM_LEVELS - 1) - 1, 2 / (NUM_LEVELS - 1)
    weights, means, scales = special.softmax(parts[0]), parts[1:4], np.exp(parts[4:7])
    couplings = np.tanh(parts[7:])
    centers = [
        means[0],
        means[1] + couplings[0] * levels[0],
        means[2] + couplings[1] * levels[0] + couplings[2] * levels[1],
    ]
    total = weights
    for c, center in enumerate(centers):
        edges = [-np.inf if x[c] == 0 else levels[c] - width / 2]
        edges.append(np.inf if x[c] == NUM_LEVELS - 1 else levels[c] + width / 2)
        below, above = (special.expit((edge - center) / scales[c]) for edge in edges)
        total = total * (above - below)
    return total.sum()


def test_coupled_mixtures_have_their_joint_law():
    outputs = np.random.default_rng(0).standard_normal(MIXTURE.num_pixel_outputs, "f4")
    x = jnp.asarray(ALL)

    @jax.jit
    def log_prob(outputs):
        of_channels = MIXTURE.apply({}, jnp.broadcast_to(outputs, (len(x), outputs.size)), x)
        return MIXTURE.conditional.log_prob(of_channels, x).sum(-1)

    p = np.exp(log_prob(outputs))
    np.testing.assert_allclose(p, [joint(outputs, row) for row in ALL], rtol=2e-5)
    chex.assert_trees_all_close(p.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("conditional", [Bits(), Categorical(3), LogisticMixture(4, 2)], ids=repr)
def test_a_channel_moves_with_those_before_it_alone(conditional):
    head = ChannelHead(conditional, 3)
    generator = np.random.default_rng(1)
    outputs = jnp.asarray(generator.standard_normal((4, head.num_pixel_outputs), "f4"))
    x = jnp.zeros((4, 3), int).at[jnp.arange(1, 4), jnp.arange(3)].set(1)  # none, then each alone
    outputs = jnp.broadcast_to(outputs[:1], outputs.shape)
    params = head.init(jax.random.key(0), outputs, x)
    of_channels = np.asarray(head.apply(params, outputs, x))
    chex.assert_shape(of_channels, (4, 3, conditional.num_outputs))
    moves = (of_channels[1:] != of_channels[:1]).any(-1)
    chex.assert_trees_all_equal(moves, np.triu(np.ones((3, 3), bool), 1))


def test_one_channel_is_the_network_own():
    outputs = jnp.ones((2, 5, 6))
    of_channels = ChannelHead(LogisticMixture(8, 2), 1).apply(
        {}, outputs, jnp.zeros((2, 5, 1), int)
    )
    chex.assert_trees_all_equal(of_channels[..., 0, :], outputs)


def test_outputs_of_another_width_are_refused():
    with pytest.raises(ValueError, match="outputs"):
        MIXTURE.apply({}, jnp.ones((2, 5)), jnp.zeros((2, 3), int))
