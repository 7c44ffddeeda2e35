"""Draws in groups: how many, and that each has a draw of its own parameters in the end."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers import _refill


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (1, 1),
        (2**18 - 1, 1),
        (2**18, 2),
        (2**18 + 1, 1),
        (2**19 + 2, 2),
        (3 * 2**17, 2),
        (2**20, 8),
        (2**26, 256),
        (2**28, 256),
    ],
)
def test_groups_are_a_power_of_two_that_divides_the_draws(num_samples, expected):
    assert _refill.groups_of(num_samples) == expected


@pytest.mark.parametrize("share", [1 / 16, 1e-6])
def test_every_draw_is_accepted_with_its_own_parameter(key, share, monkeypatch):
    monkeypatch.setattr(_refill, "_SMALLEST_GROUP", 64)

    def propose(key, params, num_samples):
        place_key, u_key = jax.random.split(key)
        accepted = jax.random.uniform(u_key, (num_samples,)) < 0.3
        return params + jax.random.uniform(place_key, (num_samples,), maxval=0.5), accepted

    wanted = jnp.arange(512.0)
    drawn = jax.jit(
        lambda key: _refill.draw_with_refill(key, propose, wanted, 512, rejected_share=share)
    )(key)
    chex.assert_trees_all_equal(np.floor(drawn), wanted)
    assert len(np.unique(np.asarray(drawn) % 1)) > 480


def test_positions_are_those_of_the_mask_and_then_distinct_ones_outside_it():
    mask = jnp.array([False, True, False, True, False])
    places = np.asarray(_refill._first_positions(mask, 4))
    chex.assert_trees_all_equal(places[:2], np.array([1, 3]))
    assert np.all(places[2:] >= mask.size)
    assert len(set(places.tolist())) == 4
