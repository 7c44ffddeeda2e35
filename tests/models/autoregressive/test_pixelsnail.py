"""What PixelSNAIL promises beyond the contract: every earlier pixel is seen, from one block on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_conformance import check_draws_are_naive, influence, random_params

from jaxgen.models.autoregressive import _pixelsnail as pixelsnail
from jaxgen.models.autoregressive._pixelsnail import PixelSNAIL
from jaxgen.models.conditionals._symbols import Categorical


def test_every_earlier_pixel_is_seen_and_no_other():
    """By attention: one block's convolutions of 3 x 3 reach few columns."""
    module = PixelSNAIL((3, 6), 2, 8, 1, 1, first_kernel_size=3)
    chex.assert_trees_all_equal(influence(module), np.tri(18, k=-1, dtype=bool))


@pytest.mark.parametrize("sees_itself", [True, False])
def test_a_window_holds_the_pixels_before(sees_itself):
    """The convolution's sight is a k × k window's first half, in raster order."""
    image = jnp.arange(1.0, 21.0).reshape(1, 4, 5, 1)
    windows = np.asarray(pixelsnail._windows(image, 3, sees_itself=sees_itself))
    expected = [7.0, 8.0, 9.0, 12.0, 13.0]
    np.testing.assert_array_equal(windows[0, 2, 2], expected[: 4 + sees_itself])
    np.testing.assert_array_equal(windows[0, 0, 0], np.r_[0, 0, 0, 0, 1.0][: 4 + sees_itself])
    np.testing.assert_array_equal(windows[0, 3, 4][:4], [14.0, 15.0, 0.0, 19.0])


def test_a_mask_off_by_one_is_caught(monkeypatch):
    """A first layer that sees its own pixel is not causal, and the influence says so."""
    monkeypatch.setattr(pixelsnail, "_num_seen", lambda size, sees_itself: size**2 // 2 + 1)
    module = PixelSNAIL((2, 3), 2, 4, 1, 1, first_kernel_size=3, num_heads=1)
    assert (influence(module) & ~np.tri(6, k=-1, dtype=bool)).any()


def test_an_odd_image_of_gray_levels_is_drawn_as_naively():
    check_draws_are_naive(PixelSNAIL((5, 7), 6, 8, 2, 2, kernel_size=5, head_width=6))


def test_dropout_is_for_training_alone(key):
    module = PixelSNAIL((2, 3), 2, 4, 1, 1, num_heads=1, dropout_rate=0.5)
    params, x = random_params(module), np.zeros((1, 6), int)
    keys = jax.random.split(key, 2)
    dropped = [module.logits(params, x, dropout_key=k) for k in keys]
    assert (dropped[0] != dropped[1]).any()
    whole = module.copy(dropout_rate=0.0)
    chex.assert_trees_all_equal(module.logits(params, x), whole.logits(params, x))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_shape": (0, 3)}, "image_shape must be at least 1, got 0"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"first_kernel_size": 2}, "first_kernel_size must be odd, got 2"),
        ({"width": 12}, "width must be a multiple of 4 num_heads = 8, got 12"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0.0, 1.0\), got 1.0"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = PixelSNAIL(**{"image_shape": (2, 3), "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
