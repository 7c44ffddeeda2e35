"""Alias tables: many draws from one fixed categorical distribution, one look-up each.

V columns of equal mass each hold a symbol and its alias; a draw picks a column and then one of the
two (Walker 1977; Vose 1991).
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_float_array, check_key, check_rank, check_shape
from jaxgen.core._types import Array, Key
from jaxgen.samplers._uniform import dense_near_zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AliasTable:
    """Columns of mass 1 / V each.

    Attributes:
      keep: probability that column i gives i itself, `[V]`; NaN where there is no distribution.
      other: what it gives otherwise, its alias, int32 `[V]`.
    """

    keep: Array
    other: Array

    @property
    def probabilities(self) -> Array:
        """Return what the table draws from, `[V]`, its rounding included."""
        given = jnp.zeros_like(self.keep).at[self.other].add(1 - self.keep)
        return (self.keep + given) / self.keep.size

    def quantile(self, u: Array) -> Array:
        """Map two uniforms to a symbol, not in the order of symbols.

        Args:
          u: uniforms in [0, 1), `[..., 2]`, for the column and for the choice in it.

        Returns:
          Symbols, int32 `[...]`; −1 where the table holds NaN. A symbol of probability zero never
          comes. A float32 column has a relative error of V / 2^24: `sample` has none.

        Raises:
          ValueError: `u` has no last axis of two.
        """
        u = jnp.asarray(u)
        check_shape("u", u, (*u.shape[:-1], 2))
        num_symbols = self.keep.size
        column = jnp.minimum((u[..., 0] * num_symbols).astype(jnp.int32), num_symbols - 1)
        return self._choose(column, u[..., 1])

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Draw symbols, int32 of shape `shape`; −1 where there is no distribution.

        Up to 2^31 symbols, each with a probability that is right to 2^-33 / V (2^-65 / V in
        float64) and to the rounding of `keep`: p = 1e-9 / V is drawn to a tenth of itself.
        """
        check_key(key)
        column_key, choice_key = jax.random.split(key)
        column = jax.random.randint(column_key, shape, 0, self.keep.size, jnp.int32)
        return self._choose(column, dense_near_zero(choice_key, shape))

    def _choose(self, column: Array, u: Array) -> Array:
        keep = self.keep[column]
        symbol = jnp.where(u < keep, column, self.other[column])
        return jnp.where(jnp.isnan(keep), -1, symbol)


def alias(logits: Array) -> AliasTable:
    """Build an alias table without a loop, so that it compiles and maps over rows.

    Light symbols, below the average, take what they lack from heavy ones, both in order. With D_k
    the deficits summed up to light k and S_j the surpluses up to heavy j, light k takes from the
    first heavy j with S_j > D_{k−1}; and heavy j, once some light k brings D_k above S_j, keeps
    1 − (D_k − S_j) and takes the rest from the next heavy (after Hübschle-Schneider and Sanders
    2022, whose sequential sweep this solves in closed form).

    Args:
      logits: unnormalized log-probabilities, `[V]`; −inf forbids a symbol.

    Returns:
      `AliasTable`. Called eagerly it sums in float64; in a trace in the precision there is, and
      its `probabilities` say what it draws from.

    Raises:
      TypeError, ValueError: `logits` are not floating-point numbers `[V]`, V at least 1.

    >>> alias(jnp.array([-jnp.inf, 0.0])).sample(jax.random.key(0), (3,)).tolist()
    [1, 1, 1]
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    check_rank("logits", logits, 1)
    if logits.size == 0:
        raise ValueError("logits must hold at least one symbol, got shape (0,)")
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    traced = isinstance(logits, jax.core.Tracer)
    with contextlib.nullcontext() if traced else jax.enable_x64(True):
        keep, other = _sweep(logits.astype(dtype if traced else jnp.float64))
    return AliasTable(keep.astype(dtype), other)


@jax.jit
def _sweep(logits: Array) -> tuple[Array, Array]:
    heights = jax.nn.softmax(logits) * logits.size
    lacking, spare = jnp.maximum(1 - heights, 0), jnp.maximum(heights - 1, 0)
    deficits, surpluses = _running_sum(lacking), _running_sum(spare)
    is_light = lacking > 0
    # The sums before, not differences: two roundings of one number would give a column twice.
    deficits_before, surpluses_before = _shift(deficits), _shift(surpluses)
    taken = jnp.where(is_light, deficits_before, surpluses)
    last_giver = jnp.searchsorted(surpluses, surpluses[-1])
    giver = jnp.minimum(jnp.searchsorted(surpluses, taken, side="right"), last_giver)
    exhausting = jnp.searchsorted(deficits, surpluses, side="right")
    by = jnp.minimum(exhausting, logits.size - 1)
    # A heavy one used up exactly keeps its column, as does one too little above the average to
    # count in the sum.
    is_exhausted = (deficits_before[by] < surpluses) & (surpluses < deficits[by])
    is_exhausted &= surpluses > surpluses_before
    kept = jnp.where(is_exhausted, jnp.clip(1 - deficits[by] + surpluses, 0, 1), 1)
    is_last = jnp.arange(logits.size) == last_giver  # what rounding leaves over stays with it
    keep = jnp.where(is_light, heights, jnp.where(is_last, 1, kept))
    return nan_unless(~jnp.isnan(heights), keep), giver.astype(jnp.int32)


def _running_sum(x: Array) -> Array:
    # Summed in pairs, rounding grows with log V and not with V. What was not added to must not
    # rise by rounding, nor anything fall.
    return jax.lax.cummax(jnp.where(x > 0, jax.lax.associative_scan(jnp.add, x), 0))


def _shift(x: Array) -> Array:
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
