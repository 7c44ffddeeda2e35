"""NADE: conditionals that share one hidden layer, whose pre-activations grow by a symbol a step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_in_range
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.conditionals._symbols import ordered, thermometer
from jaxgen.models.layers._linear import product

Pair = tuple[Array, Array]


class NADE(LinenAutoregressiveModel):
    r"""Neural autoregressive distribution estimator (Larochelle & Murray 2011).

    .. math:: a_i = c + \sum_{j<i} W_j^\top \phi(x_j), \qquad
      \ell_i = b_i + V_i^\top \mathrm{relu}(a_i)

    with φ the thermometer code of a symbol. Every coordinate has output weights of its own and sees
    all hidden units, where MADE gives each a share of them; the price is a pass over the hidden
    layer for each coordinate, in training too. It costs O(D H) for a data point all the same,
    because a_{i+1} follows from a_i.

    The parameters are those of a `MADE` with one hidden layer, so `reordered` serves here as
    well: NADE trained under many orders is EoNADE (Uria et al. 2014). The paper's units are
    sigmoids; rectified ones are cheaper.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes.
      hidden_size: H, units of the hidden layer.
      dropout_rate: share of hidden units dropped, the same ones for all coordinates of a data
        point, where a dropout key is given.
      conditional: what the outputs of a coordinate mean; None takes `ordered`.
      conditioning: what the context is; None for none.
      dtype: of hidden units, None for that of the parameters; parameters, what adds up over
        coordinates, and outputs stay in float32.
      remat: whether training keeps the hidden units of the last coordinate alone, and takes the
        symbols off again; a unit within rounding of its kink may then count as either.
    """

    num_dims: int
    num_symbols: int
    hidden_size: int = 500
    dropout_rate: float = 0.0
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = True

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        self._check_fields("hidden_size")
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        num_inputs = self.num_dims * (self.num_symbols - 1)
        num_outputs = self.num_dims * self.conditional_or_default.num_outputs
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.kernel_0 = self.param("kernel_0", kernel, (num_inputs, self.hidden_size))
        self.bias_0 = self.param("bias_0", bias, (self.hidden_size,))
        self.kernel_1 = self.param("kernel_1", kernel, (self.hidden_size, num_outputs))
        self.bias_1 = self.param("bias_1", bias, (num_outputs,))
        self.context_to_hidden = self._context_layer(self.hidden_size)

    @nn.nowrap
    def _conditional_of_symbols(self, num_symbols: int) -> Conditional:
        return ordered(num_symbols)

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("bias_1",)

    def _outputs(self, x: Array, context: Array | None) -> Array:
        rows = self.kernel_0.reshape(self.num_dims, -1, self.hidden_size)
        scale, start = self._start(len(x), context)
        kernels = jnp.moveaxis(scale * self.kernel_1.reshape(*self._output_shape), 1, 0)
        args = self.dtype, start, rows, kernels, x.T
        outputs = _all_outputs(*args) if self.remat else _forward(*args)[0]
        outputs = jnp.swapaxes(outputs, 0, 1)
        return outputs + self.bias_1.reshape(1, *self._output_shape[1:])

    @property
    def _output_shape(self) -> tuple[int, int, int]:
        return self.hidden_size, self.num_dims, self.conditional_or_default.num_outputs

    def _start(self, batch_size: int, context: Array | None) -> tuple[float, Array]:
        """Return the factor of what dropout keeps, and the first pre-activations `[B, H]`.

        A dropped unit starts at −∞, where no symbol brings it back and no gradient reaches it.
        """
        start = self._init_cache(batch_size, context)
        if self.dropout_rate == 0.0 or not self.has_rng("dropout"):
            return 1.0, start
        share = 1 - self.dropout_rate
        is_kept = jax.random.bernoulli(self.make_rng("dropout"), share, start.shape)
        return 1 / share, jnp.where(is_kept, start, -jnp.inf)

    def _init_cache(self, batch_size: int, context: Array | None) -> Array:
        """Return pre-activations before any symbol is known, `[B, H]`."""
        start = jnp.broadcast_to(self.bias_0, (batch_size, self.hidden_size))
        return start if context is None else start + self.context_to_hidden(context)

    def _step(self, cache: Array, index: Array, previous: Array) -> tuple[Array, Array]:
        """Feed x_{index−1} and return the outputs of x_index."""
        width, size = self.num_symbols - 1, self.conditional_or_default.num_outputs
        rows = jax.lax.dynamic_slice_in_dim(self.kernel_0, (index - 1) * width, width)
        cache = _feed(cache, previous, jnp.where(index > 0, rows, 0.0))
        kernel = jax.lax.dynamic_slice_in_dim(self.kernel_1, index * size, size, axis=1)
        bias = jax.lax.dynamic_slice_in_dim(self.bias_1, index * size, size)
        return _read(self.dtype, cache, kernel) + bias[None], cache


def _feed(a: Array, x: Array, rows: Array) -> Array:
    """Add what symbols x `[B]` give to pre-activations `[B, H]`, by rows `[V − 1, H]`."""
    return a + thermometer(x, rows.shape[0] + 1) @ rows


def _read(dtype: Any, a: Array, kernel: Array) -> Array:
    """Return outputs `[B, P]` of pre-activations `[B, H]`, by units and a kernel in a dtype."""
    return product(nn.relu(a), kernel, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _all_outputs(dtype: Any, start: Array, rows: Array, kernels: Array, x: Array) -> Array:
    """Return what the hidden layer gives for each coordinate, `[D, B, P]`.

    Differentiating through the scan would keep D arrays `[B, H]`. The way back takes the symbols
    off again, last first, and so keeps one.

    Args:
      dtype: of hidden units.
      start: pre-activations of the first coordinate, `[B, H]`.
      rows: input weights of each coordinate, `[D, V − 1, H]`.
      kernels: output weights of each coordinate, `[D, H, P]`.
      x: symbols, integers `[D, B]`.
    """
    return _forward(dtype, start, rows, kernels, x)[0]


def _forward(
    dtype: Any, start: Array, rows: Array, kernels: Array, x: Array
) -> tuple[Array, tuple]:
    def visit(a: Array, coordinate: tuple[Array, Array, Array]) -> Pair:
        x_i, rows_i, kernel_i = coordinate
        return _feed(a, x_i, rows_i), _read(dtype, a, kernel_i)

    end, outputs = jax.lax.scan(visit, start, (x, rows, kernels))
    return outputs, (end, rows, kernels, x)


def _backward(dtype: Any, residuals: tuple[Array, Array, Array, Array], gradient: Array) -> tuple:
    end, rows, kernels, x = residuals

    def visit(carry: Pair, coordinate: tuple) -> tuple[Pair, Pair]:
        a, a_bar = carry
        x_i, rows_i, kernel_i, output_bar = coordinate
        rows_bar = thermometer(x_i, rows_i.shape[0] + 1).T @ a_bar
        a = _feed(a, x_i, -rows_i)
        h, kernel_i = promote_dtype(nn.relu(a), kernel_i, dtype=dtype)
        kernel_bar = h.T @ output_bar
        a_bar += jnp.where(a > 0, output_bar @ kernel_i.T, 0.0)
        return (a, a_bar), (rows_bar, kernel_bar)

    (_, start_bar), (rows_bar, kernels_bar) = jax.lax.scan(
        visit, (end, jnp.zeros_like(end)), (x, rows, kernels, gradient), reverse=True
    )
    return start_bar, rows_bar, kernels_bar, None


_all_outputs.defvjp(_forward, _backward)
