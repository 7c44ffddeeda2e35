"""Gray images as symbols: intensities rounded to a number of levels, and back."""

import dataclasses
import math

import numpy as np

from jaxgen.core._checks import (
    check_count,
    check_in_range,
    check_integer_array,
    check_shape,
    check_sizes,
)


@dataclasses.dataclass(frozen=True)
class GrayLevels:
    r"""Intensities in [0, M] rounded to the nearest of V levels, evenly spaced.

    .. math:: v = \lfloor x (V - 1) / M + 1/2 \rfloor, \qquad \hat x = \lfloor v M / (V - 1) + 1/2
       \rfloor

    Attributes:
      image_shape: height and width of an image.
      num_symbols: V, at least 2 and at most M + 1; 2 gives bits.
      max_intensity: M, the intensity of white, at most 65535.
    """

    image_shape: tuple[int, int]
    num_symbols: int = 256
    max_intensity: int = 255

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes("image_shape", self.image_shape)
        check_count("max_intensity", self.max_intensity)
        check_in_range("max_intensity", self.max_intensity, 1, 65535)  # two bytes
        check_count("num_symbols", self.num_symbols, minimum=2)
        if self.num_symbols > self.max_intensity + 1:
            raise ValueError(
                f"num_symbols must be at most max_intensity + 1 = {self.max_intensity + 1}, got "
                f"{self.num_symbols}"
            )

    @property
    def num_dims(self) -> int:
        """Return D, the pixels of an image."""
        return math.prod(self.image_shape)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Return the levels of images `[N, H, W]`, row by row, int32 `[N, D]`.

        Args:
          images: integers in [0, M], or floating-point numbers in [0, 1], which stand for M times
            themselves.

        Raises:
          ValueError: another shape, or an intensity out of range.

        >>> GrayLevels((1, 3), num_symbols=3).encode(np.array([[[0, 100, 255]]])).tolist()
        [[0, 1, 2]]
        """
        images = np.asarray(images)
        check_shape("images", images, (None, *self.image_shape))
        is_real = np.issubdtype(images.dtype, np.floating)
        highest = 1 if is_real else self.max_intensity
        if not is_real:
            check_integer_array("images", images)
        if images.size and not (images.min() >= 0 and images.max() <= highest):
            raise ValueError(
                f"images must hold intensities in [0, {highest}], got [{images.min()}, "
                f"{images.max()}]"
            )
        if is_real:
            levels = self._nearest(images, self.num_symbols - 1)
        else:  # by a table: large arrays stay as small as they are
            intensities = np.arange(highest + 1)
            levels = self._nearest(intensities, (self.num_symbols - 1) / highest)[images]
        return levels.reshape(len(images), self.num_dims)

    def _nearest(self, x: np.ndarray, scale: float) -> np.ndarray:
        return np.floor(x * scale + 0.5).astype(np.int32)

    def decode(self, symbols: np.ndarray) -> np.ndarray:
        """Return the intensities of levels `[N, D]` as images, `[N, H, W]`.

        They are uint8, or uint16 where M is more than 255.

        >>> GrayLevels((1, 3), num_symbols=3).decode(np.array([[0, 1, 2]])).tolist()
        [[[0, 128, 255]]]
        """
        check_integer_array("symbols", symbols)
        check_shape("symbols", symbols, (None, self.num_dims))
        symbols = np.asarray(symbols)
        if symbols.size and not (symbols.min() >= 0 and symbols.max() < self.num_symbols):
            raise ValueError(
                f"symbols must be in [0, {self.num_symbols}), got [{symbols.min()}, "
                f"{symbols.max()}]"
            )
        intensities = np.floor(symbols * (self.max_intensity / (self.num_symbols - 1)) + 0.5)
        dtype = np.uint8 if self.max_intensity < 256 else np.uint16
        return intensities.astype(dtype).reshape(len(symbols), *self.image_shape)
