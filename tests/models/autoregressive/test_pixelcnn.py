"""What the Gated PixelCNN promises beyond the contract: no blind spot."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_conformance import check_draws_are_naive, influence, random_params

from jaxgen.models.autoregressive import _pixelcnn as pixelcnn
from jaxgen.models.autoregressive._pixelcnn import GatedPixelCNN
from jaxgen.models.conditionals._symbols import Categorical


def earlier(num_dims):
    return np.tri(num_dims, k=-1, dtype=bool)


def test_every_earlier_pixel_is_seen_and_no_other():
    """A layer reaches a column further, so pixels three columns off in rows above need three."""
    shape = {"image_shape": (3, 4), "num_symbols": 2, "width": 8, "first_kernel_size": 3}
    seen = influence(GatedPixelCNN(num_layers=3, **shape))
    np.testing.assert_array_equal(seen, earlier(12))
    seen = influence(GatedPixelCNN(num_layers=2, **shape))
    missing = [(4, 3), (7, 0), (8, 3), (8, 7), (11, 0), (11, 4)]
    np.testing.assert_array_equal(np.argwhere(seen != earlier(12)), missing)


def test_a_pixel_knows_where_it_is_before_anything_is_seen():
    """All that a pixel sees may be 0 and look like the outside: only its place tells."""
    module = GatedPixelCNN((9, 8), 2, width=4, num_layers=1, first_kernel_size=3)
    logits = jax.jit(module.logits)(random_params(module), np.zeros((1, 72), int))
    assert len(np.unique(np.asarray(logits[0, :, 1]))) == 72


@pytest.mark.parametrize("part", ["padded_above", "padded_left"])
def test_a_mask_off_by_one_is_caught(part, monkeypatch):
    """A first layer padded as the others are sees its own row, or its own pixel."""
    padded = getattr(pixelcnn._Layer, part)

    def off_by_one(layer, x):
        return padded(types.SimpleNamespace(kernel_size=layer.kernel_size, is_first=False), x)

    monkeypatch.setattr(pixelcnn._Layer, part, off_by_one)
    module = GatedPixelCNN((2, 3), 2, width=4, num_layers=1, first_kernel_size=3)
    assert (influence(module) & ~earlier(6)).any()


def test_an_odd_image_of_gray_levels_is_drawn_as_naively():
    check_draws_are_naive(
        GatedPixelCNN((5, 7), num_symbols=6, width=6, num_layers=2, kernel_size=5, head_width=6)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_shape": (0, 3)}, "image_shape must be at least 1, got 0"),
        ({"num_symbols": 1}, "num_symbols must be at least 2, got 1"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"first_kernel_size": 2}, "first_kernel_size must be odd, got 2"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = GatedPixelCNN(**{"image_shape": (2, 3), "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
