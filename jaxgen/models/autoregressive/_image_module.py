"""The base of autoregressive image models: the network sees pixels, the chain their channels."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_count, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.conditionals._symbols import ordered
from jaxgen.models.layers._channels import ChannelHead
from jaxgen.models.layers._linear import Dense


class LinenImageModel(LinenAutoregressiveModel):
    """A Flax module over images, pixel after pixel in raster order and channel after channel.

    A subclass has the field `image_shape`, (H, W) or (H, W, C), and calls `_setup_image` in
    `setup`. An image is a vector of D = H W C symbols. It writes, for the features of pixels (those
    of all channels, F = C times the conditional's) and `self.head.num_pixel_outputs` = Q,
    `_pixel_outputs(features, context)`: `[B, H, W, F] -> [B, H, W, Q]`, each pixel from those
    before it alone; `_init_pixel_cache(batch_size, context)`; and
    `_pixel_step(cache, index, features)`, which feeds the pixel before, `[B, F]`, and returns
    outputs `[B, Q]` and the cache. `_read` gives the outputs of what its network says last.
    """

    if TYPE_CHECKING:
        image_shape: tuple[int, ...]  # a field of every subclass, which stands before its own here

    def _setup_image(self, *, head_width: int, dtype: Any, **kernel_sizes: int) -> None:
        """Check the shape and what is given, and create the head and the layers before it."""
        check_sizes("image_shape", self.image_shape)
        if len(self.image_shape) not in (2, 3):
            raise ValueError(
                "image_shape must be (rows, columns) or (rows, columns, channels), got "
                f"{self.image_shape}"
            )
        for name, size in kernel_sizes.items():
            check_count(name, size)
            if size % 2 == 0:
                raise ValueError(f"{name} must be odd, got {size}")
        check_count("head_width", head_width)
        self.head = ChannelHead(self.conditional_or_default, self.num_channels)
        self.hidden = Dense(head_width, dtype=dtype)
        self.outputs_layer = Dense(
            self.head.num_pixel_outputs,
            dtype=jnp.promote_types(dtype, jnp.float32),
            name="outputs",
        )

    def _read(self, h: Array) -> Array:
        """Return outputs of pixels, `[..., width] -> [..., Q]`, from what the network gives."""
        return self.outputs_layer(nn.relu(self.hidden(nn.relu(h))))

    @property
    def num_channels(self) -> int:
        """Return C."""
        return 1 if len(self.image_shape) == 2 else self.image_shape[2]

    @property
    def num_dims(self) -> int:  # type: ignore[override]
        """Return D, the number of pixels times that of channels."""
        return self.image_shape[0] * self.image_shape[1] * self.num_channels

    @nn.nowrap
    def _conditional_of_symbols(self, num_symbols: int) -> Conditional:
        return ordered(num_symbols)

    @property
    def num_pixel_features(self) -> int:
        """Return F."""
        return self.num_channels * self.conditional_or_default.num_features

    def _pixel_features(self, x: Array) -> Array:
        """Encode symbols `[..., C]` as `[..., F]`; what is no symbol as symbol 0."""
        features = self.conditional_or_default.features(jnp.maximum(x, 0))
        return jax.lax.collapse(features, x.ndim - 1)

    def _outputs(self, x: Array, context: Array | None) -> Array:
        x = x.reshape(len(x), *self.image_shape[:2], self.num_channels)
        outputs = self.head(self._pixel_outputs(self._pixel_features(x), context), x)
        return outputs.reshape(len(x), self.num_dims, outputs.shape[-1])

    def _init_cache(self, batch_size: int, context: Array | None) -> Any:
        cache = self._init_pixel_cache(batch_size, context)
        outputs = jnp.zeros((batch_size, self.head.num_pixel_outputs))
        return cache, outputs, jnp.zeros((batch_size, self.num_channels), jnp.int32)

    def _step(self, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} and return the outputs of x_index; the network runs once a pixel."""
        if self.num_channels == 1:
            cache, _, x = cache
            features = self._pixel_features(previous[:, None])
            outputs, cache = self._pixel_step(cache, index, features)
            return outputs, (cache, outputs, x)
        pixel, channel = jnp.divmod(index, self.num_channels)
        cache, outputs, x = cache
        last = (channel - 1) % self.num_channels
        x = jax.lax.dynamic_update_slice_in_dim(x, previous[:, None], last, axis=1)

        def next_pixel(self: Any, cache: Any, outputs: Array) -> tuple[Array, Any]:
            return self._pixel_step(cache, pixel, self._pixel_features(x))

        def same_pixel(self: Any, cache: Any, outputs: Array) -> tuple[Array, Any]:
            return outputs, cache

        outputs, cache = nn.cond(channel == 0, next_pixel, same_pixel, self, cache, outputs)
        chosen = jnp.take(self.head(outputs, x), channel, axis=-2)
        return chosen, (cache, outputs, x)
