"""Causal transformer: every conditional of the chain rule by attention to what came before."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._arrays import varying_with
from jaxgen.core._checks import check_count, check_in_range, check_one_of, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._blocks import block_length, starts_of_blocks
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.layers._attention import (
    attend,
    attend_block,
    causal_attention,
    rotary_angles,
    rotate,
)
from jaxgen.models.layers._linear import Dense
from jaxgen.models.layers._per_coordinate import PerCoordinate
from jaxgen.models.layers._rematerialized import scan_layers

LayerCache = tuple[Array, Array]
"""Keys and values of the positions so far, `[B, H, R, C]` each, with room for R of them."""
Cache = tuple[tuple[LayerCache, ...], Array | None]
"""Those of every layer, and what the context adds to the stream, `[B, W]`."""


class CausalTransformer(LinenAutoregressiveModel):
    r"""Pre-norm decoder (Vaswani et al. 2017; Radford et al. 2019) over a sequence or an image.

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}

    Position i reads x_{i−1}, position 0 a learned start vector. Each of L layers adds to a stream
    of W channels h ← h + attention(norm(h)), h ← h + MLP(norm(h)).

    Where coordinates are no symbols of one alphabet, each is read and said by weights of its own.
    A context adds a vector to the stream at every position.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes; None for reals and mixed kinds.
      width: W, a multiple of `num_heads`.
      num_layers: L.
      num_heads: H, attention heads of C = W / H channels.
      positions: `rotary` turns queries and keys by their position; `learned` adds a vector for
        each position.
      image_shape: (rows, columns) of an image read row by row. Vectors for the row and the column
        are then added, in place of one for each position, and `rotary` turns by both.
      dropout_rate: share of what enters the stream dropped where a dropout key is given.
      conditional: what the outputs of a coordinate mean; None takes `unordered`.
      conditioning: what the context is; None for none.
      dtype: of activations; parameters, attention weights and logits stay in float32.
      remat: whether training keeps of each layer its input alone, and computes the rest again.
      block_size: positions that a sampler's cache has room for at first; a full one grows by half,
        or by as many. None for room for all.
    """

    num_dims: int
    num_symbols: int | None
    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    positions: Literal["rotary", "learned"] = "rotary"
    image_shape: tuple[int, int] | None = None
    dropout_rate: float = 0.0
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = jnp.float32
    remat: bool = False
    block_size: int | None = 112

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        self._check_fields("width", "num_layers", "num_heads")
        if self.block_size is not None:
            check_count("block_size", self.block_size)
        self._check_shapes()
        vectors = nn.initializers.normal(1 / math.sqrt(self.width))
        num_rows = 1 if self.num_symbols is None else self.num_symbols + 1
        tables = {"symbols": num_rows}  # the last one is the start
        if self.image_shape is not None:
            tables |= {"rows": self.image_shape[0], "columns": self.image_shape[1]}
        elif self.positions == "learned":
            tables |= {"positions": self.num_dims}
        self.tables = {
            name: self.param(f"{name}_table", vectors, (size, self.width))
            for name, size in tables.items()
        }
        self.layers = [
            _Layer(self.width, self.num_heads, self.num_layers, self.dropout_rate, self.dtype)
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(use_bias=False, dtype=self.dtype)
        conditional = self.conditional_or_default
        if self.num_symbols is None:
            self.columns = PerCoordinate(
                self.num_dims, conditional.num_features, self.width, use_bias=False
            )
            self.output: Any = PerCoordinate(self.num_dims, self.width, conditional.num_outputs)
        else:
            self.output = Dense(
                conditional.num_outputs, dtype=jnp.promote_types(self.dtype, jnp.float32)
            )
        self.context_to_stream = self._context_layer(self.width)
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    def _check_shapes(self) -> None:
        check_one_of("positions", self.positions, ("rotary", "learned"))
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads={self.num_heads}, got {self.width}"
            )
        if self.image_shape is not None:
            check_sizes("image_shape", self.image_shape)
        if self.image_shape is not None and math.prod(self.image_shape) != self.num_dims:
            raise ValueError(
                f"image_shape must hold num_dims={self.num_dims} pixels, got {self.image_shape}"
            )

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("output", "bias")

    def _hidden(self, x: Array, context: Array | None) -> Array:
        h, angles = self._enter(x, self._context_vector(context))
        if self.remat and not self.is_initializing():
            key = self.make_rng("dropout") if self.has_rng("dropout") else None
            return scan_layers(self.layers, h, angles, dropout_key=key)
        for layer in self.layers:
            h = layer(h, angles)
        return h

    def _read_out(self, h: Array) -> Array:
        """Return the outputs of positions from the stream behind the last layer."""
        return self.output(self.norm(h))

    def _prefill(self, prompt: Array, context: Array | None) -> tuple[Array, Cache]:
        """Return the stream `[B, T, W]` along a prompt `[B, T]`, and the cache.

        In one pass, or where that would take much memory, a few rows at a time, and where one row
        still would, a few positions.
        """
        vector = self._context_vector(context)
        h, layers = self._read_few_rows(prompt, vector, 4 * self.width)
        return h, (layers, vector)

    def _read_rows(self, prompt: Array, vector: Array | None) -> tuple[Array, Any]:
        """Return the stream of a prompt, and keys and values in room for all D positions."""
        num_rows, length = prompt.shape
        size = min(block_length(num_rows, length, 4 * self.width), block_length(1, length, length))
        if size < length:
            return self._read_in_blocks(prompt, vector, size)
        h, layers = self._read(prompt, vector)
        return h, self._resize((layers, vector), self.num_dims)[0]

    def _init_cache(self, batch_size: int, context: Array | None) -> Cache:
        """Make room for keys and values of every position, `[B, H, D, C]` each."""
        shape = (batch_size, self.num_heads, self.num_dims, self.width // self.num_heads)
        layers = tuple((jnp.zeros(shape, self.dtype),) * 2 for _ in range(self.num_layers))
        return layers, self._context_vector(context)

    def _resize(self, cache: Cache, length: int) -> Cache:
        """Keep room for the first `length` positions, those beyond dropped or empty."""
        layers, vector = cache

        def fit(a: Array) -> Array:
            a = a[:, :, :length]
            return jnp.pad(a, [(0, 0), (0, 0), (0, length - a.shape[2]), (0, 0)])

        return jax.tree.map(fit, layers), vector

    def _step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and return the outputs of x_index."""
        layers, vector = cache
        h = self._embed(self._read_in_at(previous, index)[:, None], index[None], vector)[:, 0]
        angles = self._angles(index[None])
        grown = []
        for layer, layer_cache in zip(self.layers, layers, strict=True):
            h, layer_cache = layer.step(h, layer_cache, index, angles)
            grown.append(layer_cache)
        h = self.norm(h)
        outputs = self.output(h) if self._has_symbols else self.output.at(h, index)
        return outputs, (tuple(grown), vector)

    def _read(self, x: Array, vector: Array | None) -> tuple[Array, tuple[LayerCache, ...]]:
        """Return the stream and caches of the first T ≤ D positions, from symbols `[B, T]`."""
        h, angles = self._enter(x, vector)
        layers = []
        for layer in self.layers:
            h, layer_cache = layer.read(h, angles)
            layers.append(layer_cache)
        return h, tuple(layers)

    def _read_in_blocks(
        self, x: Array, vector: Array | None, size: int
    ) -> tuple[Array, tuple[LayerCache, ...]]:
        """Do as `_read`, K positions at a time, in caches with room for all D."""
        length = x.shape[1]
        h, angles = self._enter(x, vector)
        unbound, params = self.clone(parent=None), {"params": self.variables["params"]}

        def read(carry: tuple[Array, Any], start: Array) -> tuple[tuple[Array, Any], None]:
            said, layers = carry
            block = jax.lax.dynamic_slice_in_dim(h, start, size, axis=1)
            block, layers = unbound.apply(
                params, block, layers, start, angles, length, method="_extend"
            )
            return (jax.lax.dynamic_update_slice_in_dim(said, block, start, axis=1), layers), None

        layers, _ = self._init_cache(len(x), None)
        begin = varying_with((jnp.zeros_like(h), layers), (h, params))
        return jax.lax.scan(read, begin, starts_of_blocks(length, size))[0]

    def _extend(
        self, h: Array, layers: Any, start: Array, angles: Array | None, length: int
    ) -> tuple[Array, tuple[LayerCache, ...]]:
        """Return the stream of K of T positions `[B, K, W]` from `start` on, and caches with it."""
        if angles is not None:
            angles = jax.lax.dynamic_slice_in_dim(angles, start, h.shape[1])
        grown = []
        for layer, layer_cache in zip(self.layers, layers, strict=True):
            h, layer_cache = layer.extend(h, layer_cache, start, angles, length)
            grown.append(layer_cache)
        return h, tuple(grown)

    def _enter(self, x: Array, vector: Array | None) -> tuple[Array, Array | None]:
        """Return what enters the stream of the first T positions, and the angles there."""
        positions = jnp.arange(x.shape[1])
        return self._embed(self._read_in(x), positions, vector), self._angles(positions)

    def _read_in(self, x: Array) -> Array:
        """Return vectors of the values before each position, `[B, T, W]`, of data `[B, T]`."""
        table = jnp.asarray(self.tables["symbols"])
        if self.num_symbols is not None:
            start = jnp.full_like(x[:, :1], self.num_symbols)
            return table[jnp.concatenate([start, x[:, :-1]], axis=1)]
        start = jnp.broadcast_to(table[None], (len(x), 1, self.width))
        return jnp.concatenate([start, self.columns(self._input_features(x[:, :-1]))], axis=1)

    def _read_in_at(self, previous: Array, index: Array) -> Array:
        """Return the vector of x_{index−1} `[B]`, `[B, W]`."""
        table = jnp.asarray(self.tables["symbols"])
        if self.num_symbols is not None:
            return table[jnp.where(index > 0, previous, self.num_symbols)]
        features = self._input_features_at(previous, index - 1)
        return jnp.where(index > 0, self.columns.at(features, jnp.maximum(index - 1, 0)), table)

    def _embed(self, h: Array, positions: Array, vector: Array | None) -> Array:
        """Return what enters the stream, `[B, T, W]`, from vectors of what was read before."""
        if self.image_shape is not None:
            row, column = jnp.divmod(positions, self.image_shape[1])
            rows, columns = (jnp.asarray(self.tables[name]) for name in ("rows", "columns"))
            h += (rows[row] + columns[column])[None]
        elif self.positions == "learned":
            h += jnp.asarray(self.tables["positions"])[positions][None]
        if vector is not None:
            h += vector[:, None]
        return self.dropout(h.astype(self.dtype))

    def _context_vector(self, context: Array | None) -> Array | None:
        return None if context is None else self.context_to_stream(context)

    def _angles(self, positions: Array) -> Array | None:
        if self.positions == "learned":
            return None
        shape = (self.num_dims,) if self.image_shape is None else self.image_shape
        return jnp.asarray(rotary_angles(shape, self.width // self.num_heads))[positions]


class _Layer(nn.Module):
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

    def __call__(self, h: Array, angles: Array | None) -> Array:
        """Return the stream `[B, T, W]` after this layer."""
        return self.read(h, angles)[0]

    def read(self, h: Array, angles: Array | None) -> tuple[Array, LayerCache]:
        """Return the stream `[B, T, W]` after this layer, and the keys and values it looked at."""
        q, k, v = self._turned(h, angles)
        attention = jnp.swapaxes(causal_attention(q, k, v), 1, 2).reshape(h.shape)
        return self._add(h, attention), (k, v)

    def extend(
        self, h: Array, cache: LayerCache, start: Array, angles: Array | None, length: int
    ) -> tuple[Array, LayerCache]:
        """Return the stream `[B, K, W]` of positions after this layer, and the cache with them."""
        q, k, v = self._turned(h, angles)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(room, new, start, axis=2)
            for room, new in zip(cache, (k, v), strict=True)
        )
        attention = attend_block(q, keys, values, start, length)
        attention = jnp.swapaxes(attention, 1, 2).reshape(h.shape)
        return self._add(h, attention), (keys, values)

    def _turned(self, h: Array, angles: Array | None) -> tuple[Array, Array, Array]:
        """Return queries, keys and values of positions, `[B, H, T, C]` each."""
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in self._queries_keys_values(h))
        if angles is None:
            return q, k, v
        return rotate(q, angles[None, None]), rotate(k, angles[None, None]), v

    def step(
        self, h: Array, cache: LayerCache, index: Array, angles: Array | None
    ) -> tuple[Array, LayerCache]:
        """Return the stream `[B, W]` of one position after this layer, and the cache with it."""
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
        """Return each as `[..., H, C]`."""
        qkv = self.qkv(self.attention_norm(h))
        qkv = qkv.reshape(*h.shape[:-1], 3, self.num_heads, self.width // self.num_heads)
        return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]

    def _add(self, h: Array, attention: Array) -> Array:
        h += self.dropout(self.mix(attention))
        return h + self.dropout(self.down(nn.gelu(self.up(self.mlp_norm(h)))))
