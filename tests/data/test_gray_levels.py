import chex
import numpy as np
import pytest

from jaxgen.data._gray_levels import GrayLevels


@pytest.mark.parametrize(("num_symbols", "max_intensity"), [(2, 1), (2, 255), (17, 16), (200, 255)])
def test_levels_come_back_and_are_the_nearest(num_symbols, max_intensity):
    levels = GrayLevels((1, num_symbols), num_symbols, max_intensity)
    symbols = np.arange(num_symbols)[None]
    images = levels.decode(symbols)
    assert (images.dtype, images.shape) == (np.uint8, (1, 1, num_symbols))
    assert (images.min(), images.max()) == (0, max_intensity)
    chex.assert_trees_all_equal(levels.encode(images), symbols)
    every = GrayLevels((1, max_intensity + 1), num_symbols, max_intensity)
    x = np.arange(max_intensity + 1)[None, None]
    error = every.decode(every.encode(x)).astype(int) - x
    assert np.abs(error).max() <= max_intensity / (num_symbols - 1) / 2 + 0.5
    chex.assert_trees_all_equal(every.encode(x / max_intensity), every.encode(x))


def test_all_intensities_as_levels_lose_nothing():
    levels = GrayLevels((16, 16))
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    chex.assert_trees_all_equal(levels.decode(levels.encode(images)), images)
    wide = GrayLevels((1, 3), 65536, 65535)
    images = np.array([[[0, 40_000, 65_535]]], np.uint16)
    chex.assert_trees_all_equal(wide.decode(wide.encode(images)), images)


def test_what_is_no_image_is_refused():
    levels = GrayLevels((2, 3), 4)
    with pytest.raises(ValueError, match=r"images must have shape \(\*, 2, 3\), got \(2, 3\)"):
        levels.encode(np.zeros((2, 3), int))
    for images, highest in (([256], 255), ([-1], 255), ([1.5], 1), ([float("nan")], 1)):
        with pytest.raises(ValueError, match=rf"images must hold intensities in \[0, {highest}\]"):
            levels.encode(np.broadcast_to(np.array(images), (1, 2, 3)))
    with pytest.raises(TypeError, match="images must hold integers"):
        levels.encode(np.zeros((1, 2, 3), complex))
    with pytest.raises(ValueError, match=r"symbols must be in \[0, 4\), got \[4, 4\]"):
        levels.decode(np.full((1, 6), 4))
    with pytest.raises(ValueError, match="num_symbols must be at most max_intensity \\+ 1 = 256"):
        GrayLevels((2, 3), 300)
    with pytest.raises(ValueError, match=r"max_intensity must be in \[1, 65535\], got 65536"):
        GrayLevels((2, 3), 2, 65536)
    with pytest.raises(ValueError, match="num_symbols must be at least 2, got 1"):
        GrayLevels((2, 3), 1)
