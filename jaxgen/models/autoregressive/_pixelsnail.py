"""PixelSNAIL: masked convolutions see what is near, causal attention what is far."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._checks import check_in_range
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._image_module import LinenImageModel
from jaxgen.models.layers._attention import attend, causal_attention, rotary_angles, rotate
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._rematerialized import scan_layers

LayerCache = tuple[tuple[Array, ...], tuple[Array, Array]]
"""Of a block: m + 1 rows of each layer's input, `[B, m + 1, W + 2 m, C]` with m = k // 2 columns of
nothing on both sides, row r of the image in row r mod (m + 1); keys and values of the pixels so
far, `[B heads, H W, C / heads]`."""


class Cache(NamedTuple):
    """Keep what is known of the image when a pixel's turn comes.

    Attributes:
      rows: features of the pixels of the last rows and of this one so far, as in `LayerCache`.
      blocks: what each block keeps.
      told: what the context adds to the stream, `[B, C]`; None without one.
    """

    rows: Array
    blocks: tuple[LayerCache, ...]
    told: Array | None


class PixelSNAIL(LinenImageModel):
    r"""PixelSNAIL (Chen et al. 2018), over images in raster order.

    .. math:: h \leftarrow h + W (\tanh(a) \odot \sigma(b)), \qquad
              (a, b) = \text{masked convolution}(h)

    A block is a few such layers, and then causal attention, h ← h + attention(norm(h)), by which
    a pixel sees all before it. A first convolution, before all blocks, leaves out the pixel itself
    and is given the one before it, which at the start of a row is the last of the row above; the
    others see in their input what stands at the pixel, which knows of those before it alone.

    Where the paper joins the image and the position to what is attended to, queries and keys are
    turned by their row and column here (rotary embedding, Su et al. 2021), and vectors of both
    enter the stream, as what lies outside the image and a pixel that is 0 look alike to a
    convolution. A context adds a vector to the stream at every pixel.

    An image is its pixels row by row, and each its channels, D = H W C of them. A step convolves
    at one pixel and attends from it; all steps together cost about one full pass.

    Attributes:
      image_shape: (H, W), or (H, W, C) of images with channels; each depends on those before it as
        `conditional` allows (see `ChannelHead`).
      num_symbols: V, the number of values that a pixel takes.
      width: channels of the stream.
      num_blocks: blocks, each with attention at its end.
      num_layers: convolutions of a block.
      kernel_size: k, the odd size of the convolutions.
      first_kernel_size: that of the one that comes before all blocks.
      num_heads: attention heads, each of width / num_heads channels, a multiple of 4.
      head_width: hidden units of each pixel between the stream and the head's outputs.
      dropout_rate: share of what a layer adds dropped where a dropout key is given.
      conditional: what the outputs of a pixel mean; None takes `ordered`.
      conditioning: what the context is; None for none.
      dtype: of activations; parameters, attention weights and outputs stay in float32.
      remat: whether training keeps of each block its input alone, and computes the rest again.
    """

    image_shape: tuple[int, ...]
    num_symbols: int
    width: int = 32
    num_blocks: int = 2
    num_layers: int = 4
    kernel_size: int = 3
    first_kernel_size: int = 7
    num_heads: int = 2
    head_width: int = 32
    dropout_rate: float = 0.0
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the layers."""
        self._setup_image(
            head_width=self.head_width,
            dtype=self.dtype,
            kernel_size=self.kernel_size,
            first_kernel_size=self.first_kernel_size,
        )
        self._check_fields("width", "num_blocks", "num_layers", "num_heads")
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"width must be a multiple of 4 num_heads = {4 * self.num_heads}, got {self.width}"
            )
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        vectors = nn.initializers.normal(0.1)
        of_row, of_column = (
            self.param(f"{name}_table", vectors, (size, self.width))
            for name, size in zip(("row", "column"), self.image_shape[:2], strict=True)
        )
        self.positions = (of_row[:, None] + of_column[None]).astype(self.dtype)
        self.angles = rotary_angles(self.image_shape[:2], self.width // self.num_heads)
        self.first = Dense(self.width, dtype=self.dtype)
        self.context_to_stream = self._context_layer(self.width)
        self.blocks = [
            _Block(
                self.width,
                self.num_layers,
                self.kernel_size,
                self.num_heads,
                self.dropout_rate,
                self.dtype,
            )
            for _ in range(self.num_blocks)
        ]

    def _pixel_outputs(self, features: Array, context: Array | None) -> Array:
        features = features.astype(self.dtype)
        before = jax.lax.collapse(features, 1, 3)[:, :-1]
        before = jnp.pad(before, ((0, 0), (1, 0), (0, 0))).reshape(features.shape)
        windows = _windows(features, self.first_kernel_size, sees_itself=False)
        h = self.first(jnp.concatenate([windows, before], axis=-1)) + self.positions[None]
        if context is not None:
            h += self.context_to_stream(context).astype(self.dtype)[:, None, None]
        angles = jnp.asarray(self.angles)
        if self.remat and not self.is_initializing():
            key = self.make_rng("dropout") if self.has_rng("dropout") else None
            return self._read(scan_layers(self.blocks, h, angles, dropout_key=key))
        for block in self.blocks:
            h = block(h, angles)
        return self._read(h)

    def _init_pixel_cache(self, batch_size: int, context: Array | None) -> Cache:
        """Return the cache before the first pixel: nothing above, nothing to the left."""
        num_rows, num_columns = self.image_shape[:2]

        def no_rows(kernel_size: int, num_channels: int) -> Array:
            margin = kernel_size // 2
            shape = (batch_size, margin + 1, num_columns + 2 * margin, num_channels)
            return jnp.zeros(shape, self.dtype)

        rows = tuple(no_rows(self.kernel_size, self.width) for _ in range(self.num_layers))
        # Examples and heads are one axis: with an axis of one entry, XLA copies it at each step.
        num_heads = batch_size * self.num_heads
        shape = (num_heads, num_rows * num_columns, self.width // self.num_heads)
        block = (rows, (jnp.zeros(shape, self.dtype),) * 2)
        told = None if context is None else self.context_to_stream(context).astype(self.dtype)
        first_rows = no_rows(self.first_kernel_size, self.num_pixel_features)
        return Cache(first_rows, (block,) * self.num_blocks, told)

    def _pixel_step(self, cache: Cache, index: Array, features: Array) -> tuple[Array, Cache]:
        """Feed the pixel before and return the outputs of this one."""
        num_columns = self.image_shape[1]
        row, column = jnp.divmod(index, num_columns)
        before = jnp.where(index > 0, features.astype(self.dtype), 0)
        rows = _put(cache.rows, before, *jnp.divmod(index - 1, num_columns))
        window = _window(rows, row, column, self.first_kernel_size, sees_itself=False)
        h = self.first(jnp.concatenate([window, before], axis=-1))
        h += self.positions[row, column][None]
        if cache.told is not None:
            h += cache.told
        angles, blocks = jnp.asarray(self.angles)[index], []
        for block, block_cache in zip(self.blocks, cache.blocks, strict=True):
            h, block_cache = block.step(h, block_cache, index, row, column, angles)
            blocks.append(block_cache)
        return self._read(h), Cache(rows, tuple(blocks), cache.told)


class _Block(nn.Module):
    """Gated layers and then attention, over whole images or at a pixel."""

    width: int
    num_layers: int
    kernel_size: int
    num_heads: int
    dropout_rate: float
    dtype: Any

    def setup(self) -> None:
        self.gates = [Dense(2 * self.width, dtype=self.dtype) for _ in range(self.num_layers)]
        self.across = [Dense(self.width, dtype=self.dtype) for _ in range(self.num_layers)]
        self.norm = nn.LayerNorm(use_bias=False, dtype=self.dtype)
        self.qkv = Dense(3 * self.width, use_bias=False, dtype=self.dtype)
        self.mix = Dense(self.width, use_bias=False, dtype=self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    def __call__(self, h: Array, angles: Array) -> Array:
        """Return the stream `[B, H, W, C]` behind this block; angles are of all pixels."""
        for i in range(self.num_layers):
            h = self._add(i, h, _windows(h, self.kernel_size, sees_itself=True))
        flat = jax.lax.collapse(h, 1, 3)
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in self._queries_keys_values(flat))
        q, k = rotate(q, angles[None, None]), rotate(k, angles[None, None])
        attention = jnp.swapaxes(causal_attention(q, k, v), 1, 2)
        return h + self.dropout(self.mix(attention.reshape(h.shape)))

    def step(
        self, h: Array, cache: LayerCache, index: Array, row: Array, column: Array, angles: Array
    ) -> tuple[Array, LayerCache]:
        """Return the stream `[B, C]` of one pixel behind this block, and the cache with it."""
        layers, seen = cache
        known = []
        for i, rows in enumerate(layers):
            rows = _put(rows, h, row, column)
            h = self._add(i, h, _window(rows, row, column, self.kernel_size, sees_itself=True))
            known.append(rows)
        q, k, v = (jax.lax.collapse(a, 0, 2) for a in self._queries_keys_values(h))
        q, k = rotate(q, angles[None]), rotate(k, angles[None])
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(room, new[:, None], index, axis=1)
            for room, new in zip(seen, (k, v), strict=True)
        )
        attention = attend(q, keys, values, index).reshape(h.shape)
        return h + self.dropout(self.mix(attention)), (tuple(known), (keys, values))

    def _add(self, i: int, h: Array, windows: Array) -> Array:
        """Return the stream behind layer i, from what it convolves at each pixel."""
        signal, gate = jnp.split(self.gates[i](windows), 2, axis=-1)
        return h + self.dropout(self.across[i](jnp.tanh(signal) * nn.sigmoid(gate)))

    def _queries_keys_values(self, h: Array) -> tuple[Array, Array, Array]:
        """Return each as `[..., heads, C / heads]`."""
        qkv = self.qkv(self.norm(h))
        qkv = qkv.reshape(*h.shape[:-1], 3, self.num_heads, self.width // self.num_heads)
        return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]


def _num_seen(kernel_size: int, sees_itself: bool) -> int:
    """Return how many pixels of a k × k window, in raster order, come first."""
    return kernel_size**2 // 2 + sees_itself


def _windows(x: Array, kernel_size: int, *, sees_itself: bool) -> Array:
    """Lay what each pixel sees of its surroundings side by side, `[B, H, W, C] -> [B, H, W, n C]`.

    A masked convolution is then one matrix product, which XLA's convolutions on CPUs are many times
    slower than under `lax.scan`, which is how training steps run.
    """
    height, width, margin = *x.shape[1:3], kernel_size // 2
    padded = jnp.pad(x, ((0, 0), (margin, 0), (margin, margin), (0, 0)))
    places = itertools.product(range(margin + 1), range(kernel_size))
    seen = itertools.islice(places, _num_seen(kernel_size, sees_itself))
    parts = [padded[:, i : i + height, j : j + width] for i, j in seen]
    return jnp.concatenate(parts, axis=-1)


def _window(
    rows: Array, row: Array, column: Array, kernel_size: int, *, sees_itself: bool
) -> Array:
    """Return what the pixel of a row and a column sees, `[B, n C]`, of the last rows.

    What a row of the cache still holds of an earlier row lies where the pixel does not look.
    """
    num_rows = rows.shape[1]
    window = jax.lax.dynamic_slice_in_dim(rows, column, kernel_size, axis=2)
    window = jnp.take(window, (row + 1 + jnp.arange(num_rows)) % num_rows, axis=1)
    window = jax.lax.collapse(window, 1, 3)[:, : _num_seen(kernel_size, sees_itself)]
    return jax.lax.collapse(window, 1)


def _put(rows: Array, pixel: Array, row: Array, column: Array) -> Array:
    """Write a pixel `[B, C]` into its place."""
    num_rows = rows.shape[1]
    start = (0, row % num_rows, num_rows - 1 + column, 0)
    return jax.lax.dynamic_update_slice(rows, pixel[:, None, None], start)
