"""Gated PixelCNN: masked convolutions give every pixel's conditional in a single pass."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._image_module import LinenImageModel
from jaxgen.models.layers._linear import Dense, matmul
from jaxgen.models.layers._rematerialized import scan_layers


class Cache(NamedTuple):
    """Keep what is known of the image when a pixel's turn comes; W columns, L layers, m = k // 2.

    Attributes:
      row: the features of the pixels of this row so far, `[B, W, F]`.
      above: of each layer, its convolutions along the last m + 1 rows, `[B, m + 1, W, C]`.
      linked: of each layer, what the vertical stack tells this row, `[B, W, G]`.
      left: of each layer, its input at the last m + 1 pixels of this row, `[B, m + 1, C]`.
      told: what the context adds to each layer's sums, `[B, G]`; empty without one.
      next_row: which row the vertical stack comes to next, int32 scalar.
    """

    row: Array
    above: tuple[Array, ...]
    linked: tuple[Array, ...]
    left: tuple[Array, ...]
    told: tuple[Array, ...]
    next_row: Array


State = tuple[Array, Array, Array]
"""The vertical and the horizontal stack, `[B, H, W, C]`, and the sum of what layers say."""


class GatedPixelCNN(LinenImageModel):
    r"""Gated PixelCNN (van den Oord et al. 2016b), over images in raster order.

    .. math:: y = \tanh(a) \odot \sigma(b), \qquad (a, b) = \text{convolution}

    The vertical stack sees the rows above a pixel, the horizontal stack the vertical one and the
    pixels to the left; with enough layers every earlier pixel is seen, and there is no blind spot.
    Each layer of the vertical stack convolves along rows, then along columns. A pixel that is 0 and
    what lies outside the image look alike to a convolution, so the first layer of the vertical
    stack, and through it all others, is told its row and its column.

    The simplest setting, `is_gated=False`, is a plain PixelCNN: ReLUs instead of gates. A context
    moves the sums of the horizontal stack in every layer.

    An image is its pixels row by row, and each its channels, D = H W C of them. A step does the
    work of the vertical stack once a row and that of the horizontal stack for one pixel at a time,
    so all steps together cost about one full pass.

    Attributes:
      image_shape: (H, W), or (H, W, C) of images with channels; each depends on those before it as
        `conditional` allows (see `ChannelHead`).
      num_symbols: V, the number of values that a pixel takes.
      width: C, channels of either stack.
      num_layers: layers, the first one included.
      kernel_size: k, the odd size of the convolutions; a pixel sees k // 2 rows further up and
        columns further to each side with every layer.
      first_kernel_size: the same for the first layer, which leaves out the pixel itself.
      head_width: hidden units of each pixel between the layers and the head's outputs.
      is_gated: whether activations are gated, as above.
      conditional: what the outputs of a pixel mean; None takes `ordered`.
      conditioning: what the context is; None for none.
      dtype: of activations; parameters and outputs stay in float32.
      remat: whether training keeps of each layer but the first and the last its input alone, and
        computes the rest again.
    """

    image_shape: tuple[int, ...]
    num_symbols: int
    width: int = 32
    num_layers: int = 6
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_width: int = 32
    is_gated: bool = True
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
        self._check_fields("width", "num_layers")
        self.layers = [
            _Layer(
                num_inputs=self.width if i else self.num_pixel_features,
                width=self.width,
                kernel_size=self.kernel_size if i else self.first_kernel_size,
                is_first=i == 0,
                is_last=i == self.num_layers - 1,
                is_gated=self.is_gated,
                sees_context=self.conditioning is not None,
                dtype=self.dtype,
            )
            for i in range(self.num_layers)
        ]
        num_sums = (1 + self.is_gated) * self.width
        of_row, of_column = (
            self.param(f"{name}_positions", nn.initializers.zeros, (size, num_sums))
            for name, size in zip(("row", "column"), self.image_shape[:2], strict=True)
        )
        self.positions = (of_row[:, None] + of_column[None]).astype(self.dtype)

    def _pixel_outputs(self, features: Array, context: Array | None) -> Array:
        features = features.astype(self.dtype)
        first, *others = self.layers
        state = first((features, features, jnp.zeros((), self.dtype)), context, self.positions)
        if self.remat and len(others) > 1 and not self.is_initializing():
            state, others = scan_layers(others[:-1], state, context), others[-1:]
        for layer in others:
            state = layer(state, context)
        return self._read(state[2])

    def _init_pixel_cache(self, batch_size: int, context: Array | None) -> Cache:
        """Return the cache before the first pixel: nothing above, nothing to the left."""
        num_columns = self.image_shape[1]
        row = jnp.zeros((batch_size, num_columns, self.num_pixel_features), self.dtype)
        sizes = [layer.kernel_size // 2 + 1 for layer in self.layers]
        above = [
            jnp.zeros((batch_size, size, num_columns, self.width), self.dtype) for size in sizes
        ]
        left = [
            jnp.zeros((batch_size, size, layer.num_inputs), self.dtype)
            for size, layer in zip(sizes, self.layers, strict=True)
        ]
        told = [] if context is None else [layer.of_context(context) for layer in self.layers]
        first = jnp.zeros((), jnp.int32)
        return self._next_row(Cache(row, tuple(above), (), tuple(left), tuple(told), first))

    def _pixel_step(self, cache: Cache, index: Array, features: Array) -> tuple[Array, Cache]:
        """Feed the pixel before and return the outputs of this one."""
        num_columns = self.image_shape[1]
        column, is_row_new = index % num_columns, index % num_columns == 0
        features = features.astype(self.dtype)
        row = jax.lax.dynamic_update_slice_in_dim(
            cache.row, features[:, None], (index - 1) % num_columns, axis=1
        )
        is_row_over = is_row_new & (index > 0)
        cache = nn.cond(
            is_row_over,
            lambda self, cache: self._next_row(cache),
            lambda self, cache: cache,
            self,
            cache._replace(row=row),
        )
        horizontal, lefts, skips = features, [], []
        for i, (layer, left) in enumerate(zip(self.layers, cache.left, strict=True)):
            # The first layer sees the pixel before this one, the others the layer below at this.
            newest = jnp.where(is_row_new & layer.is_first, 0.0, horizontal)[:, None]
            left = jnp.concatenate([jnp.where(is_row_new, 0.0, left[:, 1:]), newest], axis=1)
            sums = jax.lax.dynamic_index_in_dim(cache.linked[i], column, axis=1, keepdims=False)
            sums += layer.along_left(left[:, None])[:, 0, 0]
            if cache.told:
                sums += cache.told[i]
            horizontal, skip = layer.across(sums, horizontal)
            lefts.append(left)
            skips.append(skip)
        total = functools.reduce(jnp.add, skips)
        return self._read(total), cache._replace(left=tuple(lefts))

    def _next_row(self, cache: Cache) -> Cache:
        """Return the vertical stack one row further down, when the row before is complete."""
        vertical, aboves, linkeds = cache.row[:, None], [], []
        for layer, above in zip(self.layers, cache.above, strict=True):
            above = jnp.concatenate([above[:, 1:], layer.along_row(vertical)], axis=1)
            down = layer.down(above)
            if layer.is_first:
                down += jax.lax.dynamic_slice_in_dim(self.positions, cache.next_row, 1)[None]
            vertical = layer.activate(down)
            aboves.append(above)
            linkeds.append(layer.link(down)[:, 0])
        next_row = cache.next_row + 1
        return cache._replace(above=tuple(aboves), linked=tuple(linkeds), next_row=next_row)


class _Layer(nn.Module):
    """One layer of both stacks, in parts that serve whole images and single rows and pixels."""

    num_inputs: int
    width: int
    kernel_size: int
    is_first: bool
    is_last: bool
    is_gated: bool
    sees_context: bool
    dtype: Any

    def setup(self) -> None:
        width, reach = self.width, self.kernel_size // 2 + 1
        num_sums = 2 * width if self.is_gated else width
        create = nn.initializers.lecun_normal()
        self.row_kernel = self.param(
            "row_kernel", create, (self.kernel_size, self.num_inputs, width)
        )
        self.down_kernel = self.param("down_kernel", create, (reach, width, num_sums))
        self.down_bias = self.param("down_bias", nn.initializers.zeros, (num_sums,))
        self.left_kernel = self.param("left_kernel", create, (reach, self.num_inputs, num_sums))
        self.link = Dense(num_sums, dtype=self.dtype)
        if self.sees_context:
            self.of_context = nn.Dense(num_sums, use_bias=False, dtype=self.dtype)
        # The last layer has none above it to pass its pixels on to.
        self.across_dense = Dense(width if self.is_last else 2 * width, dtype=self.dtype)

    def __call__(
        self, state: State, context: Array | None, positions: Array | None = None
    ) -> State:
        """Return both stacks after this layer, over whole images, and what layers say so far."""
        vertical, horizontal, total = state
        above = self.down(self.padded_above(self.along_row(vertical)))
        if positions is not None:
            above += positions[None]
        sums = self.link(above) + self.along_left(self.padded_left(horizontal))
        if context is not None:
            sums += self.of_context(context)[:, None, None]
        horizontal, skip = self.across(sums, horizontal)
        return self.activate(above), horizontal, total + skip

    def padded_above(self, rows: Array) -> Array:
        """Rows with room above: the first layer is one row late, so no pixel sees its own row."""
        rows = rows[:, :-1] if self.is_first else rows
        return jnp.pad(rows, ((0, 0), (self.kernel_size // 2 + self.is_first, 0), (0, 0), (0, 0)))

    def padded_left(self, pixels: Array) -> Array:
        """Pixels with room to the left: the first layer is one late, so no pixel sees itself."""
        pixels = pixels[:, :, :-1] if self.is_first else pixels
        return jnp.pad(pixels, ((0, 0), (0, 0), (self.kernel_size // 2 + self.is_first, 0), (0, 0)))

    def along_row(self, vertical: Array) -> Array:
        """Convolve along each row, `[B, h, W, C] -> [B, h, W, C]`."""
        margin = self.kernel_size // 2
        padded = jnp.pad(vertical, ((0, 0), (0, 0), (margin, margin), (0, 0)))
        return _convolve(padded, self.row_kernel, axis=2)

    def down(self, above: Array) -> Array:
        """Convolve along columns, `[B, h + m, W, C] -> [B, h, W, G]`."""
        bias = self.down_bias[None, None, None].astype(self.dtype)
        return _convolve(above, self.down_kernel, axis=1) + bias

    def along_left(self, left: Array) -> Array:
        """Convolve along rows to the left, `[B, h, w + m, C] -> [B, h, w, G]`."""
        return _convolve(left, self.left_kernel, axis=2)

    def activate(self, sums: Array) -> Array:
        """Gate, `[..., 2 C] -> [..., C]`, or rectify."""
        if not self.is_gated:
            return nn.relu(sums)
        signal, gate = jnp.split(sums, 2, axis=-1)
        return jnp.tanh(signal) * nn.sigmoid(gate)

    def across(self, sums: Array, horizontal: Array) -> tuple[Array, Array]:
        """The horizontal stack's next input, and what goes straight to the head."""
        both = self.across_dense(self.activate(sums))
        skip, onward = both[..., : self.width], both[..., self.width :]
        # The first layer's input holds the pixel itself, which must not be seen.
        return (onward if self.is_first or self.is_last else onward + horizontal), skip


def _convolve(x: Array, kernel: Array, axis: int) -> Array:
    """Convolve along an axis without padding, `[..., C] * [k, C, G] -> [..., G]`.

    One matrix product over the windows: XLA's convolutions fall to a path many times slower on
    CPUs under `lax.scan`, which is how training steps run.
    """
    size = x.shape[axis] - len(kernel) + 1
    kernel = kernel.astype(x.dtype)
    windows = [jax.lax.slice_in_dim(x, t, t + size, axis=axis) for t in range(len(kernel))]
    return matmul(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, kernel.shape[-1]))
