"""Attention against a plain softmax in float64, from a cache, and turned by positions."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.layers._attention import (
    attend,
    attend_block,
    causal_attention,
    rotary_angles,
    rotate,
)

B, H, C = 2, 3, 4


def draw(length, scale=1.0, number=4):
    """Queries, keys, values and what the gradient is taken of, `[B, H, T, C]` each."""
    generator = np.random.default_rng(length)
    return scale * generator.standard_normal((number, B, H, length, C), "f4")


def by_hand(queries, keys, values, cotangent):
    """Outputs and the gradients of Σ output · cotangent, in float64, one square of weights."""
    q, k, v, g = (np.asarray(a, np.float64) for a in (queries, keys, values, cotangent))
    scores = q @ k.mT / math.sqrt(C)
    scores[..., ~np.tri(q.shape[2], dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    to_weights = g @ v.mT
    to_scores = weights * (to_weights - np.sum(weights * to_weights, -1, keepdims=True))
    to_scores /= math.sqrt(C)
    return weights @ v, (to_scores @ k, to_scores.mT @ q, weights.mT @ g)


@jax.jit
def value_and_gradients(queries, keys, values, cotangent):
    output, vjp = jax.vjp(causal_attention, queries, keys, values)
    return output, vjp(cotangent)


@pytest.mark.parametrize("length", [1, 65, 131, 301])
def test_causal_attention_is_a_softmax_over_what_came_before(length):
    """One, two, three and four blocks of queries, of unequal sizes."""
    arrays = draw(length)
    output, gradients = value_and_gradients(*arrays)
    expected, expected_gradients = by_hand(*arrays)
    chex.assert_trees_all_close(output, expected, atol=3e-6, rtol=1e-7)
    for name, ours, theirs in zip("qkv", gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)


def test_large_scores_stay_finite():
    arrays = draw(65, scale=300.0)
    output, gradients = value_and_gradients(*arrays)
    chex.assert_trees_all_close(output, by_hand(*arrays)[0], rtol=1e-2, atol=1.0)
    assert all(np.isfinite(a).all() for a in gradients)


def test_sixteen_bits_in_sixteen_bits_out_with_weights_in_float32():
    arrays = jnp.asarray(draw(131, number=3), jnp.bfloat16)
    output = causal_attention(*arrays)
    assert output.dtype == jnp.bfloat16
    expected, _ = by_hand(*arrays, np.zeros_like(arrays[0], np.float64))
    chex.assert_trees_all_close(output.astype(jnp.float32), expected, atol=0.03, rtol=1e-7)


@pytest.mark.parametrize("index", [0, 8])
def test_a_position_from_a_cache_gives_its_row(index):
    """Room beyond the position may hold anything."""
    queries, keys, values = draw(9, number=3)
    row = attend(queries[:, :, index], keys, values, index)
    expected = causal_attention(queries, keys, values)[:, :, index]
    chex.assert_trees_all_close(row, expected, atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("start", [0, 3, 10])
def test_a_block_of_positions_from_a_cache_gives_its_rows(start):
    """Of 13 positions, of which a block looks at one to four quarters."""
    queries, keys, values = draw(15, number=3)
    attend_3 = jax.jit(lambda start, q: attend_block(q, keys, values, start, 13))
    rows = attend_3(start, queries[:, :, start : start + 3])
    expected = causal_attention(queries, keys, values)[:, :, start : start + 3]
    chex.assert_trees_all_close(rows, expected, atol=1e-6, rtol=1e-7)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = jnp.asarray(draw(5, number=3))
    with pytest.raises(ValueError, match=r"queries must have shape \(\*, \*, \*, \*\)"):
        causal_attention(q[0], k[0], v[0])
    with pytest.raises(ValueError, match=r"keys must have shape \(2, 3, 5, 4\)"):
        causal_attention(q, k[:, :, 1:], v)
    with pytest.raises(ValueError, match=r"values must have shape \(2, 3, 5, 4\)"):
        causal_attention(q, k, v[..., :2])


def test_rotate_multiplies_by_a_unit_complex_number(key):
    x = np.asarray(jax.random.normal(key, (5, 6)))
    angles = np.linspace(-4, 4, 15, dtype=np.float32).reshape(5, 3)
    expected = (x[:, :3] + 1j * x[:, 3:]) * np.exp(1j * angles)
    turned = np.asarray(rotate(x, angles))
    chex.assert_trees_all_close(turned[:, :3] + 1j * turned[:, 3:], expected, atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("shape", [(11,), (4, 7)])
def test_a_turned_score_depends_on_the_way_between_alone(shape, key):
    """Pairs of positions with equal differences along each axis, and only those, score alike."""
    query, others = jax.random.normal(key, (2, 1, 8))
    angles = rotary_angles(shape, 8)
    assert angles.dtype == np.float32
    num_positions = math.prod(shape)
    turned = (rotate(jnp.tile(a, (num_positions, 1)), angles) for a in (query, others))
    scores = np.matmul(*(np.asarray(a, np.float64) for a in (next(turned), next(turned).T)))
    places = np.indices(shape).reshape(len(shape), -1).T
    ways = (places[:, None] - places[None]).reshape(-1, len(shape))
    _, which = np.unique(ways, axis=0, return_inverse=True)
    means = np.bincount(which, scores.ravel()) / np.bincount(which)
    chex.assert_trees_all_close(scores.ravel(), means[which], atol=1e-5, rtol=1e-7)
    assert np.diff(np.sort(means)).min() > 1e-5


def test_the_slowest_pair_turns_by_about_a_radian_over_the_axis():
    angles = rotary_angles((64,), 16)
    chex.assert_trees_all_close(angles[1], 64.0 ** (-np.arange(8) / 8), rtol=1e-6)
    assert 1 < angles[-1, -1] < 2
    chex.assert_trees_all_equal(angles[0], 0)


@pytest.mark.parametrize(("shape", "num_channels"), [((4,), 3), ((4, 4), 6)])
def test_channels_that_cannot_be_paired_are_refused(shape, num_channels):
    with pytest.raises(ValueError, match=f"num_channels must be a multiple of {2 * len(shape)}"):
        rotary_angles(shape, num_channels)
