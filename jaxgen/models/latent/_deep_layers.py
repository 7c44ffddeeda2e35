"""The networks of the deep hierarchical VAE: residual ones over feature maps of several sizes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_count
from jaxgen.core._types import Array
from jaxgen.models.layers._convolutions import Convolution, patched, unpatched
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import rematerialized

_BOUND = 5.0
"""Of every log-scale; what a network says is brought smoothly below it."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Feature maps of one size, and the groups of latents that have this size.

    Attributes:
      factor: how many times smaller height and width are than one scale finer, or for the finest
        than the image's; a divisor of both.
      num_channels: feature maps.
      num_hidden: feature maps within a residual block.
      num_groups: groups of latents, at least one.
      num_latents: latents of a group at each position.
    """

    factor: int
    num_channels: int
    num_hidden: int
    num_groups: int
    num_latents: int

    def __post_init__(self) -> None:
        """Check the counts."""
        for field in dataclasses.fields(self):
            check_count(field.name, getattr(self, field.name))


class Residual(nn.Module):
    """Linear, GELU, 3×3 convolution, GELU, linear; it gives zero to begin with.

    Attributes:
      num_hidden: feature maps between.
      num_outputs: feature maps of the result, which is in float32.
      dtype: of the factors.
      remat: whether the gradient computes all again.
    """

    num_hidden: int
    num_outputs: int
    dtype: Any
    remat: bool

    @rematerialized
    @nn.compact
    def __call__(self, x: Array, seen: Array | None = None) -> Array:
        """Map `[..., h, w, C]` to `[..., h, w, num_outputs]`; the first layer also gets `seen`."""
        h = Dense(self.num_hidden, dtype=self.dtype)(x)
        if seen is not None:
            h = h + seen.reshape((1,) * (h.ndim - seen.ndim) + seen.shape)
        # Of a 3×3 kernel on a single position eight ninths would see the zeros around it.
        is_single = x.shape[-3:-1] == (1, 1)
        layer = (Dense if is_single else Convolution)(self.num_hidden, dtype=self.dtype)
        h = nn.gelu(layer(nn.gelu(h)))
        zeros = nn.initializers.zeros
        return Dense(self.num_outputs, dtype=self.dtype, kernel_init=zeros, in_float32=True)(h)


class Up(nn.Module):
    """Features of the data at one scale.

    Attributes:
      scale: the scale.
      share: what residuals are multiplied by.
      dtype: of feature maps.
      remat: whether the gradient computes residuals again.
    """

    scale: Scale
    share: float
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(self, finer: Array, context: Array | None) -> Array:
        """Map `[..., H, W, C]` to `[..., h, w, num_channels]`."""
        scale = self.scale
        dense = functools.partial(Dense, scale.num_channels, dtype=self.dtype)
        h = dense()(patched(finer, scale.factor))
        if context is not None:
            h = h + dense(name="context")(context)[..., None, None, :]
        for _ in range(scale.num_groups):
            residual = Residual(scale.num_hidden, scale.num_channels, self.dtype, self.remat)
            h = _added(h, self.share * residual(h))
        return h


class Enter(nn.Module):
    """The first feature maps of a scale on the way down: of the scale above, position and context.

    Attributes:
      size: height and width.
      num_channels: feature maps.
      factor: by how much the scale above is coarser.
      dtype: of feature maps.
    """

    size: tuple[int, int]
    num_channels: int
    factor: int
    dtype: Any

    @nn.compact
    def __call__(
        self, coarser: Array | None, shape: tuple[int, ...], context: Array | None
    ) -> Array:
        """Return `[*shape, *size, num_channels]`; at the top there is nothing coarser."""
        maps = (*self.size, self.num_channels)
        (bias,) = promote_dtype(self.param("bias", nn.initializers.zeros, maps), dtype=self.dtype)
        h = jnp.broadcast_to(bias, (*shape, *maps))
        dense = functools.partial(Dense, dtype=self.dtype)
        if coarser is not None:
            wide = dense(self.factor**2 * self.num_channels, use_bias=False)(coarser)
            h = h + unpatched(wide, self.factor)
        if context is not None:
            h = h + dense(self.num_channels, name="context")(context)[..., None, None, :]
        return h


class Block(nn.Module):
    """The networks of one group: p, what q changes of it, and what follows from what was drawn.

    Attributes:
      scale: the scale of the group.
      share: what residuals are multiplied by.
      dtype: of feature maps.
      remat: whether the gradient computes residuals again.
    """

    scale: Scale
    share: float
    dtype: Any
    remat: bool

    def setup(self) -> None:
        """Create the networks."""
        channels, hidden = self.scale.num_channels, self.scale.num_hidden
        latents, how = self.scale.num_latents, (self.dtype, self.remat)
        self.of_prior = Residual(hidden, 2 * latents + channels, *how)
        self.of_features = Dense(hidden, use_bias=False, dtype=self.dtype)
        self.of_change = Residual(hidden, 2 * latents, *how)
        self.of_latents = Dense(channels, use_bias=False, dtype=self.dtype)
        self.after = Residual(hidden, channels, *how)

    def see(self, features: Array) -> Array:
        """Return what the posterior's network sees of features: `[..., C] -> [..., hidden]`."""
        return self.of_features(features)

    def prior(self, h: Array) -> tuple[Array, Array, Array]:
        """Return mean and log-scale of p, `[..., h, w, Z]`, and the next feature maps."""
        size = self.scale.num_latents
        mean, log_scale, more = jnp.split(self.of_prior(h), [size, 2 * size], axis=-1)
        return mean, _bounded(log_scale), _added(h, self.share * more)

    def change(self, h: Array, seen: Array) -> tuple[Array, Array]:
        """Return by what q differs from p, δ and s, `[..., h, w, Z]` each."""
        shift, log_ratio = jnp.split(self.of_change(h, seen), 2, axis=-1)
        return shift, _bounded(log_ratio)

    def take(self, h: Array, z: Array) -> Array:
        """Return the feature maps that know of z."""
        h = h + self.of_latents(z)
        return _added(h, self.share * self.after(h))


class PixelOutputs(nn.Module):
    """A linear map of each position to the pixels that it covers, and a bias of each pixel's own.

    Attributes:
      factor: pixels that a position covers, in height and in width.
      num_outputs: outputs of a pixel, in float32.
      dtype: of the factors.
    """

    factor: int
    num_outputs: int
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Map `[..., h, w, C]` to `[..., H·W·num_outputs]`."""
        size = self.factor**2 * self.num_outputs
        wide = Dense(size, use_bias=False, dtype=self.dtype, in_float32=True)(h)
        outputs = jax.lax.collapse(unpatched(wide, self.factor), h.ndim - 3)
        bias = self.param("bias", nn.initializers.zeros, outputs.shape[-1:])
        return outputs + bias.reshape((1,) * (outputs.ndim - 1) + bias.shape)


def _added(h: Array, residual: Array) -> Array:
    return h + residual.astype(h.dtype)


def _bounded(log_scale: Array) -> Array:
    return _BOUND * jnp.tanh(log_scale / _BOUND)
