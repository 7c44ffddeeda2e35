import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.objectives._kl_weights import cyclical_weight, free_bits


def test_free_bits_press_only_on_groups_above_the_minimum():
    kl = jnp.array([[0.1, 2.0], [0.2, 4.0]])
    gradient = jax.grad(free_bits)(kl, 0.5)
    chex.assert_trees_all_close(gradient, np.array([[0.0, 0.5], [0.0, 0.5]]), rtol=1e-7)


def test_no_free_bits_leave_the_mean_kl():
    kl = jnp.array([[0.1, 2.0], [0.2, 4.0]])
    chex.assert_trees_all_close(free_bits(kl, 0.0), kl.mean(0).sum(), rtol=1e-6)


def test_cycle_repeats_under_jit():
    beta = jax.jit(cyclical_weight, static_argnums=(1, 2))
    values = [float(beta(step, 8, 0.25)) for step in range(16)]
    assert values[:8] == values[8:] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="kl must have rank 2"):
        free_bits(jnp.zeros(3), 0.5)
    with pytest.raises(ValueError, match="minimum must be in"):
        free_bits(jnp.zeros((3, 1)), -1.0)
    with pytest.raises(ValueError, match="ramp_fraction must be in"):
        cyclical_weight(0, 10, 0.0)
