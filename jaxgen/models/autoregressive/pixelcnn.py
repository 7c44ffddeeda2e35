"""Gated PixelCNN: masked convolutions give every pixel's conditional in a single pass."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count, check_integer_array, check_shape
from jaxgen.core.types import Array
from jaxgen.models.layers import heads
from jaxgen.models.layers.linear import Dense, matmul
from jaxgen.models.layers.ordinal import thermometer


class Cache(NamedTuple):
    """What is known of the image when a pixel's turn comes; W columns, L layers, m = k // 2.

    Attributes:
      row: the code of the symbols of this row so far, `[B, W, V − 1]`.
      above: of each layer, its convolutions along the last m + 1 rows, `[B, m + 1, W, C]`.
      linked: of each layer, what the vertical stack tells this row, `[B, W, G]`.
      left: of each layer, its input at the last m + 1 pixels of this row, `[B, m + 1, C]`.
    """

    row: Array
    above: tuple[Array, ...]
    linked: tuple[Array, ...]
    left: tuple[Array, ...]


class GatedPixelCNN(nn.Module):
    r"""Gated PixelCNN (van den Oord et al. 2016b), over images in raster order.

    .. math:: y = \tanh(a) \odot \sigma(b), \qquad (a, b) = \text{convolution}

    The vertical stack sees the rows above a pixel, the horizontal stack the vertical one and the
    pixels to the left; with enough layers every earlier pixel is seen, and there is no blind spot.
    Each layer of the vertical stack convolves along rows, then along columns.

    The simplest setting, `is_gated=False`, is a plain PixelCNN: ReLUs instead of gates.

    An image is its pixels row by row, D = H W of them. Symbols enter as a thermometer code.
    `step` does the work of the vertical stack once a row and that of the horizontal stack for one
    pixel at a time, so all steps together cost about one full pass.

    Attributes:
      image_shape: (H, W).
      num_symbols: V, the number of values that a pixel takes.
      width: C, channels of either stack.
      num_layers: layers, the first one included.
      kernel_size: k, the odd size of the convolutions; a pixel sees k // 2 rows further up and
        columns further to each side with every layer.
      first_kernel_size: the same for the first layer, which leaves out the pixel itself.
      head_width: hidden units of each pixel between the layers and the head's outputs.
      is_gated: whether activations are gated, as above.
      head: what the outputs of a pixel mean; None takes `heads.ordered`.
    """

    image_shape: tuple[int, int]
    num_symbols: int
    width: int = 32
    num_layers: int = 6
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_width: int = 32
    is_gated: bool = True
    head: heads.Head | None = None

    def setup(self) -> None:
        """Check the fields and create the layers."""
        for size in self.image_shape:
            check_count("image_shape", size)
        check_count("num_symbols", self.num_symbols, minimum=2)
        for name in ("width", "num_layers", "head_width"):
            check_count(name, getattr(self, name))
        for name in ("kernel_size", "first_kernel_size"):
            check_count(name, size := getattr(self, name))
            if size % 2 == 0:
                raise ValueError(f"{name} must be odd, got {size}")
        heads.check_head(self.head_or_default, self.num_symbols)
        self.layers = [
            _Layer(
                num_inputs=self.width if i else self.num_symbols - 1,
                width=self.width,
                kernel_size=self.kernel_size if i else self.first_kernel_size,
                is_first=i == 0,
                is_last=i == self.num_layers - 1,
                is_gated=self.is_gated,
            )
            for i in range(self.num_layers)
        ]
        self.hidden = Dense(self.head_width)
        self.outputs = Dense(self.head_or_default.num_outputs)

    @property
    def num_dims(self) -> int:
        """D, the number of pixels."""
        return self.image_shape[0] * self.image_shape[1]

    @property
    def head_or_default(self) -> heads.Head:
        """The head in use."""
        return heads.ordered(self.num_symbols) if self.head is None else self.head

    def __call__(self, x: Array) -> Array:
        """The logits of every pixel; see `logits`."""
        return self.logits(x)

    def logits(self, x: Array) -> Array:
        """Logits of every conditional by teacher forcing.

        Args:
          x: symbols, integers `[..., D]`.

        Returns:
          `[..., D, V]`; row i depends on x_<i alone.
        """
        check_integer_array("x", x)
        check_shape("x", x, (*x.shape[:-1], self.num_dims))
        code = thermometer(x, self.num_symbols)
        vertical = horizontal = code.reshape(-1, *self.image_shape, self.num_symbols - 1)
        skips = []
        for layer in self.layers:
            above = layer.down(layer.padded_above(layer.along_row(vertical)))
            left = layer.along_left(layer.padded_left(horizontal))
            horizontal, skip = layer.across(layer.link(above) + left, horizontal)
            vertical = layer.activate(above)
            skips.append(skip)
        return self._read(skips).reshape(*x.shape, self.num_symbols)

    def init_cache(self, batch_size: int) -> Cache:
        """The cache before the first pixel: nothing above, nothing to the left."""
        num_columns = self.image_shape[1]
        row = jnp.zeros((batch_size, num_columns, self.num_symbols - 1))
        sizes = [layer.kernel_size // 2 + 1 for layer in self.layers]
        above = [jnp.zeros((batch_size, size, num_columns, self.width)) for size in sizes]
        left = [
            jnp.zeros((batch_size, size, layer.num_inputs))
            for size, layer in zip(sizes, self.layers, strict=True)
        ]
        return self._next_row(Cache(row, tuple(above), (), tuple(left)))

    def step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and give the logits of x_index; see `AutoregressiveModel`."""
        num_columns = self.image_shape[1]
        column, is_row_new = index % num_columns, index % num_columns == 0
        code = thermometer(previous, self.num_symbols)[:, None]
        row = jax.lax.dynamic_update_slice_in_dim(
            cache.row, code, (index - 1) % num_columns, axis=1
        )
        is_row_over = is_row_new & (index > 0)
        cache = nn.cond(
            is_row_over,
            lambda self, cache: self._next_row(cache),
            lambda self, cache: cache,
            self,
            cache._replace(row=row),
        )
        horizontal, lefts, skips = code[:, 0], [], []
        for layer, left, linked in zip(self.layers, cache.left, cache.linked, strict=True):
            # The first layer sees the pixel before this one, the others the layer below at this.
            newest = jnp.where(is_row_new & layer.is_first, 0.0, horizontal)[:, None]
            left = jnp.concatenate([jnp.where(is_row_new, 0.0, left[:, 1:]), newest], axis=1)
            here = jax.lax.dynamic_index_in_dim(linked, column, axis=1, keepdims=False)
            here += layer.along_left(left[:, None])[:, 0, 0]
            horizontal, skip = layer.across(here, horizontal)
            lefts.append(left)
            skips.append(skip)
        return self._read(skips), cache._replace(left=tuple(lefts))

    def _next_row(self, cache: Cache) -> Cache:
        """The vertical stack one row further down, when the row before is complete."""
        vertical, aboves, linkeds = cache.row[:, None], [], []
        for layer, above in zip(self.layers, cache.above, strict=True):
            above = jnp.concatenate([above[:, 1:], layer.along_row(vertical)], axis=1)
            down = layer.down(above)
            vertical = layer.activate(down)
            aboves.append(above)
            linkeds.append(layer.link(down)[:, 0])
        return cache._replace(above=tuple(aboves), linked=tuple(linkeds))

    def _read(self, skips: list[Array]) -> Array:
        """Logits of pixels, `[..., C] -> [..., V]`, from what every layer says."""
        total = functools.reduce(jnp.add, skips)
        outputs = self.outputs(nn.relu(self.hidden(nn.relu(total))))
        return self.head_or_default.logits(outputs)


class _Layer(nn.Module):
    """One layer of both stacks, in parts that serve whole images and single rows and pixels."""

    num_inputs: int
    width: int
    kernel_size: int
    is_first: bool
    is_last: bool
    is_gated: bool

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
        self.link = Dense(num_sums)
        # The last layer has none above it to pass its pixels on to.
        self.across_dense = Dense(width if self.is_last else 2 * width)

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
        return _convolve(above, self.down_kernel, axis=1) + self.down_bias[None, None, None]

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
    windows = [jax.lax.slice_in_dim(x, t, t + size, axis=axis) for t in range(len(kernel))]
    return matmul(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, kernel.shape[-1]))
