"""MADE: one masked network gives every conditional of the chain rule in a single pass."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.checks import check_count, check_integer_array, check_shape
from jaxgen.core.types import Array, Params
from jaxgen.models.layers import heads
from jaxgen.models.layers.ordinal import thermometer

Cache = tuple[Array, ...]

NUM_SHARES = 8  # more compile for longer, and save little


class MADE(nn.Module):
    r"""Masked autoencoder for distribution estimation (Germain et al. 2015), in natural order.

    .. math:: \log p(x) = \sum_i \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}

    A hidden unit of degree d sees the first d coordinates; the logits of coordinate i, counted from
    zero, see units of degree at most i. Degrees are spread evenly and ascend, so a sampler
    completes the units of each degree once, as one contiguous block.

    Symbols are taken as ordered: they enter as a thermometer code, and the default head takes the
    last layer's outputs as increments between neighbouring logits. Neither restricts the
    conditionals.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes.
      hidden_sizes: units of each hidden layer.
      dropout_rate: share of hidden units dropped when `apply` is given a `dropout` key.
      has_direct_connections: whether the outputs also see the inputs themselves, and every hidden
        layer. A unit of degree i − 1 or less cannot tell what x_{i−1} was, so without them many
        units are needed.
      head: what the outputs of a coordinate mean; None takes `heads.ordered`.
    """

    num_dims: int
    num_symbols: int
    hidden_sizes: tuple[int, ...] = (500,)
    dropout_rate: float = 0.0
    has_direct_connections: bool = False
    head: heads.Head | None = None

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        check_count("num_dims", self.num_dims)
        check_count("num_symbols", self.num_symbols, minimum=2)
        for size in self.hidden_sizes:
            check_count("hidden_sizes", size)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ()")
        heads.check_head(self.head_or_default, self.num_symbols)
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
                self.param(f"direct_{i}", nn.initializers.zeros, (len(a), len(self.degrees[-1])))
                for i, a in enumerate(self.degrees[:-2])
            ]
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    @property
    def head_or_default(self) -> heads.Head:
        """The head in use."""
        return heads.ordered(self.num_symbols) if self.head is None else self.head

    @property
    def degrees(self) -> list[np.ndarray]:
        """Degrees of the inputs, of each hidden layer, and of the outputs.

        A connection from degree a to degree b exists where a ≤ b. The inputs of coordinate i have
        degree i + 1, its outputs degree i.
        """
        coordinates = np.arange(self.num_dims)
        inputs = np.repeat(coordinates + 1, self.num_symbols - 1)
        outputs = np.repeat(coordinates, self.head_or_default.num_outputs)
        hidden = [1 + np.arange(h) * (self.num_dims - 1) // h for h in self.hidden_sizes]
        return [inputs, *hidden, outputs]

    def __call__(self, x: Array) -> Array:
        """The logits of every coordinate; see `logits`."""
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
        h = thermometer(x, self.num_symbols).reshape(-1, len(self.degrees[0]))
        direct = jnp.zeros(())
        for layer, (before, after) in enumerate(itertools.pairwise(self.degrees)):
            if layer > 0:
                h = self.dropout(nn.relu(h))
            if self.has_direct_connections and layer < len(self.direct):
                direct += h @ (self.direct[layer] * _mask(before, self.degrees[-1]))
            h = h @ (self.kernels[layer] * _mask(before, after)) + self.biases[layer][None]
        h += direct
        return self.head_or_default.logits(h.reshape(*x.shape, -1))

    def init_cache(self, batch_size: int) -> Cache:
        """Pre-activations of every hidden layer before any symbol is known, `[H, B]` each.

        With direct connections the outputs' follow. The batch comes last, because the sums over
        units are then sums of rows.
        """
        layers = self.biases if self.has_direct_connections else self.biases[:-1]
        return tuple(jnp.broadcast_to(bias[:, None], (bias.size, batch_size)) for bias in layers)

    def step(self, cache: Cache, index: Array, previous: Array) -> tuple[Array, Cache]:
        """Feed x_{index−1} and give the logits of x_index; see `AutoregressiveModel`.

        Costs one row block, one block of units in each further layer, and one column block of the
        kernels, instead of the kernels whole.
        """
        hidden, outputs = cache[: len(self.hidden_sizes)], cache[len(self.hidden_sizes) :]
        layers = [self._feed(hidden[0], self.kernels[0], self.degrees[1], index, previous)]
        for layer in range(1, len(hidden)):
            layers.append(self._complete(layer, hidden[layer], layers[-1], index))
        size = self.head_or_default.num_outputs
        seen = functools.partial(self._seen, start=index * size, size=size, index=index)
        h = seen(self.kernels[-1], self.degrees[-2], self.degrees[-1], layers[-1])
        if self.has_direct_connections:
            lower = zip(self.direct[1:], self.degrees[1:-2], layers[:-1], strict=True)
            for kernel, degrees, units in lower:
                h += seen(kernel, degrees, self.degrees[-1], units)
            fed = self._feed(outputs[0], self.direct[0], self.degrees[-1], index, previous)
            outputs = (fed,)
            h += jax.lax.dynamic_slice_in_dim(fed, index * size, size)
        else:
            h += jax.lax.dynamic_slice_in_dim(self.biases[-1], index * size, size)[:, None]
        return self.head_or_default.logits(h.T), (*layers, *outputs)

    def _feed(
        self, current: Array, kernel: Array, degrees: np.ndarray, index: Array, previous: Array
    ) -> Array:
        """Add what symbol x_{index−1} gives to the pre-activations of a layer that sees inputs."""
        width = self.num_symbols - 1
        rows = jax.lax.dynamic_slice_in_dim(kernel, (index - 1) * width, width)
        sees_it = jnp.asarray(degrees) >= index
        rows = jnp.where(sees_it[None] & (index > 0), rows, 0.0)
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
        """What `size` units of degree `index`, from `start` on, get from a layer below.

        Only the first units below are complete yet, so a switch over shares of them reads no more
        than the share that holds them: half of all on average.
        """
        targets = jax.lax.dynamic_slice_in_dim(jnp.asarray(after), start, size)

        def seen_among(num_units: int) -> Array:
            columns = jax.lax.dynamic_slice(kernel, (0, start), (num_units, size))
            mask = jnp.asarray(before)[:num_units, None] <= targets[None]
            return jnp.where(mask, columns, 0.0).T @ nn.relu(below[:num_units])

        last_index = np.arange(1, NUM_SHARES + 1) * self.num_dims // NUM_SHARES - 1
        shares = np.searchsorted(before, last_index, side="right")
        branches = [functools.partial(seen_among, int(share)) for share in shares]
        return jax.lax.switch(jnp.searchsorted(jnp.asarray(last_index), index), branches)


def _mask(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return before[:, None] <= after[None, :]


def with_marginals(module: nn.Module, params: Params, log_probs: Array) -> Params:
    """Start the output biases from the frequencies of the data, instead of from nought.

    Adam moves a parameter by no more than its rate in a step, and the bias of a pixel that is
    nearly always off has far to go: this saves thousands of steps.

    Args:
      module: a `MADE` or `NADE` with a head that can say any distribution (not a mixture of
        logistics).
      params: its parameters.
      log_probs: log p(x_i = v) of each coordinate, nats `[D, V]`, such as the table that
        `fit_independent` counts.
    """
    bias = module.head_or_default.outputs(log_probs).reshape(-1)
    return {**params, "params": {**params["params"], f"bias_{_last_layer(params)}": bias}}


def reordered(params: Params, order: Array) -> Params:
    r"""Parameters with which MADE over `x[..., order]` visits the coordinates in that order.

    The connections move with their coordinates, the masks stay: one set of parameters thus serves
    any order. Training it under many makes it order-agnostic (Germain et al. 2015; Uria et al.
    2014), and the mean of p(x) over orders is an ensemble at no cost in parameters:

    .. math:: p(x) = \frac1M \sum_m p_m(x_{\pi_m})

    Args:
      params: parameters of a `MADE`, or of a `NADE`, whose names and shapes are the same.
      order: a permutation of the D coordinates, integers `[D]`; may be traced.
    """
    (num_dims,) = order.shape
    last = _last_layer(params)
    moved = dict(params["params"])

    def move(name: str, axis: int) -> None:
        shape = moved[name].shape
        blocks = moved[name].reshape(*shape[:axis], num_dims, -1, *shape[axis + 1 :])
        moved[name] = jnp.take(blocks, order, axis=axis).reshape(shape)

    move("kernel_0", 0)
    move(f"kernel_{last}", 1)
    move(f"bias_{last}", 0)
    for name in [name for name in moved if name.startswith("direct")]:
        move(name, 1)
    if "direct_0" in moved:
        move("direct_0", 0)
    return {**params, "params": moved}


def _last_layer(params: Params) -> int:
    return max(int(name.removeprefix("bias_")) for name in params["params"] if "bias" in name)
