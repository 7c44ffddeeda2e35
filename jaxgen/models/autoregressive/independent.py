"""The baseline that knows no dependence: every coordinate on its own."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.checks import (
    check_count,
    check_in_range,
    check_integer_array,
    check_rank,
    check_shape,
)
from jaxgen.core.types import Array, Params


class Independent(nn.Module):
    r"""A product of categorical distributions, :math:`p(x) = \prod_i p_i(x_i)`.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes.
    """

    num_dims: int
    num_symbols: int

    def setup(self) -> None:
        """Create the table of logits, `[D, V]`."""
        check_count("num_dims", self.num_dims)
        check_count("num_symbols", self.num_symbols)
        self.table = self.param("table", nn.initializers.zeros, (self.num_dims, self.num_symbols))

    def __call__(self, x: Array) -> Array:
        """The logits of every coordinate; see `logits`."""
        return self.logits(x)

    def logits(self, x: Array) -> Array:
        """The same logits whatever `x`, integers `[..., D]`: `[..., D, V]`."""
        check_integer_array("x", x)
        check_shape("x", x, (*x.shape[:-1], self.num_dims))
        return jnp.broadcast_to(self.table, (*x.shape, self.num_symbols))

    def init_cache(self, batch_size: int) -> Array:
        """Nothing to remember, for each of `batch_size` rows."""
        return jnp.zeros((batch_size, 0))

    def step(self, cache: Array, index: Array, previous: Array) -> tuple[Array, Array]:
        """The logits of x_index, `[B, V]`; see `AutoregressiveModel`."""
        return jnp.broadcast_to(self.table[index], (previous.shape[0], self.num_symbols)), cache


def fit_independent(x: np.ndarray, num_symbols: int, pseudo_count: float = 1.0) -> Params:
    r"""Parameters of `Independent` by smoothed counts, in closed form.

    .. math:: p_i(v) = \frac{\#\{n : x_{ni} = v\} + \alpha}{N + \alpha V}

    Args:
      x: training data, integers in [0, V), `[N, D]`.
      num_symbols: V.
      pseudo_count: α > 0; 1 is Laplace's rule, and gives no symbol probability zero.
    """
    check_rank("x", x, 2)
    check_integer_array("x", x)
    check_in_range("pseudo_count", pseudo_count, 0.0, np.inf, open_lower=True)
    if x.size and not (x.min() >= 0 and x.max() < num_symbols):
        raise ValueError(f"x must hold symbols in [0, {num_symbols}), got [{x.min()}, {x.max()}]")
    counts = np.stack([np.bincount(column, minlength=num_symbols) for column in x.T])
    return {"params": {"table": jnp.asarray(np.log(counts + pseudo_count), jnp.float32)}}
