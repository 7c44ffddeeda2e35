"""The baseline that knows no dependence: every coordinate on its own."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core._checks import check_in_range
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array, Params
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.conditionals._symbols import Categorical, log_frequencies


class Independent(LinenAutoregressiveModel):
    r"""A product of distributions, :math:`p(x) = \prod_i p_i(x_i)`.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes; None for reals and mixed kinds.
      conditional: what the outputs of a coordinate mean; None takes `Categorical`.
      conditioning: what the context is; None for none.
    """

    num_dims: int
    num_symbols: int | None
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None

    def setup(self) -> None:
        """Create the table of outputs, `[D, P]`."""
        self._check_fields()
        shape = (self.num_dims, self.conditional_or_default.num_outputs)
        self.table = self.param("table", nn.initializers.zeros, shape)
        self.context_to_outputs = self._context_layer(shape[0] * shape[1])

    @nn.nowrap
    def _conditional_of_symbols(self, num_symbols: int) -> Conditional:
        return Categorical(num_symbols)

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("table",)

    def _outputs(self, x: Array, context: Array | None) -> Array:
        return self._init_cache(len(x), context)

    def _init_cache(self, batch_size: int, context: Array | None) -> Array:
        """Return all outputs, `[B, D, P]`."""
        outputs = jnp.broadcast_to(self.table, (batch_size, *self.table.shape))
        if context is not None:
            outputs += self.context_to_outputs(context).reshape(outputs.shape)
        return outputs

    def _step(self, cache: Array, index: Array, previous: Array) -> tuple[Array, Array]:
        """Return the outputs of x_index, `[B, P]`."""
        return cache[:, index], cache


def fit_independent(x: np.ndarray, num_symbols: int, pseudo_count: float = 1.0) -> Params:
    r"""Fit `Independent` by smoothed counts, in closed form.

    .. math:: p_i(v) = \frac{\#\{n : x_{ni} = v\} + \alpha}{N + \alpha V}

    Args:
      x: training data, integers in [0, V), `[N, D]`.
      num_symbols: V.
      pseudo_count: α > 0; 1 is Laplace's rule, and gives no symbol probability zero.
    """
    check_in_range("pseudo_count", pseudo_count, 0.0, np.inf, open_lower=True)
    table = log_frequencies(x, num_symbols, pseudo_count)
    return {"params": {"table": jnp.asarray(table, jnp.float32)}}
