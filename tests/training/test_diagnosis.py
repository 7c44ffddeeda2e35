import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.training._diagnosis import unsoundness


def test_a_leaf_has_ceased_to_be_finite_where_a_number_in_it_became_infinite_or_nan():
    before = {
        "a": np.array([1.0, np.inf, np.nan], np.float32),
        "b": np.array([1.0, np.inf], np.float32),
        "c": np.array([2.0, 1.0], jnp.bfloat16),
        "d": np.array([2.0], np.float32),
        "e": np.array([2, 3], np.int32),
        "f": np.zeros((0, 2), np.float32),
        "g": jax.random.key(0),
    }
    after = {
        **before,
        "a": np.array([2.0, -np.inf, np.nan], np.float32),
        "b": np.array([1.0, np.nan], np.float32),
        "c": np.array([np.inf, 1.0], jnp.bfloat16),
    }
    found = jax.jit(lambda old, new: unsoundness(new) > unsoundness(old))(before, after)
    assert dict(zip(before, found.tolist(), strict=True)) == {
        "a": False, "b": True, "c": True, "d": False, "e": False, "f": False, "g": False,
    }  # fmt: skip
