"""Guide tables: the inverse CDF of one fixed categorical distribution in about one look-up.

Cell g of the guide holds the symbols that u in [g / V, (g + 1) / V) can give, so the search has
only those to choose from (Chen and Asau 1974). Unlike an alias table it is increasing in u, which
common random numbers, antithetic pairs and quasi-random points need.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_float_array, check_key, check_rank
from jaxgen.core._types import Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuideTable:
    """Cumulative probabilities of V symbols and where to look in them.

    Attributes:
      cumulative: sums of probabilities, `[V]`, increasing, the last 1; NaN without a distribution.
      first: the first symbol that each cell of u can give, int32 `[V + 1]`.
    """

    cumulative: Array
    first: Array

    @property
    def probabilities(self) -> Array:
        """Return what the table draws from, `[V]`, its rounding included."""
        return jnp.diff(self.cumulative, prepend=0.0)

    def quantile(self, u: Array) -> Array:
        """Map uniforms to symbols, increasing in u.

        Args:
          u: uniforms in [0, 1), `[...]`.

        Returns:
          The first symbol whose cumulative probability exceeds u, int32 `[...]`; −1 where the table
          holds NaN. A symbol of probability zero never comes.
        """
        u = jnp.asarray(u)
        num_symbols = self.cumulative.size
        cell = jnp.clip((u * num_symbols).astype(jnp.int32), 0, num_symbols - 1)
        # The product can round into the next cell, whose first symbol may lie beyond u.
        low, high = self.first[jnp.maximum(cell - 1, 0)], self.first[cell + 1]

        def halve(ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) // 2
            reached = self.cumulative[middle] > u
            raised = jnp.minimum(middle + 1, high)
            return jnp.where(reached, low, raised), jnp.where(reached, middle, high)

        low, _ = jax.lax.while_loop(lambda ends: jnp.any(ends[0] < ends[1]), halve, (low, high))
        return jnp.where(jnp.isnan(self.cumulative[-1]), -1, low)

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Draw symbols, int32 of shape `shape`; −1 where there is no distribution."""
        check_key(key)
        return self.quantile(jax.random.uniform(key, shape, self.cumulative.dtype))


def guide_table(logits: Array) -> GuideTable:
    """Build a guide table; it compiles and maps over rows.

    Args:
      logits: unnormalized log-probabilities, `[V]`; −inf forbids a symbol.

    Returns:
      `GuideTable`. Its sums have the absolute rounding error of the dtype: tails below 1e-7 in
      float32 are for `blocked_categorical`.

    Raises:
      TypeError, ValueError: `logits` are not floating-point numbers `[V]`, V at least 1.

    >>> guide_table(jnp.log(jnp.array([0.25, 0.75]))).quantile(jnp.array([0.2, 0.3])).tolist()
    [0, 1]
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    check_rank("logits", logits, 1)
    if logits.size == 0:
        raise ValueError("logits must hold at least one symbol, got shape (0,)")
    p = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    # Only a symbol with probability may raise the sum, or rounding would draw those with none.
    total = jnp.cumsum(p)
    cumulative = jax.lax.cummax(jnp.where(p > 0, total, 0))
    last = jnp.max(jnp.where(p > 0, jnp.arange(p.size), 0))
    cumulative = jnp.where(jnp.arange(p.size) >= last, 1.0, jnp.minimum(cumulative, 1.0))
    cumulative = jnp.where(jnp.any(jnp.isnan(p)), jnp.nan, cumulative)
    starts = jnp.arange(p.size + 1, dtype=p.dtype) / p.size
    first = jnp.searchsorted(cumulative, starts, side="right")
    return GuideTable(cumulative, jnp.minimum(first, last).astype(jnp.int32))
