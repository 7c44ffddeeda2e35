"""Convolutional halves of an encoder and a decoder for images stored as flat vectors.

Images are padded first and convolved without padding: so XLA keeps the fast weight gradient.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count
from jaxgen.core.types import Array


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """Halve an image once for each entry of `channels`, and double it back.

    Attributes:
      image_shape: height and width; a data point has H·W·C coordinates in the order H, W, C.
      channels: feature maps after each halving.
    """

    image_shape: tuple[int, int]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the sizes."""
        for size in (*self.image_shape, *self.channels):
            check_count("image_shape and channels", size)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width before and after each halving, which rounds up."""
        height, width = self.image_shape
        levels = range(len(self.channels) + 1)
        return [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in levels]

    @property
    def smallest(self) -> tuple[int, int, int]:
        """Height, width and channels of the smallest feature maps."""
        return (*self.sizes[-1], self.channels[-1])

    def down(self) -> list[nn.Module]:
        """Layers that lead from `[..., H, W, C]` to the smallest maps."""
        return [Halve(channels) for channels in self.channels]

    def outputs(self, num_outputs: int) -> "PixelOutputs":
        """The layer that leads from there to `num_outputs` outputs, a multiple of H·W."""
        num_pixels = math.prod(self.image_shape)
        if num_outputs % num_pixels:
            raise ValueError(
                f"image_shape {self.image_shape} must divide the data into pixels, got "
                f"{num_outputs} outputs"
            )
        return PixelOutputs(num_outputs // num_pixels)

    def up(self) -> list[nn.Module]:
        """Layers that lead back to `[..., H, W, channels[0]]`."""
        targets = zip(self.sizes[-2::-1], (*self.channels[-2::-1], self.channels[0]), strict=True)
        return [Double(size, channels) for size, channels in targets]


class Halve(nn.Module):
    """A 3×3 convolution with stride 2, a residual 3×3 convolution, and GELUs."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C] -> [..., ⌈H/2⌉, ⌈W/2⌉, channels]`."""
        h = nn.gelu(_convolution(self.channels, strides=2)(_padded(x)))
        return h + nn.gelu(_convolution(self.channels)(_padded(h)))


class Double(nn.Module):
    """A residual 3×3 convolution and one to sub-pixels, cut to size, with GELUs (Shi et al. 2016).

    Attributes:
      size: height and width of the result.
      channels: its channels.
    """

    size: tuple[int, int]
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., h, w, C] -> [..., *size, channels]`, where size is 2h, 2w or one less."""
        h = x + nn.gelu(_convolution(x.shape[-1])(_padded(x)))
        h = nn.gelu(_convolution(4 * self.channels)(_padded(h)))
        *batch, height, width, _ = h.shape
        h = jnp.moveaxis(h.reshape(*batch, height, width, 2, 2, self.channels), -3, -4)
        h = h.reshape(*batch, 2 * height, 2 * width, self.channels)
        return h[..., : self.size[0], : self.size[1], :]


class PixelOutputs(nn.Module):
    """The same linear map at every pixel, and a bias of each pixel's own.

    Attributes:
      num_outputs: outputs of a pixel.
    """

    num_outputs: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """`[..., H, W, C] -> [..., H·W·num_outputs]`."""
        *batch, height, width, channels = h.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, self.num_outputs))
        shape = (height * width * self.num_outputs,)
        bias = self.param("bias", nn.initializers.zeros, shape)
        outputs = (h @ kernel).reshape(*batch, *shape)
        return outputs + bias.reshape((1,) * len(batch) + shape)


def _convolution(channels: int, strides: int = 1) -> nn.Conv:
    return nn.Conv(channels, (3, 3), strides=(strides, strides), padding="VALID")


def _padded(x: Array) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
