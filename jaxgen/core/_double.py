"""Sums and products of twice a float's digits, for what must be exact where a float is not.

A number is a pair (high, low) of floats of one dtype whose sum it is, the low one at most half a
unit in the last place of the high one (Dekker 1971; Knuth 1969). In float32 that makes 48 bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array

_LONGEST_SUM = 512


class Double(NamedTuple):
    """The number `high + low`, unevaluated."""

    high: Array
    low: Array


def double(integer: int, dtype: jnp.dtype) -> Double:
    """Return a Python integer below 2^48 without rounding."""
    high = np.asarray(integer, dtype)
    return Double(jnp.asarray(high), jnp.asarray(integer - int(high), dtype))


def add(x: Double, y: Double) -> Double:
    """Return the sum, `[...]`."""
    high, low = _two_sum(x.high, y.high)
    return _renormalized(high, low + (x.low + y.low))


def multiply(x: Double, y: Double) -> Double:
    """Return the product, `[...]`."""
    high, low = _two_product(x.high, y.high)
    return _renormalized(high, low + (x.high * y.low + x.low * y.high))


def divide(x: Double, y: Double) -> Double:
    """Return the quotient, `[...]`."""
    first = x.high / y.high
    product = multiply(Double(first, jnp.zeros_like(first)), y)
    rest = add(x, Double(-product.high, -product.low))
    return _renormalized(first, rest.high / y.high)


def cumulative_sum(x: Array) -> Double:
    """Return the sums of the first 1, 2, … of `x` `[M]`, each `[M]`."""
    return _cumulative_sum(Double(x, jnp.zeros_like(x)))


def _cumulative_sum(x: Double) -> Double:
    # Many short sums side by side, then what stands before each of them.
    size = x.high.size
    length = min(_LONGEST_SUM, size)
    columns = jax.tree.map(lambda a: jnp.pad(a, (0, -size % length)).reshape(-1, length).T, x)

    def extend(sums: Double, row: Double) -> tuple[Double, Double]:
        sums = add(sums, row)
        return sums, sums

    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), columns)
    totals, inside = jax.lax.scan(extend, nothing, columns)
    if size > length:
        through = _cumulative_sum(totals)
        before = jax.tree.map(lambda a: jnp.pad(a[:-1], (1, 0))[None], through)
        inside = add(inside, before)
    return jax.tree.map(lambda a: a.T.reshape(-1)[:size], inside)


def whole_and_fraction(x: Double) -> tuple[Array, Array]:
    """Return the integer below, int32 up to 2^30, and what is above it, in [0, 1)."""
    whole = jnp.floor(x.high)
    rest = (x.high - whole) + x.low
    more = jnp.floor(rest)
    return whole.astype(jnp.int32) + more.astype(jnp.int32), rest - more


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)


def _two_product(x: Array, y: Array) -> tuple[Array, Array]:
    # Halves of the mantissa multiply exactly.
    product = x * y
    (a, b), (c, d) = _halves(x), _halves(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(x: Array) -> tuple[Array, Array]:
    shift = 2 ** ((jnp.finfo(x.dtype).nmant + 2) // 2) + 1
    scaled = x * shift
    high = scaled - (scaled - x)
    return high, x - high


def _renormalized(high: Array, low: Array) -> Double:
    total = high + low
    return Double(total, low - (total - high))
