"""Gated linear recurrence: a symbol costs the same after any past; one scan gives all states."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.layers._linear import matmul
from jaxgen.models.layers._per_coordinate import PerCoordinate

Weights = dict[str, Array]
Cache = tuple[Array, Array | None]
"""States of every layer, `[L, B, W]`, and what the context adds to the stream, `[B, W]`."""
RecurFn = Callable[[Array, Array], Array]
"""`(a, b) -> h`: states of a recurrence from its decays and inputs, all of one shape."""


class LinearRecurrence(LinenAutoregressiveModel):
    r"""Layers whose memory is a gated linear recurrence (Martin & Cundy 2018; De et al. 2024).

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}, \qquad
      s_t = a_t s_{t-1} + \sqrt{1 - a_t^2}\, \sigma(g_t) v_t, \qquad
      \log a_t = -2 e^{\rho} \sigma(r_t)

    Position i reads x_{i−1}, position 0 a learned start vector, and each a vector of its own. Where
    coordinates are no symbols of one alphabet, each is read and said by weights of its own. A
    layer adds to a stream of W channels h ← h + memory(norm(h)), h ← h + MLP(norm(h)), where r, g,
    v and the gate of the memory's output are linear in norm(h). As no gate looks at the state, all
    states follow from one linear scan over time; a step keeps W numbers a layer, whatever came
    before. The root keeps the state's variance that of its inputs, however long the memory.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes; None for reals and mixed kinds.
      width: W, channels of the stream and of each layer's memory; the MLP has twice as many units.
      num_layers: L.
      conditional: what the outputs of a coordinate mean; None takes `unordered`.
      conditioning: what the context is; None for none.
      dtype: of activations; parameters, norms, gates, states and logits stay in float32.
      remat: whether training keeps of each layer its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    width: int = 128
    num_layers: int = 4
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = jnp.float32
    remat: bool = True

    def setup(self) -> None:
        """Check the fields and create the parameters; those of layers are stacked, `[L, ...]`."""
        self._check_fields("width", "num_layers")
        w, size = self.width, self.conditional_or_default.num_outputs
        vector = nn.initializers.normal(1 / math.sqrt(w))
        num_rows = 1 if self.num_symbols is None else self.num_symbols + 1
        self.symbols = self.param("symbols", vector, (num_rows, w))  # last: the start
        if self.num_symbols is None:
            num_features = self.conditional_or_default.num_features
            self.columns = PerCoordinate(self.num_dims, num_features, w, use_bias=False)
        self.positions = self.param("positions", vector, (self.num_dims, w))
        into = nn.initializers.lecun_normal(batch_axis=0)
        back = nn.initializers.variance_scaling(
            1 / (2 * self.num_layers), "fan_in", "truncated_normal", batch_axis=0
        )
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        fields: dict[str, tuple[Callable, tuple[int, ...]]] = {
            "memory_norm": (ones, (w,)),
            "memory_in_kernel": (into, (w, 4 * w)),
            "memory_in_bias": (zeros, (4 * w,)),
            "rate": (self._initial_rate, (w,)),
            "memory_out_kernel": (back, (w, w)),
            "mlp_norm": (ones, (w,)),
            "mlp_in_kernel": (into, (w, 2 * w)),
            "mlp_in_bias": (zeros, (2 * w,)),
            "mlp_out_kernel": (back, (2 * w, w)),
        }
        self.layers = {
            name: self.param(name, init, (self.num_layers, *shape))
            for name, (init, shape) in fields.items()
        }
        self.norm = self.param("norm", ones, (w,))
        if self.num_symbols is None:
            self.outputs_of = PerCoordinate(self.num_dims, w, size)
        else:
            self.kernel = self.param("kernel", nn.initializers.lecun_normal(), (w, size))
            self.bias = self.param("bias", zeros, (size,))
        self.context_to_stream = self._context_layer(w)

    def _initial_rate(self, _: Array, shape: tuple[int, ...]) -> Array:
        """Return ρ of memories that last, with half-open gates, from 1 to D symbols."""
        return jnp.broadcast_to(-jnp.linspace(0.0, math.log(self.num_dims), shape[-1]), shape)

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("bias",) if self.num_symbols is not None else ("outputs_of", "bias")

    def _outputs(self, x: Array, context: Array | None) -> Array:
        h, _ = self._read(x, self._context_vector(context))
        if self.num_symbols is None:
            return self._read_out(jnp.swapaxes(h, 0, 1))
        # Outputs may be far fewer numbers to transpose than the stream.
        return jnp.swapaxes(self._read_out(h), 0, 1)

    def _hidden(self, x: Array, context: Array | None) -> Array:
        h, _ = self._read(x, self._context_vector(context))
        return jnp.swapaxes(h, 0, 1)

    def _prefill(self, prompt: Array, context: Array | None) -> tuple[Array, Cache]:
        """Return the stream `[B, T, W]` along a prompt `[B, T]`, and the cache.

        A few rows at a time, where the gates of all would take much memory.
        """
        vector = self._context_vector(context)
        h, states = self._read_few_rows(prompt, vector, 4 * self.width)
        return h, (jnp.swapaxes(states, 0, 1), vector)

    def _read_rows(self, prompt: Array, vector: Array | None) -> tuple[Array, Array]:
        """Return the stream of a prompt, and the last states with rows first, `[B, L, W]`."""
        h, states = self._read(prompt, vector)
        return jnp.swapaxes(h, 0, 1), jnp.swapaxes(states, 0, 1)

    def _read(self, x: Array, vector: Array | None) -> tuple[Array, Array]:
        """Return the stream `[T, B, W]` of data `[B, T]`, and the last states `[L, B, W]`."""
        h = self._read_in(x) + self.positions[: x.shape[1], None]
        if vector is not None:
            h += vector[None]

        def read(h: Array, weights: Weights) -> tuple[Array, Array]:
            h, states = _layer(h, weights, linear_recurrence)
            return h, states[-1]

        read = jax.checkpoint(read, prevent_cse=False) if self.remat else read
        return jax.lax.scan(read, h.astype(self.dtype), self.layers)

    def _read_in(self, x: Array) -> Array:
        """Return what enters the stream at each position, `[T, B, W]`, of data `[B, T]`."""
        if self.num_symbols is not None:
            start = jnp.full_like(x.T[:1], self.num_symbols)
            return jnp.asarray(self.symbols)[jnp.concatenate([start, x.T[:-1]])]
        start = jnp.broadcast_to(self.symbols[None], (1, len(x), self.width))
        read = self.columns(self._input_features(x[:, :-1]))
        return jnp.concatenate([start, jnp.swapaxes(read, 0, 1)])

    def _read_in_at(self, previous: Array, index: Array) -> Array:
        """Return what enters the stream at one position, `[B, W]`, of x_{index−1} `[B]`."""
        if self.num_symbols is not None:
            return jnp.asarray(self.symbols)[jnp.where(index > 0, previous, self.num_symbols)]
        features = self._input_features_at(previous, index - 1)
        read = self.columns.at(features, jnp.maximum(index - 1, 0))
        return jnp.where(index > 0, read, self.symbols)

    def _init_cache(self, batch_size: int, context: Array | None) -> Cache:
        """Return the state of every layer before the first symbol, and what the context adds."""
        shape = (self.num_layers, batch_size, self.width)
        states = jnp.zeros(shape, jnp.promote_types(self.dtype, jnp.float32))
        return states, self._context_vector(context)

    def _step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and return the outputs of x_index."""
        states, vector = cache
        h = self._read_in_at(previous, index) + jnp.asarray(self.positions)[index][None]
        if vector is not None:
            h += vector

        def read(h: Array, inputs: tuple[Array, Weights]) -> tuple[Array, Array]:
            state, weights = inputs
            return _layer(h, weights, lambda a, b: a * state + b)

        h, states = jax.lax.scan(read, h.astype(self.dtype), (states, self.layers))
        if self.num_symbols is None:
            return self.outputs_of.at(_norm(h, self.norm), index), (states, vector)
        return self._read_out(h), (states, vector)

    def _context_vector(self, context: Array | None) -> Array | None:
        return None if context is None else self.context_to_stream(context)

    def _read_out(self, h: Array) -> Array:
        """Return the outputs of positions from the stream behind the last layer."""
        h = _norm(h, self.norm)
        return self.outputs_of(h) if self.num_symbols is None else matmul(h, self.kernel, self.bias)


def _layer(h: Array, weights: Weights, recur: RecurFn) -> tuple[Array, Array]:
    """Return the stream `[..., W]` after one layer, and the states of its memory."""

    def row(name: str) -> Array:
        return weights[name].reshape((1,) * (h.ndim - 1) + (-1,))

    def into(name: str) -> Array:
        x = _norm(h, weights[f"{name}_norm"])
        return _matmul(x, weights[f"{name}_in_kernel"], h.dtype, weights[f"{name}_in_bias"])

    v, decay, gate_in, gate_out = jnp.split(_as_floats(into("memory")), 4, axis=-1)
    log_a = -2 * jnp.exp(row("rate")) * jax.nn.sigmoid(decay)
    # The floor is below what float32 resolves; at a = 1 the root's derivative would be infinite.
    scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))
    states = recur(jnp.exp(log_a), scale * jax.nn.sigmoid(gate_in) * v)
    h += _matmul(states * nn.silu(gate_out), weights["memory_out_kernel"], h.dtype)
    return h + _matmul(nn.silu(into("mlp")), weights["mlp_out_kernel"], h.dtype), states


def _matmul(x: Array, kernel: Array, dtype: Any, bias: Array | None = None) -> Array:
    bias = None if bias is None else bias.astype(dtype)
    return matmul(x.astype(dtype), kernel.astype(dtype), bias)


def _norm(h: Array, scale: Array) -> Array:
    """Divide by the root of the mean square over channels (Zhang & Sennrich 2019)."""
    h = _as_floats(h)
    mean_square = jnp.mean(h**2, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(mean_square + 1e-6) * scale.reshape((1,) * (h.ndim - 1) + (-1,))


def _as_floats(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def linear_recurrence(a: Array, b: Array) -> Array:
    r"""Compute states :math:`h_t = a_t h_{t-1} + b_t` from :math:`h_{-1} = 0`, for all t.

    The gradient of b is the recurrence backwards,
    :math:`\bar b_t = \bar h_t + a_{t+1} \bar b_{t+1}`, and that of a is
    :math:`\bar a_t = \bar b_t h_{t-1}`.

    On CPUs one step follows the other, which is the faster there; elsewhere an associative scan
    (Blelloch 1990) takes 2 log T rounds in place of T.

    Args:
      a: decays, `[T, ...]`.
      b: inputs, of the same shape.
    """
    return _scan(a, b, reverse=False)


def _forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    h = linear_recurrence(a, b)
    return h, (a, h)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, h = residuals
    nothing = jnp.zeros_like(a[:1])
    b_bar = _scan(jnp.concatenate([a[1:], nothing]), gradient, reverse=True)
    return b_bar * jnp.concatenate([nothing, h[:-1]]), b_bar


linear_recurrence.defvjp(_forward, _backward)


def _scan(a: Array, b: Array, reverse: bool) -> Array:
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=functools.partial(_one_by_one, reverse=reverse),
        default=functools.partial(_by_doubling, reverse=reverse),
    )


def _one_by_one(a: Array, b: Array, reverse: bool) -> Array:
    def visit(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        a_t, b_t = inputs
        h = a_t * h + b_t
        return h, h

    return jax.lax.scan(visit, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _by_doubling(a: Array, b: Array, reverse: bool) -> Array:
    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return then[0] * first[0], then[0] * first[1] + then[1]

    return jax.lax.associative_scan(compose, (a, b), reverse=reverse)[1]
