"""Causal transformer: every conditional of the chain rule by attention to what came before."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import (
    check_count,
    check_in_range,
    check_integer_array,
    check_one_of,
    check_shape,
)
from jaxgen.core.types import Array
from jaxgen.models.layers import heads
from jaxgen.models.layers.attention import attend, causal_attention, rotary_angles, rotate
from jaxgen.models.layers.linear import Dense

LayerCache = tuple[Array, Array]
"""Keys and values of the positions so far, `[B, H, R, C]` each, with room for R of them."""
Cache = tuple[LayerCache, ...]


class CausalTransformer(nn.Module):
    r"""Pre-norm decoder (Vaswani et al. 2017; Radford et al. 2019) over a sequence or an image.

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}

    Position i reads x_{i−1}, position 0 a learned start vector. Each of L layers adds to a stream
    of W channels h ← h + attention(norm(h)), h ← h + MLP(norm(h)).

    Classes: with `num_classes`, a vector of the label is added at every position. Labels are not
    an argument, they travel with the parameters (`contracts.conditioned`), so whatever takes a
    model takes a conditional one. Where there is no label, a row of its own stands for "no class".

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes.
      width: W, a multiple of `num_heads`.
      num_layers: L.
      num_heads: H, attention heads of C = W / H channels.
      positions: `rotary` turns queries and keys by their position; `learned` adds a vector for
        each position.
      image_shape: (rows, columns) of an image read row by row. Vectors for the row and the column
        are then added, in place of one for each position, and `rotary` turns by both.
      num_classes: K of a class-conditional model; None for a model without classes.
      dropout_rate: share of what enters the stream dropped when `apply` is given a `dropout` key.
      head: what the outputs of a coordinate mean; None takes `heads.unordered`.
      dtype: of activations; parameters, attention weights and logits stay in float32.
      block_size: positions by which a sampler lets the cache grow; see `AutoregressiveModel`.
    """

    num_dims: int
    num_symbols: int
    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    positions: Literal["rotary", "learned"] = "rotary"
    image_shape: tuple[int, int] | None = None
    num_classes: int | None = None
    dropout_rate: float = 0.0
    head: heads.Head | None = None
    dtype: Any = jnp.float32
    block_size: int = 112

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        self._check_fields()
        vectors = nn.initializers.normal(1 / math.sqrt(self.width))
        tables = {"symbols": self.num_symbols + 1}  # the last one is the start
        if self.image_shape is not None:
            tables |= {"rows": self.image_shape[0], "columns": self.image_shape[1]}
        elif self.positions == "learned":
            tables |= {"positions": self.num_dims}
        if self.num_classes is not None:
            tables |= {"classes": self.num_classes + 1}  # the last one is "no class"
        self.tables = {
            name: self.param(f"{name}_table", vectors, (size, self.width))
            for name, size in tables.items()
        }
        self.layers = [
            Layer(self.width, self.num_heads, self.num_layers, self.dropout_rate, self.dtype)
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(use_bias=False, dtype=self.dtype)
        self.output = Dense(self.head_or_default.num_outputs, dtype=jnp.float32)
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    def _check_fields(self) -> None:
        for name in ("num_dims", "width", "num_layers", "num_heads", "block_size"):
            check_count(name, getattr(self, name))
        check_count("num_symbols", self.num_symbols, minimum=2)
        check_one_of("positions", self.positions, ("rotary", "learned"))
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        if self.num_classes is not None:
            check_count("num_classes", self.num_classes)
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads={self.num_heads}, got {self.width}"
            )
        if self.image_shape is not None and math.prod(self.image_shape) != self.num_dims:
            raise ValueError(
                f"image_shape must hold num_dims={self.num_dims} pixels, got {self.image_shape}"
            )
        heads.check_head(self.head_or_default, self.num_symbols)

    @property
    def head_or_default(self) -> heads.Head:
        """The head in use."""
        return heads.unordered(self.num_symbols) if self.head is None else self.head

    def __call__(self, x: Array) -> Array:
        """The logits of every coordinate; see `logits`."""
        return self.logits(x)

    def logits(self, x: Array) -> Array:
        """Logits of every conditional by teacher forcing.

        Args:
          x: symbols, integers `[..., D]`.

        Returns:
          float32 `[..., D, V]`; row i depends on x_<i alone.
        """
        check_integer_array("x", x)
        check_shape("x", x, (*x.shape[:-1], self.num_dims))
        logits, _ = self._read(x.reshape(-1, self.num_dims))
        return logits.reshape(*x.shape, -1)

    def prefill(self, prompt: Array) -> tuple[Array, Cache]:
        """The logits `[B, P, V]` along a prompt `[B, P]`, and the cache, from one pass."""
        logits, cache = self._read(prompt)
        return logits, self.resize(cache, self.num_dims)

    def init_cache(self, batch_size: int) -> Cache:
        """Room for keys and values of every position, `[B, H, D, C]` each."""
        shape = (batch_size, self.num_heads, self.num_dims, self.width // self.num_heads)
        return tuple((jnp.zeros(shape, self.dtype),) * 2 for _ in range(self.num_layers))

    def resize(self, cache: Cache, length: int) -> Cache:
        """The cache with room for the first `length` positions, those beyond dropped or empty."""

        def fit(a: Array) -> Array:
            a = a[:, :, :length]
            return jnp.pad(a, [(0, 0), (0, 0), (0, length - a.shape[2]), (0, 0)])

        return jax.tree.map(fit, cache)

    def step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and give the logits of x_index; see `AutoregressiveModel`."""
        symbols = jnp.where(index > 0, previous, self.num_symbols)
        h = self._embed(symbols[:, None], index[None])[:, 0]
        angles = self._angles(index[None])
        layer_caches = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            h, layer_cache = layer.step(h, layer_cache, index, angles)
            layer_caches.append(layer_cache)
        return self._logits(h), tuple(layer_caches)

    def _read(self, x: Array) -> tuple[Array, Cache]:
        """Logits and cache of the first T ≤ D positions, from symbols `[B, T]`."""
        start = jnp.full_like(x[:, :1], self.num_symbols)
        symbols = jnp.concatenate([start, x[:, :-1]], axis=1)
        positions = jnp.arange(x.shape[1])
        h, angles = self._embed(symbols, positions), self._angles(positions)
        cache = []
        for layer in self.layers:
            h, layer_cache = layer(h, angles)
            cache.append(layer_cache)
        return self._logits(h), tuple(cache)

    def _embed(self, symbols: Array, positions: Array) -> Array:
        """What enters the stream, `[B, T, W]`, for symbols `[B, T]` at positions `[T]`."""
        h = _rows(self.tables["symbols"], symbols)
        if self.image_shape is not None:
            row, column = jnp.divmod(positions, self.image_shape[1])
            places = _rows(self.tables["rows"], row) + _rows(self.tables["columns"], column)
            h += places[None]
        elif self.positions == "learned":
            h += _rows(self.tables["positions"], positions)[None]
        if self.num_classes is not None:
            labels = self._labels(self.num_classes, len(symbols))
            h += _rows(self.tables["classes"], labels)[:, None]
        return self.dropout(h.astype(self.dtype))

    def _labels(self, no_class: int, batch_size: int) -> Array:
        if not self.has_variable("context", "labels"):
            return jnp.full((batch_size,), no_class)
        labels = jnp.asarray(self.get_variable("context", "labels"))
        check_integer_array("labels", labels)
        if labels.ndim > 0:
            check_shape("labels", labels, (batch_size,))
        return jnp.broadcast_to(labels, (batch_size,))

    def _angles(self, positions: Array) -> Array | None:
        if self.positions == "learned":
            return None
        shape = (self.num_dims,) if self.image_shape is None else self.image_shape
        return jnp.asarray(rotary_angles(shape, self.width // self.num_heads))[positions]

    def _logits(self, h: Array) -> Array:
        return self.head_or_default.logits(self.output(self.norm(h)))


class Layer(nn.Module):
    """One layer of the transformer: attention, then an MLP of 4 W hidden units.

    Attributes:
      width: W.
      num_heads: H.
      num_layers: L; what a layer adds starts smaller by the root of 2 L, so the stream does not
        grow with depth (Radford et al. 2019).
      dropout_rate: share of what is added that is dropped.
      dtype: of activations.
    """

    width: int
    num_heads: int
    num_layers: int
    dropout_rate: float
    dtype: Any

    def setup(self) -> None:
        """Create the parameters."""
        small = nn.initializers.variance_scaling(
            1 / (2 * self.num_layers), "fan_in", "truncated_normal"
        )
        self.attention_norm, self.mlp_norm = (
            nn.LayerNorm(use_bias=False, dtype=self.dtype) for _ in range(2)
        )
        self.qkv = Dense(3 * self.width, use_bias=False, dtype=self.dtype)
        self.mix = Dense(self.width, use_bias=False, dtype=self.dtype, kernel_init=small)
        self.up = Dense(4 * self.width, use_bias=False, dtype=self.dtype)
        self.down = Dense(self.width, use_bias=False, dtype=self.dtype, kernel_init=small)
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    def __call__(self, h: Array, angles: Array | None) -> tuple[Array, LayerCache]:
        """The stream `[B, T, W]` after this layer, and the keys and values it looked at."""
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in self._queries_keys_values(h))
        if angles is not None:
            q, k = rotate(q, angles[None, None]), rotate(k, angles[None, None])
        attention = jnp.swapaxes(causal_attention(q, k, v), 1, 2).reshape(h.shape)
        return self._add(h, attention), (k, v)

    def step(
        self, h: Array, cache: LayerCache, index: Array, angles: Array | None
    ) -> tuple[Array, LayerCache]:
        """The stream `[B, W]` of position `index` after this layer, and the cache with it."""
        q, k, v = self._queries_keys_values(h)
        if angles is not None:
            q, k = rotate(q, angles[None]), rotate(k, angles[None])
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(room, new[:, :, None], index, axis=2)
            for room, new in zip(cache, (k, v), strict=True)
        )
        attention = attend(q, keys, values, index).reshape(h.shape)
        return self._add(h, attention), (keys, values)

    def _queries_keys_values(self, h: Array) -> tuple[Array, Array, Array]:
        """Each `[..., H, C]`."""
        qkv = self.qkv(self.attention_norm(h))
        qkv = qkv.reshape(*h.shape[:-1], 3, self.num_heads, self.width // self.num_heads)
        return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]

    def _add(self, h: Array, attention: Array) -> Array:
        h += self.dropout(self.mix(attention))
        return h + self.dropout(self.down(nn.gelu(self.up(self.mlp_norm(h)))))


def _rows(table: Array, indices: Array) -> Array:
    """Rows of a table; NaN for an index that it does not have, so that a wrong symbol shows."""
    indices = jnp.where(indices < 0, len(table), indices)
    return jnp.asarray(table).at[indices].get(mode="fill", fill_value=jnp.nan)
