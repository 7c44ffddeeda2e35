"""Causal attention: over whole sequences in training, from a cache in sampling."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_shape
from jaxgen.core._mesh import on_own_examples
from jaxgen.core._types import Array

_FORBIDDEN = -1e30  # finite, as −inf − −inf is NaN
_LONGEST_MASK = 4096
"""Positions up to which masks are part of a program, at most four million bits of each."""


def causal_attention(queries: Array, keys: Array, values: Array) -> Array:
    r"""Attention of every position to itself and all before it (Vaswani et al. 2017).

    .. math:: o_t = \sum_{s \le t} a_{ts} v_s, \qquad
              a_t = \mathrm{softmax}_{s \le t}(q_t \cdot k_s / \sqrt{C})

    On a GPU by cuDNN's fused kernel where activations are of 16 bits. Elsewhere one head of one
    example at a time, so that its weights stay in the processor's cache; they are computed again
    in the backward pass, never stored. Queries go in a few blocks, each against the keys up to its
    end: a third less arithmetic than a full square.

    Args:
      queries: `[B, H, T, C]`.
      keys: `[B, H, T, C]`.
      values: `[B, H, T, C]`.

    Returns:
      `[B, H, T, C]` in the dtype of `values`; the softmax is taken in float32 at least.
    """
    check_shape("queries", queries, (None, None, None, None))
    check_shape("keys", keys, queries.shape)
    check_shape("values", values, queries.shape)
    if jax.default_backend() == "gpu":
        is_half = queries.dtype in (jnp.bfloat16, jnp.float16)
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in (queries, keys, values))
        output = jax.nn.dot_product_attention(
            q, k, v, is_causal=True, implementation="cudnn" if is_half else "xla"
        )
        return jnp.swapaxes(output, 1, 2)
    return on_own_examples(_attend_by_head)((), queries, keys, values)


def _attend_by_head(_: tuple[()], queries: Array, keys: Array, values: Array) -> Array:
    heads = tuple(a.reshape(-1, *a.shape[2:]) for a in (queries, keys, values))
    one_head = jax.checkpoint(lambda qkv: _attend_in_blocks(*qkv), prevent_cse=False)
    return jax.lax.map(one_head, heads).reshape(queries.shape)


def _attend_in_blocks(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention of one head, `[T, C]`, over at most four blocks of queries."""
    length = len(queries)
    ends = np.linspace(0, length, min(4, -(-length // 64)) + 1).astype(int)
    arange = np.arange if length <= _LONGEST_MASK else jnp.arange  # a constant is read faster
    outputs = []
    for start, end in itertools.pairwise(ends):
        is_seen = arange(start, end)[:, None] >= arange(end)[None]
        weights = _weights(queries[start:end] @ keys[:end].T, is_seen, queries.shape[-1])
        outputs.append(weights.astype(values.dtype) @ values[:end])
    return jnp.concatenate(outputs)


def attend_block(queries: Array, keys: Array, values: Array, start: Array, length: int) -> Array:
    """Attention of K positions that follow each other, from a cache with room for R of them.

    One head of one example at a time, as in `causal_attention`, and against the keys of as many
    quarters of T positions as the block reaches.

    Args:
      queries: of positions `start` to `start + K - 1`, `[B, H, K, C]`.
      keys: `[B, H, R, C]`; what stands after a position is not looked at.
      values: `[B, H, R, C]`.
      start: the first position, integer scalar, may be traced.
      length: T <= R, known: no position is at T or beyond.

    Returns:
      `[B, H, K, C]`, rows of `causal_attention`.
    """
    ends = np.linspace(0, length, 5)[1:].astype(int)

    def attend_rows(start: Array, heads: tuple[Array, Array, Array]) -> Array:
        rows = start + jnp.arange(queries.shape[2])
        branches = [functools.partial(_attend_to, end) for end in ends]
        return jax.lax.switch(jnp.sum(rows[-1] >= ends), branches, rows, *heads)

    if jax.default_backend() == "gpu":
        return attend_rows(start, (queries, keys, values))

    def by_head(start: Array, *arrays: Array) -> Array:
        heads = tuple(a.reshape(-1, *a.shape[2:]) for a in arrays)
        return jax.lax.map(functools.partial(attend_rows, start), heads).reshape(arrays[0].shape)

    return on_own_examples(by_head)(start, queries, keys, values)


def _attend_to(end: int, rows: Array, queries: Array, keys: Array, values: Array) -> Array:
    """Attention of `[..., K, C]` at positions `rows` to those of the first `end` before them."""
    keys, values = keys[..., :end, :], values[..., :end, :]
    is_seen = (rows[:, None] >= jnp.arange(end)[None]).reshape((1,) * (keys.ndim - 2) + (-1, end))
    weights = _weights(queries @ keys.mT, is_seen, queries.shape[-1])
    return weights.astype(values.dtype) @ values


def attend(query: Array, keys: Array, values: Array, index: Array) -> Array:
    """Attention of one position, from a cache with room for R of them.

    Args:
      query: of position `index`, `[..., C]`, for each head of each example.
      keys: `[..., R, C]`; what stands after `index` is not looked at.
      values: `[..., R, C]`.
      index: the position, integer scalar, may be traced.

    Returns:
      `[..., C]`, the row `index` of `causal_attention`.
    """
    scores = jnp.einsum("...c,...rc->...r", query, keys)
    is_seen = jnp.arange(keys.shape[-2]) <= index
    is_seen = is_seen.reshape((1,) * (scores.ndim - 1) + is_seen.shape)
    weights = _weights(scores, is_seen, query.shape[-1])
    return jnp.einsum("...r,...rc->...c", weights.astype(values.dtype), values)


def _weights(scores: Array, is_seen: Array | np.ndarray, num_channels: int) -> Array:
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = jnp.where(is_seen, scores / math.sqrt(num_channels), _FORBIDDEN)
    return jax.nn.softmax(scores, axis=-1)


def rotary_angles(shape: tuple[int, ...], num_channels: int) -> np.ndarray:
    r"""Angles by which `rotate` turns the channel pairs at each position.

    .. math:: \theta_{tf} = t n^{-f / F}, \qquad f = 0, \dots, F - 1

    along an axis of n positions: the fastest pair turns by a radian a position, the slowest by
    about one over the whole axis. A sequence has one axis; an image, read row by row, has two,
    which share the pairs, so a score depends on how many rows and columns lie between.

    Args:
      shape: positions along each axis, such as `(128,)` or `(28, 28)`.
      num_channels: C, a multiple of twice the number of axes.

    Returns:
      Radians, float32 `[T, C / 2]`, T the product of `shape`.
    """
    if num_channels % (2 * len(shape)):
        raise ValueError(
            f"num_channels must be a multiple of {2 * len(shape)} for positions of shape {shape}, "
            f"got {num_channels}"
        )
    num_pairs = num_channels // (2 * len(shape))
    positions = np.indices(shape).reshape(len(shape), -1)
    rates = [float(n) ** (-np.arange(num_pairs) / num_pairs) for n in shape]
    angles = [np.outer(t, rate) for t, rate in zip(positions, rates, strict=True)]
    return np.concatenate(angles, axis=1).astype(np.float32)


def rotate(x: Array, angles: Array) -> Array:
    """Turn pairs of channels (c, c + C/2) by angles (rotary embedding, Su et al. 2021).

    The product of a query turned by its position and a key turned by its own depends on the
    difference of the two alone.

    Args:
      x: queries or keys, `[..., C]`.
      angles: radians, `[..., C / 2]`, of the rank of `x`.
    """
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
