import hashlib

import numpy as np
import pytest
import sampling_checks

from jaxgen.data.batches import (
    batch_indices,
    evaluation_batches,
    stacked_batch_indices,
    steps_per_epoch,
)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(12, 3), (12, 12), (12, 1), (1, 1)])
def test_every_epoch_is_a_permutation(num_examples, batch_size):
    num_steps = steps_per_epoch(num_examples, batch_size)
    for epoch in range(5):
        steps = range(epoch * num_steps, (epoch + 1) * num_steps)
        seen = np.concatenate([batch_indices(num_examples, batch_size, 7, s) for s in steps])
        assert seen.dtype == np.int32
        np.testing.assert_array_equal(np.sort(seen), np.arange(num_examples))


def test_the_partial_batch_is_dropped_and_no_example_comes_twice_in_an_epoch():
    assert steps_per_epoch(14, 4) == 3
    for first_step in (0, 3, 6):
        seen = stacked_batch_indices(14, 4, 0, first_step, 3).ravel()
        assert len(set(seen.tolist())) == 12
        assert seen.min() >= 0
        assert seen.max() < 14


def test_resuming_equals_going_on():
    continuous = stacked_batch_indices(103, 10, 5, 0, 50)
    assert continuous.shape == (50, 10)
    for step in (49, 0, 9, 10, 37):  # in any order, across the ends of epochs
        np.testing.assert_array_equal(batch_indices(103, 10, 5, step), continuous[step])
    for first_step, num_steps in ((0, 7), (7, 11), (18, 32)):
        resumed = stacked_batch_indices(103, 10, 5, first_step, num_steps)
        np.testing.assert_array_equal(resumed, continuous[first_step : first_step + num_steps])


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(batch_indices(50, 50, seed, epoch).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_order_is_the_same_on_every_machine():
    assert batch_indices(10, 10, 3, 0).tolist() == [6, 1, 8, 5, 2, 7, 9, 4, 3, 0]
    indices = stacked_batch_indices(1257, 100, 2**64 - 1, 0, 50)
    digest = hashlib.sha256(indices.astype("<i4").tobytes()).hexdigest()
    assert digest == "34a53d07144921ec038efb5def0c094bb0185526314b6151e05df754a475a7ed"


def test_a_batch_may_be_changed_by_its_owner():
    batch_indices(10, 5, 0, 0)[:] = -1
    assert batch_indices(10, 5, 0, 0).min() >= 0


def test_orders_are_uniform():
    """All 24 orders of four examples; an order biased like a naive swap shuffle would be seen."""
    orders = stacked_batch_indices(4, 4, 11, 0, 20_000)
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    sampling_checks.assert_frequencies(counts, np.full(24, 1 / 24))


def test_a_biased_shuffle_would_be_seen():
    numbers = np.random.default_rng(0)
    orders = np.tile(np.arange(4), (20_000, 1))
    for i in range(4):  # swapping each place with any other is the classic biased shuffle
        j = numbers.integers(0, 4, 20_000)
        rows = np.arange(20_000)
        orders[rows, i], orders[rows, j] = orders[rows, j], orders[rows, i].copy()
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    with pytest.raises(AssertionError, match="χ²"):
        sampling_checks.assert_frequencies(counts, np.full(24, 1 / 24))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((10, 11, 0, 0), ValueError, "batch_size must be at most num_examples, 10, got 11"),
        ((0, 1, 0, 0), ValueError, "num_examples"),
        ((10, 0, 0, 0), ValueError, "batch_size"),
        ((10, 5, -1, 0), ValueError, "seed"),
        ((10, 5, 2**64, 0), ValueError, "seed must be below"),
        ((10, 5, 0, -1), ValueError, "step"),
        ((10, 5, 0, 1.0), TypeError, "step"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        batch_indices(*arguments)


def test_stacked_steps_are_checked_too():
    with pytest.raises(ValueError, match="num_steps"):
        stacked_batch_indices(10, 5, 0, 0, 0)
    with pytest.raises(ValueError, match="first_step"):
        stacked_batch_indices(10, 5, 0, -1, 1)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_evaluation_covers_each_example_once_and_in_order(num_examples, batch_size):
    batches = evaluation_batches(num_examples, batch_size)
    assert batches.indices.shape == batches.weights.shape
    assert batches.indices.shape[1] == batch_size
    np.testing.assert_array_equal(batches.indices[batches.weights == 1], np.arange(num_examples))
    assert batches.weights.sum() == num_examples
    assert batches.indices.max() == num_examples - 1
    assert (batches.indices.dtype, batches.weights.dtype) == (np.int32, np.float32)
