"""Which share of the whole each symbol owns: probabilities as integers that the coder takes."""

import jax
import jax.numpy as jnp

from jaxgen.coding import _ans as ans
from jaxgen.coding._ans import PRECISION, FindFn, Interval
from jaxgen.core._types import Array

MAX_SYMBOLS = 2**20
"""Of more, the least share that each must have would be a cost."""


def ends_of(probabilities: Array) -> Array:
    r"""Return where the symbols' intervals end, of probabilities rounded so that none is zero.

    .. math:: f_v = 1 + \lfloor p_v (2^{24} - V) (1 - \varepsilon) \rfloor

    and the last symbol gets what is left; ε makes sure that there is something, however the sum of
    the probabilities is rounded.

    Args:
      probabilities: float32 `[..., V]`, that sum to one but for rounding.

    Returns:
      Ends c_v + f_v, uint32 `[..., V]`, ascending to 2²⁴.
    """
    num_symbols = probabilities.shape[-1]
    scale = (2**PRECISION - num_symbols) * (1 - (num_symbols + 4) / 2**PRECISION)
    sizes = 1 + (probabilities * jnp.float32(scale)).astype(jnp.uint32)
    # Integers, so in whatever order they are added; on a CPU this is several times `jnp.cumsum`.
    ends = jax.lax.associative_scan(jnp.add, sizes[..., :-1], axis=-1)
    whole = jnp.full((*ends.shape[:-1], 1), 2**PRECISION, jnp.uint32)
    return jnp.concatenate([ends, whole], axis=-1)


def interval(ends: Array, symbols: Array) -> Interval:
    """Return the intervals of symbols `[...]` among those that end at `ends` `[..., V]`."""
    end = jnp.take_along_axis(ends, symbols[..., None], axis=-1)[..., 0]
    before = jnp.take_along_axis(ends, jnp.maximum(symbols - 1, 0)[..., None], axis=-1)[..., 0]
    start = jnp.where(symbols > 0, before, 0)
    return start, end - start


def find(ends: Array) -> FindFn:
    """Return what finds the i-th symbol by bisection of `ends` `[N, V]`."""
    num_symbols = ends.shape[-1]

    def find_fn(i: Array, slot: Array) -> tuple[Array, Interval]:
        symbol = ans.first_beyond(slot, lambda symbol: ends[i, symbol], num_symbols)
        start = jnp.where(symbol > 0, ends[i, jnp.maximum(symbol - 1, 0)], 0)
        return symbol, (start, ends[i, symbol] - start)

    return find_fn
