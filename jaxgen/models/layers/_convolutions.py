"""Convolutional halves of an encoder and a decoder for images stored as flat vectors."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_sizes
from jaxgen.core._types import Array
from jaxgen.models.layers._linear import product


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
        check_sizes("image_shape", self.image_shape)
        check_sizes("channels", self.channels)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width before and after each halving, which rounds up."""
        height, width = self.image_shape
        levels = range(len(self.channels) + 1)
        return [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in levels]

    @property
    def smallest(self) -> tuple[int, int, int]:
        """Return height, width and channels of the smallest feature maps."""
        return (*self.sizes[-1], self.channels[-1])

    def as_maps(self, features: Array) -> Array:
        """Return features of coordinates, `[..., H·W·C, F]`, as maps `[..., H, W, C·F]`."""
        *batch, size, num_features = features.shape
        num_maps = size * num_features // math.prod(self.image_shape)
        return features.reshape(*batch, *self.image_shape, num_maps)

    def down(self, dtype: Any) -> list[nn.Module]:
        """Make the layers that lead from `[..., H, W, C]` to the smallest maps, in a dtype."""
        return [Halve(channels, dtype) for channels in self.channels]

    def outputs(self, num_outputs: int, dtype: Any) -> "PixelOutputs":
        """Make the layer from `[..., H, W, channels[0]]` to `num_outputs`, a multiple of H·W."""
        num_pixels = math.prod(self.image_shape)
        if num_outputs % num_pixels:
            raise ValueError(
                f"image_shape {self.image_shape} must divide the data into pixels, got "
                f"{num_outputs} outputs"
            )
        return PixelOutputs(num_outputs // num_pixels, dtype)

    def up(self, dtype: Any) -> list[nn.Module]:
        """Make the layers that lead back to `[..., H, W, channels[0]]`, in a dtype."""
        targets = zip(self.sizes[-2::-1], (*self.channels[-2::-1], self.channels[0]), strict=True)
        return [Double(size, channels, dtype) for size, channels in targets]


class Halve(nn.Module):
    """A 3×3 convolution with stride 2, a residual 3×3 convolution, and GELUs."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., H, W, C]` to `[..., ⌈H/2⌉, ⌈W/2⌉, channels]`."""
        h = nn.gelu(Convolution(self.channels, stride=2, dtype=self.dtype)(x))
        return h + nn.gelu(Convolution(self.channels, dtype=self.dtype)(h))


class Double(nn.Module):
    """A residual 3×3 convolution and one to sub-pixels, cut to size, with GELUs (Shi et al. 2016).

    Attributes:
      size: height and width of the result.
      channels: its channels.
      dtype: what it computes in.
    """

    size: tuple[int, int]
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., h, w, C]` to `[..., *size, channels]`, where size is 2h, 2w or one less."""
        h = x + nn.gelu(Convolution(x.shape[-1], dtype=self.dtype)(x))
        h = nn.gelu(Convolution(4 * self.channels, dtype=self.dtype)(h))
        *batch, height, width, _ = h.shape
        h = jnp.moveaxis(h.reshape(*batch, height, width, 2, 2, self.channels), -3, -4)
        h = h.reshape(*batch, 2 * height, 2 * width, self.channels)
        return h[..., : self.size[0], : self.size[1], :]


class PixelOutputs(nn.Module):
    """The same linear map at every pixel, and a bias of each pixel's own.

    Attributes:
      num_outputs: outputs of a pixel, in float32.
      dtype: of the factors.
    """

    num_outputs: int
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map `[..., H, W, C]` to `[..., H·W·num_outputs]`."""
        *batch, height, width, channels = h.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, self.num_outputs))
        shape = (height * width * self.num_outputs,)
        bias = self.param("bias", nn.initializers.zeros, shape)
        outputs = product(h, kernel, self.dtype).reshape(*batch, *shape)
        return outputs + bias.reshape((1,) * len(batch) + shape)


class Convolution(nn.Module):
    """A 3×3 convolution, by one matrix product over the nine shifts of the image.

    On a CPU the gradients of XLA's own convolution fall to a slow path within a scan, where
    training steps are.

    Attributes:
      channels: of the result.
      stride: 1 or 2; every pixel or every other one is a window's middle.
      dtype: what it computes in; None takes the type of inputs and parameters.
    """

    channels: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[..., H, W, C]` to `[..., ⌈H/stride⌉, ⌈W/stride⌉, channels]`, zeros around it."""
        *batch, height, width, channels = x.shape
        shape = (3, 3, channels, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        convolve = functools.partial(_convolve, stride=self.stride)
        outputs = jax.lax.platform_dependent(
            x.reshape(math.prod(batch), height, width, channels),
            kernel,
            bias,
            cpu=functools.partial(_in_cache, convolve),
            default=convolve,
        )
        return outputs.reshape(*batch, *outputs.shape[1:])


def _in_cache(
    convolve: Callable[[Array, Array, Array], Array], images: Array, kernel: Array, bias: Array
) -> Array:
    # As many images at once as have windows of 1 MiB. They are nine times the image: made again
    # for the gradient, they are still in the cache when they are needed, and never stored.
    num_images, *shape = images.shape
    most = max(1, 2**18 // (9 * math.prod(shape)))
    size = max(n for n in range(1, most + 1) if num_images % n == 0)
    outputs = jax.lax.map(
        lambda some: jax.checkpoint(convolve)(some, kernel, bias),
        images.reshape(num_images // size, size, *shape),
    )
    return outputs.reshape(num_images, *outputs.shape[2:])


def _convolve(images: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
    """Map `[N, H, W, C]` to `[N, ⌈H/stride⌉, ⌈W/stride⌉, channels]`."""
    _, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(3)
        for j in range(3)
    ]
    windows = jnp.concatenate(shifts, axis=-1)
    flat = jax.lax.collapse(windows, 0, 3)
    outputs = flat @ kernel.reshape(9 * channels, bias.size) + bias[None]
    return outputs.reshape(*windows.shape[:3], bias.size)


def patched(x: Array, factor: int) -> Array:
    """Return `[..., H, W, C]` in patches, `[..., H/factor, W/factor, factor²·C]`."""
    *batch, height, width, channels = x.shape
    x = x.reshape(*batch, height // factor, factor, width // factor, factor, channels)
    return jax.lax.collapse(jnp.swapaxes(x, -4, -3), x.ndim - 3)


def unpatched(x: Array, factor: int) -> Array:
    """Undo `patched`: `[..., h, w, factor²·C] -> [..., factor·h, factor·w, C]`."""
    *batch, height, width, channels = x.shape
    x = x.reshape(*batch, height, width, factor, factor, channels // factor**2)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*batch, height * factor, width * factor, channels // factor**2)
