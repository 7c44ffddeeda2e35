"""NADE: conditionals that share one hidden layer, whose pre-activations grow by a symbol a step."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_count, check_in_range, check_integer_array, check_shape
from jaxgen.core.types import Array
from jaxgen.models.layers import heads
from jaxgen.models.layers.ordinal import thermometer

Pair = tuple[Array, Array]


class NADE(nn.Module):
    r"""Neural autoregressive distribution estimator (Larochelle & Murray 2011).

    .. math:: a_i = c + \sum_{j<i} W_j^\top \phi(x_j), \qquad
      \ell_i = b_i + V_i^\top \mathrm{relu}(a_i)

    with φ the thermometer code of a symbol. Every coordinate has output weights of its own and sees
    all hidden units, where MADE gives each a share of them; the price is a pass over the hidden
    layer for each coordinate, in training too. It costs O(D H) for a data point all the same,
    because a_{i+1} follows from a_i.

    The parameters are those of a `MADE` with one hidden layer, so `made.reordered` serves here as
    well: NADE trained under many orders is EoNADE (Uria et al. 2014). The paper's units are
    sigmoids; rectified ones are cheaper.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes.
      hidden_size: H, units of the hidden layer.
      dropout_rate: share of hidden units dropped, the same ones for all coordinates of a data
        point, when `apply` is given a `dropout` key.
      head: what the outputs of a coordinate mean; None takes `heads.ordered`.
    """

    num_dims: int
    num_symbols: int
    hidden_size: int = 500
    dropout_rate: float = 0.0
    head: heads.Head | None = None

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        check_count("num_dims", self.num_dims)
        check_count("num_symbols", self.num_symbols, minimum=2)
        check_count("hidden_size", self.hidden_size)
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        heads.check_head(self.head_or_default, self.num_symbols)
        num_inputs = self.num_dims * (self.num_symbols - 1)
        num_outputs = self.num_dims * self.head_or_default.num_outputs
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.kernel_0 = self.param("kernel_0", kernel, (num_inputs, self.hidden_size))
        self.bias_0 = self.param("bias_0", bias, (self.hidden_size,))
        self.kernel_1 = self.param("kernel_1", kernel, (self.hidden_size, num_outputs))
        self.bias_1 = self.param("bias_1", bias, (num_outputs,))

    @property
    def head_or_default(self) -> heads.Head:
        """The head in use."""
        return heads.ordered(self.num_symbols) if self.head is None else self.head

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
        columns = x.reshape(-1, self.num_dims).T
        rows = self.kernel_0.reshape(self.num_dims, -1, self.hidden_size)
        scale, start = self._start(columns.shape[1])
        kernels = jnp.moveaxis(scale * self.kernel_1.reshape(*self._output_shape), 1, 0)
        outputs = jnp.swapaxes(_outputs(start, rows, kernels, columns), 0, 1)
        outputs += self.bias_1.reshape(1, *self._output_shape[1:])
        return self.head_or_default.logits(outputs.reshape(*x.shape, -1))

    @property
    def _output_shape(self) -> tuple[int, int, int]:
        return self.hidden_size, self.num_dims, self.head_or_default.num_outputs

    def _start(self, batch_size: int) -> tuple[float, Array]:
        """The factor of what is kept by dropout, and pre-activations `[B, H]` of the first symbol.

        A dropped unit starts at −∞, where no symbol brings it back and no gradient reaches it.
        """
        start = self.init_cache(batch_size)
        if self.dropout_rate == 0.0 or not self.has_rng("dropout"):
            return 1.0, start
        share = 1 - self.dropout_rate
        is_kept = jax.random.bernoulli(self.make_rng("dropout"), share, start.shape)
        return 1 / share, jnp.where(is_kept, start, -jnp.inf)

    def init_cache(self, batch_size: int) -> Array:
        """Pre-activations before any symbol is known, `[B, H]`."""
        return jnp.broadcast_to(self.bias_0, (batch_size, self.hidden_size))

    def step(self, cache: Array, index: Array, previous: Array) -> tuple[Array, Array]:
        """Feed x_{index−1} and give the logits of x_index; see `AutoregressiveModel`."""
        width, size = self.num_symbols - 1, self.head_or_default.num_outputs
        rows = jax.lax.dynamic_slice_in_dim(self.kernel_0, (index - 1) * width, width)
        cache = _feed(cache, previous, jnp.where(index > 0, rows, 0.0))
        kernel = jax.lax.dynamic_slice_in_dim(self.kernel_1, index * size, size, axis=1)
        bias = jax.lax.dynamic_slice_in_dim(self.bias_1, index * size, size)
        return self.head_or_default.logits(nn.relu(cache) @ kernel + bias[None]), cache


def _feed(a: Array, x: Array, rows: Array) -> Array:
    """Pre-activations `[B, H]` once they have seen symbols x `[B]`, by kernel rows `[V − 1, H]`."""
    return a + thermometer(x, rows.shape[0] + 1) @ rows


@jax.custom_vjp
def _outputs(start: Array, rows: Array, kernels: Array, x: Array) -> Array:
    """What the hidden layer gives for each coordinate, `[D, B, P]`.

    Differentiating through the scan would keep D arrays `[B, H]`. The way back takes the symbols
    off again, last first, and so keeps one; a unit within rounding of its kink may count as either.

    Args:
      start: pre-activations of the first coordinate, `[B, H]`.
      rows: input weights of each coordinate, `[D, V − 1, H]`.
      kernels: output weights of each coordinate, `[D, H, P]`.
      x: symbols, integers `[D, B]`.
    """
    return _forward(start, rows, kernels, x)[0]


def _forward(start: Array, rows: Array, kernels: Array, x: Array) -> tuple[Array, tuple]:
    def visit(a: Array, coordinate: tuple[Array, Array, Array]) -> Pair:
        x_i, rows_i, kernel_i = coordinate
        return _feed(a, x_i, rows_i), nn.relu(a) @ kernel_i

    end, outputs = jax.lax.scan(visit, start, (x, rows, kernels))
    return outputs, (end, rows, kernels, x)


def _backward(residuals: tuple[Array, Array, Array, Array], gradient: Array) -> tuple:
    end, rows, kernels, x = residuals

    def visit(carry: Pair, coordinate: tuple) -> tuple[Pair, Pair]:
        a, a_bar = carry
        x_i, rows_i, kernel_i, output_bar = coordinate
        rows_bar = thermometer(x_i, rows_i.shape[0] + 1).T @ a_bar
        a = _feed(a, x_i, -rows_i)
        kernel_bar = nn.relu(a).T @ output_bar
        a_bar += jnp.where(a > 0, output_bar @ kernel_i.T, 0.0)
        return (a, a_bar), (rows_bar, kernel_bar)

    (_, start_bar), (rows_bar, kernels_bar) = jax.lax.scan(
        visit, (end, jnp.zeros_like(end)), (x, rows, kernels, gradient), reverse=True
    )
    return start_bar, rows_bar, kernels_bar, None


_outputs.defvjp(_forward, _backward)
