"""MADE: one masked network gives every conditional of the chain rule in a single pass."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_in_range, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.conditionals._symbols import ordered, thermometer
from jaxgen.models.layers._linear import product
from jaxgen.models.layers._rematerialized import rematerialized

Cache = tuple[Array, ...]

_NUM_SHARES = 8  # more compile for longer, and save little


class MADE(LinenAutoregressiveModel):
    r"""Masked autoencoder for distribution estimation (Germain et al. 2015), in natural order.

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}

    A hidden unit of degree d sees the first d coordinates; the logits of coordinate i, counted from
    zero, see units of degree at most i. Degrees are spread evenly and ascend, so a sampler
    completes the units of each degree once, as one contiguous block. A context is seen by the first
    hidden layer and by the outputs.

    Symbols are taken as ordered: they enter as a thermometer code, and the default conditional
    takes the last layer's outputs as increments between neighboring logits. Neither restricts the
    conditionals.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes; None for reals and mixed kinds.
      hidden_sizes: units of each hidden layer.
      dropout_rate: share of hidden units dropped where a dropout key is given.
      has_direct_connections: whether the outputs also see the inputs themselves, and every hidden
        layer. A unit of degree i − 1 or less cannot tell what x_{i−1} was, so without them many
        units are needed.
      conditional: what the outputs of a coordinate mean; None takes `ordered`.
      conditioning: what the context is; None for none.
      dtype: of hidden units where all coordinates are known, None for that of the parameters;
        parameters, outputs and steps stay in float32.
      remat: whether training keeps of the network its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    hidden_sizes: tuple[int, ...] = (500,)
    dropout_rate: float = 0.0
    has_direct_connections: bool = False
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        self._check_fields()
        check_sizes("hidden_sizes", self.hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ()")
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        shapes = [(len(a), len(b)) for a, b in itertools.pairwise(self.degrees)]
        self.kernels = [
            self.param(f"kernel_{i}", nn.initializers.lecun_normal(), shape)
            for i, shape in enumerate(shapes)
        ]
        self.biases = [
            self.param(f"bias_{i}", nn.initializers.zeros, shape[1:])
            for i, shape in enumerate(shapes)
        ]
        if self.has_direct_connections:
            self.direct = [
                self.param(
                    f"direct_kernel_{i}", nn.initializers.zeros, (len(a), len(self.degrees[-1]))
                )
                for i, a in enumerate(self.degrees[:-2])
            ]
        self.context_to_hidden = self._context_layer(len(self.degrees[1]))
        self.context_to_outputs = self._context_layer(len(self.degrees[-1]))
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    @nn.nowrap
    def _conditional_of_symbols(self, num_symbols: int) -> Conditional:
        return ordered(num_symbols)

    @property
    def degrees(self) -> list[np.ndarray]:
        """Return the degrees of the inputs, of each hidden layer, and of the outputs.

        A connection from degree a to degree b exists where a ≤ b. The inputs of coordinate i have
        degree i + 1, its outputs degree i.
        """
        coordinates = np.arange(self.num_dims)
        inputs = np.repeat(coordinates + 1, self._num_features)
        outputs = np.repeat(coordinates, self.conditional_or_default.num_outputs)
        hidden = [1 + np.arange(h) * (self.num_dims - 1) // h for h in self.hidden_sizes]
        return [inputs, *hidden, outputs]

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return (f"bias_{len(self.hidden_sizes)}",)

    @rematerialized
    def _outputs(self, x: Array, context: Array | None) -> Array:
        h = jax.lax.collapse(self._code(x), 1)
        direct = self.context_to_outputs(context) if context is not None else jnp.zeros(())
        for layer, (before, after) in enumerate(itertools.pairwise(self.degrees)):
            if layer > 0:
                h = self.dropout(nn.relu(h))
            if self.has_direct_connections and layer < len(self.direct):
                kernel = self.direct[layer] * _mask(before, self.degrees[-1])
                direct += product(h, kernel, self.dtype)
            h = product(h, self.kernels[layer] * _mask(before, after), self.dtype)
            h += self.biases[layer][None]
            if layer == 0 and context is not None:
                h += self.context_to_hidden(context)
            if layer < len(self.hidden_sizes):
                (h,) = promote_dtype(h, dtype=self.dtype)
        return (h + direct).reshape(*x.shape, self.conditional_or_default.num_outputs)

    @property
    def _num_features(self) -> int:
        if self.num_symbols is None:
            return self.conditional_or_default.num_features
        return self.num_symbols - 1

    def _code(self, x: Array) -> Array:
        """Encode data `[B, D]` as `[B, D, F]`: symbols as thermometers, whatever they mean."""
        if self.num_symbols is None:
            return self._input_features(x)
        return thermometer(x, self.num_symbols)

    @property
    def _remembers_outputs(self) -> bool:
        return self.has_direct_connections or self.conditioning is not None

    def _init_cache(self, batch_size: int, context: Array | None) -> Cache:
        """Return pre-activations of every hidden layer before any symbol is known, `[H, B]` each.

        With direct connections or a context the outputs' follow. The batch comes last, because the
        sums over units are then sums of rows.
        """
        biases = self.biases if self._remembers_outputs else self.biases[:-1]
        cache = [jnp.broadcast_to(bias[:, None], (bias.size, batch_size)) for bias in biases]
        if context is not None:
            cache[0] += self.context_to_hidden(context).T
            cache[-1] += self.context_to_outputs(context).T
        return tuple(cache)

    def _step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and return the outputs of x_index.

        Costs one row block, one block of units in each further layer, and one column block of the
        kernels, instead of the kernels whole.
        """
        hidden, outputs = cache[: len(self.hidden_sizes)], cache[len(self.hidden_sizes) :]
        layers = [self._feed(hidden[0], self.kernels[0], self.degrees[1], index, previous)]
        for layer in range(1, len(hidden)):
            layers.append(self._complete(layer, hidden[layer], layers[-1], index))
        size = self.conditional_or_default.num_outputs
        seen = functools.partial(self._seen, start=index * size, size=size, index=index)
        h = seen(self.kernels[-1], self.degrees[-2], self.degrees[-1], layers[-1])
        if self.has_direct_connections:
            lower = zip(self.direct[1:], self.degrees[1:-2], layers[:-1], strict=True)
            for kernel, degrees, units in lower:
                h += seen(kernel, degrees, self.degrees[-1], units)
            fed = self._feed(outputs[0], self.direct[0], self.degrees[-1], index, previous)
            outputs = (fed,)
        known = outputs[0] if self._remembers_outputs else self.biases[-1][:, None]
        h += jax.lax.dynamic_slice_in_dim(known, index * size, size)
        return h.T, (*layers, *outputs)

    def _feed(
        self, current: Array, kernel: Array, degrees: np.ndarray, index: Array, previous: Array
    ) -> Array:
        """Add what symbol x_{index−1} gives to the pre-activations of a layer that sees inputs."""
        width = self._num_features
        rows = jax.lax.dynamic_slice_in_dim(kernel, (index - 1) * width, width)
        sees_it = jnp.asarray(degrees) >= index
        rows = jnp.where(sees_it[None] & (index > 0), rows, 0.0)
        if self.num_symbols is None:
            return current + rows.T @ self._input_features_at(previous, index - 1).T
        return current + rows.T @ thermometer(previous, self.num_symbols).T

    def _complete(self, layer: int, current: Array, below: Array, index: Array) -> Array:
        """Compute the units of degree `index`, which have now seen all they will see.

        The block has the size of the largest degree: units of later degrees that it covers are
        computed too early, and again when their turn comes.
        """
        degrees = self.degrees[layer + 1]
        first_unit = np.searchsorted(degrees, np.arange(self.num_dims))
        size = int(np.bincount(degrees).max())
        start = jnp.minimum(jnp.asarray(first_unit)[index], len(degrees) - size)
        block = self._seen(
            self.kernels[layer], self.degrees[layer], degrees, below, start, size, index
        )
        block += jax.lax.dynamic_slice_in_dim(self.biases[layer], start, size)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(current, block, start, axis=0)

    def _seen(
        self,
        kernel: Array,
        before: np.ndarray,
        after: np.ndarray,
        below: Array,
        start: Array,
        size: int,
        index: Array,
    ) -> Array:
        """Return what `size` units of degree `index`, from `start` on, get from a layer below.

        Only the first units below are complete yet, so a switch over shares of them reads no more
        than the share that holds them: half of all on average.
        """
        targets = jax.lax.dynamic_slice_in_dim(jnp.asarray(after), start, size)

        def seen_among(num_units: int) -> Array:
            columns = jax.lax.dynamic_slice(kernel, (0, start), (num_units, size))
            mask = jnp.asarray(before)[:num_units, None] <= targets[None]
            return jnp.where(mask, columns, 0.0).T @ nn.relu(below[:num_units])

        last_index = np.arange(1, _NUM_SHARES + 1) * self.num_dims // _NUM_SHARES - 1
        shares = np.searchsorted(before, last_index, side="right")
        branches = [functools.partial(seen_among, int(share)) for share in shares]
        return jax.lax.switch(jnp.searchsorted(jnp.asarray(last_index), index), branches)


def _mask(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return before[:, None] <= after[None, :]
