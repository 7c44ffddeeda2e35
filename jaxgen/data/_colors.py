"""Pictures in color as symbols: red, green and blue of 8 bits, and back."""

import dataclasses
import math

import numpy as np

from jaxgen.core._checks import check_integer_array, check_shape, check_sizes

NUM_SYMBOLS = 256


@dataclasses.dataclass(frozen=True)
class Colors:
    """Red, green and blue of each pixel as they are, each a symbol of 256.

    Attributes:
      image_shape: height and width of an image, or of the tiles that pictures are cut into.
    """

    image_shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes("image_shape", self.image_shape)
        if len(self.image_shape) != 2:
            raise ValueError(f"image_shape must be height and width, got {self.image_shape}")

    @property
    def num_symbols(self) -> int:
        """Return V, 256."""
        return NUM_SYMBOLS

    @property
    def num_dims(self) -> int:
        """Return D, three for each pixel of an image."""
        return 3 * math.prod(self.image_shape)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Return the symbols of images `[N, H, W, 3]` of integers, int32 `[N, D]`.

        They stand row by row, column by column, and red before green before blue.

        Raises:
          TypeError: other numbers than integers.
          ValueError: another shape, or a color out of [0, 255].

        >>> Colors((1, 2)).encode(np.array([[[[255, 0, 1], [2, 3, 4]]]])).tolist()
        [[255, 0, 1, 2, 3, 4]]
        """
        images = np.asarray(images)
        check_integer_array("images", images)
        check_shape("images", images, (None, *self.image_shape, 3))
        _check_range("images", images)
        return images.reshape(len(images), self.num_dims).astype(np.int32)

    def decode(self, symbols: np.ndarray) -> np.ndarray:
        """Return images of symbols `[N, D]`, uint8 `[N, H, W, 3]`; errors are those of `encode`."""
        symbols = np.asarray(symbols)
        check_integer_array("symbols", symbols)
        check_shape("symbols", symbols, (None, self.num_dims))
        _check_range("symbols", symbols)
        return symbols.astype(np.uint8).reshape(len(symbols), *self.image_shape, 3)


def _check_range(name: str, x: np.ndarray) -> None:
    if x.size and not (x.min() >= 0 and x.max() < NUM_SYMBOLS):
        raise ValueError(f"{name} must be in [0, {NUM_SYMBOLS}), got [{x.min()}, {x.max()}]")
