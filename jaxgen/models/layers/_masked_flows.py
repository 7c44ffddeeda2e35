"""Masked autoregressive steps: in one pass each coordinate is moved as those before it say."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_count, check_in_range, check_sizes
from jaxgen.core._types import Array, Key
from jaxgen.models.layers._flows import Spline, Step, add, bounded, kept_by_inputs
from jaxgen.models.layers._linear import matmul

_LARGEST_LOG_SCALE = 5.0
"""Bound of what an affine step multiplies by, as a logarithm."""
_LARGEST_BIN, _LARGEST_SLOPE = 4.0, 5.0
"""Bounds of splines: wider than those of a coupling, because a density has to reach what the data
are."""


class MaskedPerceptron(NamedTuple):
    """Numbers for each coordinate from those before it.

    Attributes:
      kernels: of the hidden layers and of the outputs, `[Z, H_1]`, `[H_1, H_2]`, …, `[H_L, P, Z]`.
      biases: of the same layers, `[H_l]` and `[P, Z]`; what features add to the first, too, which
        is then `[*batch, H_1]`.
      direct: kernel from the inputs to the outputs, `[Z, P, Z]`.
      degrees: how many coordinates the inputs are and the units of each hidden layer see,
        ascending: NumPy, `[Z]`, `[H_1]`, …, `[H_L]`.
      dropout_rate: share of hidden units dropped where there is a key.
      dropout_key: None drops nothing.
      dtype: of hidden units, None for that of the parameters. They alone are rounded, neither the
        point nor the outputs, so that what is taken back finds the units of the way forth.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    direct: Array
    degrees: tuple[np.ndarray, ...]
    dropout_rate: float = 0.0
    dropout_key: Key | None = None
    dtype: Any = None

    def __call__(self, x: Array, batch_shape: tuple[int, ...]) -> Array:
        """Map columns `[Z, B]` to `[P, Z, B]`."""
        h = x
        for layer, kernel in enumerate(self._hidden_kernels()):
            source = h, kernel, self.degrees[layer]
            bias = self._bias(layer, batch_shape)
            blocks = _masked_products([source], self.degrees[layer + 1])
            h = jnp.concatenate([nn.relu(block + bias[units]) for block, units in blocks])
            scales = self._scales(layer + 1, batch_shape)
            (h,) = promote_dtype(h if scales is None else h * scales, dtype=self.dtype)
        last = h, self._as_hidden(self.kernels[-1]), self.degrees[-1]
        sources = [last, (x, self.direct, self.degrees[0])]
        outputs = [block for block, _ in _masked_products(sources, np.arange(len(x)))]
        return jnp.concatenate(outputs, axis=1) + self.biases[-1][..., None]

    def _hidden_kernels(self) -> tuple[Array, ...]:
        first, *others = self.kernels[:-1]
        return first, *(self._as_hidden(kernel) for kernel in others)

    def _as_hidden(self, kernel: Array) -> Array:
        return promote_dtype(kernel, dtype=self.dtype)[0]

    def _bias(self, layer: int, batch_shape: tuple[int, ...]) -> Array:
        """Return the bias of a hidden layer, `[H, B]`, or 1 for B."""
        bias = self.biases[layer]
        return _columns(bias, batch_shape) if bias.ndim > 1 else bias[:, None]

    def _scales(self, layer: int, batch_shape: tuple[int, ...]) -> Array | None:
        """Return what dropout multiplies hidden units by, `[H, B]`; None for nothing."""
        if self.dropout_key is None or self.dropout_rate == 0.0:
            return None
        key = jax.random.fold_in(self.dropout_key, layer)
        shape = (*batch_shape, len(self.degrees[layer]))
        kept = jax.random.bernoulli(key, 1.0 - self.dropout_rate, shape)
        return _columns(kept, batch_shape) / (1.0 - self.dropout_rate)

    def hidden_by_coordinate(self, batch_shape: tuple[int, ...]) -> list["Units"]:
        """Return the hidden units that see up to each coordinate, layer by layer."""
        return [self._units(layer, batch_shape) for layer in range(1, len(self.degrees))]

    def outputs_by_coordinate(self) -> tuple[Array, Array, Array]:
        """Return what gives each coordinate's numbers, `[Z, P, H_L]`, `[Z, P, Z]` and `[Z, P]`."""
        coordinates = np.arange(len(self.direct))
        last = _masked(self._as_hidden(self.kernels[-1]), self.degrees[-1], coordinates)
        direct = _masked(self.direct, self.degrees[0], coordinates)
        return last.T, direct.T, self.biases[-1].T

    def _units(self, layer: int, batch_shape: tuple[int, ...]) -> "Units":
        degrees = self.degrees[layer]
        starts = np.searchsorted(degrees, np.arange(len(self.direct)))
        most = int(np.bincount(degrees).max())
        # A block may have units that see more as well: their own block puts them right.
        starts = np.minimum(starts, len(degrees) - most)
        units = starts[:, None] + np.arange(most)
        kernel = _masked(self._hidden_kernels()[layer - 1], self.degrees[layer - 1], degrees)
        bias, scales = self._bias(layer - 1, batch_shape), self._scales(layer, batch_shape)
        scales = None if scales is None else scales[units]
        return Units(jnp.asarray(starts), kernel.T[units], bias[units], scales)


class Units(NamedTuple):
    """Hidden units of one layer, in blocks, one for each of Z coordinates.

    Attributes:
      start: where each block begins, `[Z]`.
      kernel: `[Z, block, H_before]`.
      bias: `[Z, block, B]`, or 1 for B.
      scales: what dropout multiplies by, `[Z, block, B]`; None for nothing.
    """

    start: Array
    kernel: Array
    bias: Array
    scales: Array | None

    def fill(self, h: Array, inputs: Array) -> Array:
        """Put one coordinate's block, whose axis is gone here, into the units `[H, B]`."""
        block = nn.relu(matmul(self.kernel, inputs, in_float32=True) + self.bias)
        block = block if self.scales is None else block * self.scales
        return jax.lax.dynamic_update_slice_in_dim(h, block.astype(h.dtype), self.start, 0)


def _columns(x: Array, batch_shape: tuple[int, ...]) -> Array:
    """Return `[*batch, H]` as `[H, B]`."""
    return jnp.broadcast_to(x, (*batch_shape, x.shape[-1])).reshape(-1, x.shape[-1]).T


def _rows(x: Array, batch_shape: tuple[int, ...]) -> Array:
    """Return `[H, B]` as `[*batch, H]`."""
    return x.T.reshape(*batch_shape, len(x))


class Affine(NamedTuple):
    """Scale and shift each coordinate by two numbers, z = (x − m) exp(−a)."""

    @property
    def num_params(self) -> int:
        """Return 2."""
        return 2

    def forward(self, params: Array, x: Array) -> tuple[Array, Array]:
        """Return z `[...]` and log-slopes, of parameters `[2, ...]`."""
        log_scale = bounded(params[1], _LARGEST_LOG_SCALE)
        return (x - params[0]) / jnp.exp(log_scale), -log_scale  # a quotient, as in `Bin.forward`

    def inverse(self, params: Array, z: Array) -> tuple[Array, Array]:
        """Return x `[...]`, and the log-slopes of the way forth."""
        log_scale = bounded(params[1], _LARGEST_LOG_SCALE)
        return z * jnp.exp(log_scale) + params[0], -log_scale


class MaskedAutoregressiveStep(NamedTuple):
    r"""Each coordinate goes through a map that those before it choose.

    .. math:: z_i = t(x_i; g_i(x_{<i})), \qquad
       \log \left|\det \frac{\partial z}{\partial x}\right|
       = \sum_i \log \left|\frac{\partial t}{\partial x_i}\right|

    Attributes:
      conditioner: g, masked so that output i sees no input from i on.
      transform: t, of one coordinate.
      is_reversed: whether the last coordinate comes first.
    """

    conditioner: MaskedPerceptron
    transform: Affine | Spline
    is_reversed: bool

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return z and the log-determinant, in one pass."""
        batch_shape = self._batch_shape(x)
        columns = self._in_order(_columns(x, batch_shape))
        params = self.conditioner(columns, batch_shape)
        z, log_slopes = self.transform.forward(params, columns)
        log_det = jnp.sum(log_slopes, axis=0).reshape(batch_shape)
        return _rows(self._in_order(z), batch_shape), log_det

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return x and the log-determinant, a coordinate at a time.

        A hidden unit is computed once, when all that it sees is there: the work of one pass.
        """
        net, batch_shape = self.conditioner, self._batch_shape(y)
        columns = self._in_order(_columns(y, batch_shape))

        def move(state: Any, given: Any) -> tuple[Any, None]:
            x, log_det, hidden = state
            i, y_i, layers, (last, direct, bias) = given
            inputs, filled = x, []
            for h, layer in zip(hidden, layers, strict=True):
                inputs = layer.fill(h, inputs)
                filled.append(inputs)
            params = matmul(last, inputs, in_float32=True) + direct @ x + bias[:, None]
            x_i, log_slope = self.transform.inverse(params, y_i)
            x = jax.lax.dynamic_update_index_in_dim(x, x_i, i, 0)
            return (x, log_det - log_slope, filled), None

        zeros = jnp.zeros_like(columns)
        layers = net.hidden_by_coordinate(batch_shape)
        (none,) = promote_dtype(zeros[:1], dtype=net.dtype)
        hidden = [jnp.broadcast_to(none, (len(d), none.shape[1])) for d in net.degrees[1:]]
        given = jnp.arange(len(columns)), columns, layers, net.outputs_by_coordinate()
        (x, log_det, _), _ = jax.lax.scan(move, (zeros, zeros[0], hidden), given)
        return _rows(self._in_order(x), batch_shape), log_det.reshape(batch_shape)

    def _batch_shape(self, x: Array) -> tuple[int, ...]:
        return jnp.broadcast_shapes(x.shape[:-1], self.conditioner.biases[0].shape[:-1])

    def _in_order(self, columns: Array) -> Array:
        return jnp.flip(columns, axis=0) if self.is_reversed else columns


class MaskedAutoregressive(nn.Module):
    """Masked autoregressive steps whose orders alternate; they begin as the identity.

    With `num_bins` None a step is affine, as in masked autoregressive flow (Papamakarios et al.
    2017); else it is a spline (Durkan et al. 2019). The density of a point takes one pass a step; a
    draw takes as much work, one coordinate after another: where draws are what counts, use
    `InverseAutoregressive`.

    Attributes:
      num_steps: T.
      hidden_sizes: units of each hidden layer.
      num_bins: bins of each spline; None for affine steps.
      range_max: the splines act on [−range_max, range_max] and go on linearly.
      dropout_rate: share of hidden units dropped where a dropout key is given.
      dtype: of hidden units, None for that of the parameters; parameters, points and what is said
        of them stay in float32.
      remat: whether training keeps of each step its input alone, and computes the rest again.
    """

    num_steps: int = 5
    hidden_sizes: tuple[int, ...] = (128, 128)
    num_bins: int | None = 8
    range_max: float = 4.0
    dropout_rate: float = 0.0
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, size: int, features: Array | None = None) -> list[Step]:
        """Return the steps for vectors of `size`, given features `[*batch, F]` or none."""
        self._check_fields()
        bounds = self.range_max, _LARGEST_BIN, _LARGEST_SLOPE
        transform = Affine() if self.num_bins is None else Spline(self.num_bins, *bounds)
        steps: list[Step] = [
            MaskedAutoregressiveStep(
                self._conditioner(f"step_{t}", size, transform.num_params, features),
                transform,
                is_reversed=t % 2 == 1,
            )
            for t in range(self.num_steps)
        ]
        return kept_by_inputs(steps) if self.remat else steps

    def _check_fields(self) -> None:
        check_count("num_steps", self.num_steps)
        check_sizes("hidden_sizes", self.hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ()")
        if self.num_bins is not None:
            check_count("num_bins", self.num_bins)
        check_in_range("range_max", self.range_max, 0.0, float("inf"), open_lower=True)
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)

    def _conditioner(
        self, name: str, size: int, num_params: int, features: Array | None
    ) -> MaskedPerceptron:
        """Make a conditioner whose outputs begin at zero; its arrays are parameters."""
        # A connection from degree a to degree b exists where a ≤ b, as in MADE; hidden units of
        # degree 0 see the features alone, and serve without any as biases do.
        hidden = [np.arange(h) * size // h for h in self.hidden_sizes]
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        kernels, biases = [], []
        for layer, shape in enumerate(itertools.pairwise((size, *self.hidden_sizes))):
            kernels.append(self.param(f"{name}_kernel_{layer}", init, shape))
            biases.append(self.param(f"{name}_bias_{layer}", zeros, shape[1:]))
        if features is not None:
            shape = features.shape[-1], self.hidden_sizes[0]
            context_kernel = self.param(f"{name}_context_kernel", init, shape)
            biases[0] = add(features @ context_kernel, biases[0])
        outputs = num_params, size
        kernels.append(self.param(f"{name}_last_kernel", zeros, (self.hidden_sizes[-1], *outputs)))
        biases.append(self.param(f"{name}_last_bias", zeros, outputs))
        return MaskedPerceptron(
            tuple(kernels),
            tuple(biases),
            self.param(f"{name}_direct_kernel", zeros, (size, *outputs)),
            (np.arange(size) + 1, *hidden),
            self.dropout_rate,
            self.make_rng("dropout") if self.has_rng("dropout") else None,
            self.dtype,
        )


def _masked_products(
    sources: Sequence[tuple[Array, Array, np.ndarray]], after: np.ndarray
) -> Iterator[tuple[Array, slice]]:
    """Yield what outputs get from all sources, `[..., O, B]`, a half of them after the other.

    Degrees ascend, so a masked kernel is block lower triangular: the first half of the outputs sees
    about half of the inputs, and the rest of its work is left out.

    Args:
      sources: inputs `[I, B]`, their kernel `[I, ..., O]` and their degrees `[I]`, each.
      after: degrees of the outputs, `[O]`.
    """
    x, kernel, _ = sources[0]
    for outputs in np.array_split(np.arange(len(after)), 2):
        if outputs.size:
            columns = slice(outputs[0], outputs[-1] + 1)
            block = _summed_products([_seen(*source, after, columns) for source in sources])
            yield block.reshape(*kernel.shape[1:-1], outputs.size, x.shape[1]), columns


def _seen(
    x: Array, kernel: Array, before: np.ndarray, after: np.ndarray, outputs: slice
) -> tuple[Array, Array]:
    """Return the inputs that some outputs see, and their masked kernel with two axes."""
    after = after[outputs]
    size = int(np.searchsorted(before, after[-1], side="right"))
    kernel = _masked(kernel[:size, ..., outputs], before[:size], after)
    return x[:size], kernel.reshape(size, math.prod(kernel.shape[1:]))


def _summed_products(parts: Sequence[tuple[Array, Array]]) -> Array:
    """Return Σ `[I, B] [I, O] -> [O, B]`."""
    if len({kernel.dtype for _, kernel in parts}) == 1:  # in one product
        inputs, kernels = zip(*parts, strict=True)
        parts = [(jnp.concatenate(inputs), jnp.concatenate(kernels))]

    def product(x: Array, kernel: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.tensordot(kernel, x, axes=(0, 0), preferred_element_type=wide)

    return functools.reduce(jnp.add, itertools.starmap(product, parts))


def _masked(kernel: Array, before: np.ndarray, after: np.ndarray) -> Array:
    """Return a kernel `[I, ..., O]` without the connections that look ahead."""
    between = (1,) * (kernel.ndim - 2)
    mask = before.reshape(-1, *between, 1) <= after.reshape(1, *between, -1)
    return jnp.where(mask, kernel, 0.0)
