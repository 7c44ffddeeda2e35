import chex
import jax
import numpy as np
import pytest

from jaxgen.coding import _shares as shares

WHOLE = 2**24
ends_of = jax.jit(shares.ends_of)


@pytest.mark.parametrize("num_symbols", [2, 5, 256, 2**16])
def test_shares_are_probabilities_and_none_is_empty(num_symbols):
    rng = np.random.default_rng(num_symbols)
    logits = rng.normal(size=(6, num_symbols)) * np.array([0, 1e-4, 1, 10, 100, 1000])[:, None]
    probabilities = jax.nn.softmax(logits.astype(np.float32), axis=-1)
    ends = np.asarray(ends_of(probabilities)).astype(np.int64)
    sizes = np.diff(ends, axis=-1, prepend=0)
    assert sizes.min() >= 1
    chex.assert_trees_all_equal(ends[:, -1], WHOLE)
    # The least shares and the rounding that is allowed for cost 2 V + 4 slots together.
    p = np.asarray(probabilities, np.float64)
    p /= p.sum(-1, keepdims=True)
    cost = np.sum(p * np.log2(p / (sizes / WHOLE), where=p > 0, out=np.zeros_like(p)), axis=-1)
    assert np.all(cost <= 1.5 * np.log2(np.e) * (2 * num_symbols + 8) / WHOLE + 1e-9), cost


def test_the_whole_is_never_exceeded_however_the_sum_is_rounded():
    for num_symbols in (2, 3, 1000, 2**16):
        # A little too large, as by a sum that came out too small.
        probabilities = np.zeros((1, num_symbols), np.float32)
        probabilities[0, 0] = 1 + (num_symbols + 2) * 2.0**-24
        sizes = np.diff(np.asarray(ends_of(probabilities)).astype(np.int64), axis=-1, prepend=0)
        assert sizes.min() >= 1
        assert sizes.sum() == WHOLE


def test_a_certain_symbol_gets_nearly_all_and_one_of_no_probability_the_least():
    sizes = np.diff(np.asarray(ends_of(np.array([[0, 1, 0]], np.float32))).astype(int), prepend=0)
    assert sizes[0, 0] == 1
    assert sizes[0, 1] > WHOLE - 16
    assert sizes[0, 2] >= 1


def test_every_slot_belongs_to_the_symbol_whose_interval_holds_it():
    ends = np.array([[3, 4, 9, 10, WHOLE]], np.uint32)
    find_fn = shares.find(jax.numpy.asarray(ends))
    found = jax.jit(jax.vmap(lambda slot: find_fn(0, slot)))(np.arange(12, dtype=np.uint32))
    np.testing.assert_array_equal(found[0], [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 4, 4])
    starts, sizes = found[1]
    np.testing.assert_array_equal(starts, [0, 0, 0, 3, 4, 4, 4, 4, 4, 9, 10, 10])
    np.testing.assert_array_equal((starts + sizes)[-1], WHOLE)
    for symbols, interval in [(np.array([2]), (4, 5)), (np.array([0]), (0, 3))]:
        np.testing.assert_array_equal(np.stack(shares.interval(ends, symbols))[:, 0], interval)


def test_a_symbol_alone_and_symbols_of_several_axes_have_the_same_intervals():
    ends = np.array([[[3, 4, WHOLE]], [[1, 7, WHOLE]]], np.uint32)
    for i, expected in enumerate([(3, 1), (1, 6)]):
        assert [int(a) for a in shares.interval(ends[i, 0], np.array(1))] == [*expected]
    starts, sizes = shares.interval(ends, np.array([[1], [2]]))
    chex.assert_trees_all_equal(starts, np.array([[3], [7]]))
    chex.assert_trees_all_equal(sizes, np.array([[1], [WHOLE - 7]]))
