import chex
import numpy as np
import pytest

from jaxgen.data._colors import Colors


def test_colors_come_back():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    colors = Colors((3, 4))
    symbols = colors.encode(images)
    assert (symbols.dtype, symbols.shape) == (np.int32, (2, colors.num_dims))
    chex.assert_trees_all_equal(symbols[1, 3 * (4 * 2 + 1) :][:3], images[1, 2, 1])
    restored = colors.decode(symbols)
    assert restored.dtype == np.uint8
    chex.assert_trees_all_equal(restored, images)
    assert colors.num_symbols == 256


def test_what_is_no_picture_in_color_is_refused():
    colors = Colors((2, 3))
    with pytest.raises(
        ValueError, match=r"images must have shape \(\*, 2, 3, 3\), got \(1, 2, 3\)"
    ):
        colors.encode(np.zeros((1, 2, 3), int))
    with pytest.raises(TypeError, match="images must hold integers"):
        colors.encode(np.zeros((1, 2, 3, 3)))
    for value in (-1, 256):
        with pytest.raises(ValueError, match=rf"images must be in \[0, 256\), got \[{value}, "):
            colors.encode(np.full((1, 2, 3, 3), value))
        with pytest.raises(ValueError, match=rf"symbols must be in \[0, 256\), got \[{value}, "):
            colors.decode(np.full((1, 18), value))
    with pytest.raises(ValueError, match=r"symbols must have shape \(\*, 18\)"):
        colors.decode(np.zeros((1, 6), int))
    with pytest.raises(ValueError, match="image_shape must be height and width"):
        Colors((2, 3, 3))
