"""Samplers under `vmap`: each key gives the bits that it gives alone."""

import chex
import jax
import numpy as np
import pytest
from sampler_cases import CASES

# As in test_devices.py: compiled as written, no product and sum are rounded as one.
AS_WRITTEN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What is set up in the program that draws differs in its last bits even so.
LEFT_OUT = {"adaptive_rejection", "inverse_cdf_in_a_trace"}
# A vector of products and sums is rounded as another one is that has another length.
LAST_BITS = {
    *("beta", "beta_log_odds", "dirichlet", "gamma", "log_dirichlet", "log_gamma", "student_t"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in LEFT_OUT])
def test_keys_in_a_batch_draw_as_each_alone(name, key):
    fn, rows = CASES[name].fn, CASES[name].rows
    keys = jax.random.split(key, 3)
    alone = jax.jit(lambda key: fn(key, *rows), compiler_options=AS_WRITTEN)
    batched = jax.jit(jax.vmap(lambda key: fn(key, *rows)), compiler_options=AS_WRITTEN)
    with jax.debug_key_reuse(False):  # to give what it gave is what is asked here
        together = batched(keys)
        each = [alone(key) for key in keys]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    if name in LAST_BITS:
        chex.assert_trees_all_close(together, stacked, rtol=1e-5, atol=1e-6, strict=True)
    else:
        chex.assert_trees_all_equal(together, stacked, strict=True)
