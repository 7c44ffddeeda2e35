import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images as images
from experiments.vector_quantized import layers


def test_symbols_are_kept_and_gray_levels_drawn_anew(key):
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    chex.assert_trees_all_equal(images.symbols(key, {"x": x}), x)
    batch = {"gray": np.full((2, 500), 128, np.uint8), "index": np.arange(2)}
    first, second = (images.symbols(k, batch) for k in jax.random.split(key))
    assert set(np.unique(first)) == {0, 1}
    assert bool(jnp.any(first != second))
    batch["gray"] = np.tile(np.array([0, 255], np.uint8), (2, 250))
    chex.assert_trees_all_equal(images.symbols(key, batch), batch["gray"] // 255)


def test_images_of_either_size_get_a_grid_of_4_by_4_codes():
    assert layers((8, 8), 32).smallest == (4, 4, 32)
    assert layers((28, 28), 16).smallest == (4, 4, 64)
