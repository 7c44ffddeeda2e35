"""Guide tables: the inverse CDF of one fixed categorical distribution in about one look-up.

Cell g of the guide holds the symbols that u in [g / V, (g + 1) / V) can give, so the search has
only those to choose from (Chen and Asau 1974). Unlike an alias table it is increasing in u, which
common random numbers, antithetic pairs and quasi-random points need.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_float_array, check_key, check_rank
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import dense_near_zero


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
        """Draw symbols, int32 of shape `shape`; −1 where there is no distribution.

        Each comes with its share of `probabilities`, to 2^-24 in float32 and 2^-53 in float64.
        """
        check_key(key)
        return self.quantile(dense_near_zero(key, shape).astype(self.cumulative.dtype))


def guide_table(logits: Array) -> GuideTable:
    """Build a guide table; it compiles and maps over rows.

    Args:
      logits: unnormalized log-probabilities, `[V]`; −inf forbids a symbol.

    Returns:
      `GuideTable`. Called eagerly it sums in float64, and stores the sums in the dtype of `logits`
      (at least float32): each probability is right to 6e-8 in float32. So symbols of 1e-6 are
      drawn to a tenth of that, and up to 2^20 equal ones; `alias` has no such limit, and rare
      symbols of many rows are for `blocked_categorical`. In a trace the sums round too.

    Raises:
      TypeError, ValueError: `logits` are not floating-point numbers `[V]`, V at least 1; in float32
        V is above 2^24, where there is no number for each sum.

    >>> guide_table(jnp.log(jnp.array([0.25, 0.75]))).quantile(jnp.array([0.2, 0.3])).tolist()
    [0, 1]
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    check_rank("logits", logits, 1)
    if logits.size == 0:
        raise ValueError("logits must hold at least one symbol, got shape (0,)")
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    largest = 2 ** (jnp.finfo(dtype).nmant + 1)
    if logits.size > largest:
        raise ValueError(
            f"logits must hold at most {largest} symbols in {dtype}, got {logits.size}; use alias"
        )
    traced = isinstance(logits, jax.core.Tracer)
    with contextlib.nullcontext() if traced else jax.enable_x64(True):
        cumulative = _sum_up(logits.astype(dtype if traced else jnp.float64)).astype(dtype)
        return GuideTable(cumulative, _first_symbols(cumulative))


@jax.jit
def _sum_up(logits: Array) -> Array:
    p = jax.nn.softmax(logits)
    # Only a symbol with probability may raise the sum, or rounding would draw those with none.
    cumulative = jax.lax.cummax(jnp.where(p > 0, jnp.cumsum(p), 0))
    last = jnp.max(jnp.where(p > 0, jnp.arange(p.size), 0))
    cumulative = jnp.where(jnp.arange(p.size) >= last, 1.0, jnp.minimum(cumulative, 1.0))
    return nan_unless(~jnp.any(jnp.isnan(p)), cumulative)


@jax.jit
def _first_symbols(cumulative: Array) -> Array:
    """Return the first symbol of each cell, int32 `[V + 1]`."""
    num_symbols = cumulative.size
    starts = jnp.arange(num_symbols + 1, dtype=cumulative.dtype) / num_symbols
    first = jnp.searchsorted(cumulative, starts, side="right")
    last = jnp.argmax(cumulative == 1)  # from there on no symbol adds anything
    return jnp.minimum(first, last).astype(jnp.int32)
