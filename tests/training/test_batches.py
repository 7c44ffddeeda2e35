import hashlib

import chex
import jax
import numpy as np
import pytest
import sampling_checks

from jaxgen.training._batches import batch_indices, order_seed, steps_per_epoch


def indices(num_examples, batch_size, seed, first_step, num_steps=1):
    return batch_indices(
        num_examples, batch_size, seed=seed, first_step=first_step, num_steps=num_steps
    )


@pytest.mark.parametrize(("num_examples", "batch_size"), [(12, 3), (12, 12), (12, 1), (1, 1)])
def test_every_epoch_is_a_permutation(num_examples, batch_size):
    num_steps = steps_per_epoch(num_examples, batch_size)
    for epoch in range(5):
        steps = range(epoch * num_steps, (epoch + 1) * num_steps)
        seen = np.concatenate([indices(num_examples, batch_size, 7, s)[0] for s in steps])
        assert seen.dtype == np.int32
        chex.assert_trees_all_equal(np.sort(seen), np.arange(num_examples))


def test_the_partial_batch_is_dropped_and_no_example_comes_twice_in_an_epoch():
    assert steps_per_epoch(14, 4) == 3
    for first_step in (0, 3, 6):
        seen = indices(14, 4, 0, first_step, 3).ravel()
        assert len(set(seen.tolist())) == 12
        assert seen.min() >= 0
        assert seen.max() < 14


def test_resuming_equals_going_on():
    continuous = indices(103, 10, 5, 0, 50)
    assert continuous.shape == (50, 10)
    for step in (49, 0, 9, 10, 37):  # in any order, across the ends of epochs
        chex.assert_trees_all_equal(indices(103, 10, 5, step)[0], continuous[step])
    for first_step, num_steps in ((0, 7), (7, 11), (18, 32)):
        resumed = indices(103, 10, 5, first_step, num_steps)
        chex.assert_trees_all_equal(resumed, continuous[first_step : first_step + num_steps])


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(indices(50, 50, seed, epoch)[0].tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_order_is_the_same_on_every_machine():
    assert indices(10, 10, 3, 0)[0].tolist() == [6, 1, 8, 5, 2, 7, 9, 4, 3, 0]
    many = indices(1257, 100, 2**64 - 1, 0, 50)
    digest = hashlib.sha256(many.astype("<i4").tobytes()).hexdigest()
    assert digest == "34a53d07144921ec038efb5def0c094bb0185526314b6151e05df754a475a7ed"


def test_a_batch_may_be_changed_by_its_owner():
    indices(10, 5, 0, 0)[:] = -1
    assert indices(10, 5, 0, 0).min() >= 0


def test_orders_are_uniform():
    """All 24 orders of four examples; an order biased like a naive swap shuffle would be seen."""
    orders = indices(4, 4, 11, 0, 20_000)
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
        indices(*arguments)


def test_stacked_steps_are_checked_too():
    with pytest.raises(ValueError, match="num_steps"):
        indices(10, 5, 0, 0, 0)
    with pytest.raises(ValueError, match="first_step"):
        indices(10, 5, 0, -1, 1)


def test_the_seed_of_an_order_is_that_of_a_key_and_others_have_others():
    assert order_seed(jax.random.key(7)) == 7
    with jax.enable_x64(True):
        assert order_seed(jax.random.key(2**40 + 3)) == 2**40 + 3
    keys = jax.random.split(jax.random.key(0), 100)
    seeds = {order_seed(key) for key in keys}
    assert len(seeds) == 100
    assert max(seeds) < 2**64
    assert isinstance(order_seed(jax.random.key(1, impl="rbg")), int)
