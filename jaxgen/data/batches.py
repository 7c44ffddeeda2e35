"""Which examples are in which batch: a function of (seed, step), so resuming needs only the step.

All of it is NumPy on the host; the indices are made for many steps at once and fed to a scan.
"""

import functools
from typing import NamedTuple

import numpy as np

from jaxgen.core.checks import check_count


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; the examples left over wait for another epoch's order.

    Raises:
      ValueError: a count below 1, or a batch larger than the data set.

    >>> steps_per_epoch(1257, 100)
    12
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size)
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size must be at most num_examples, {num_examples}, got {batch_size}"
        )
    return num_examples // batch_size


def batch_indices(num_examples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of one training step, drawn without replacement within an epoch.

    Epoch `step // steps_per_epoch` visits the examples in an order of its own, keyed by (seed,
    epoch). Its last, partial batch is dropped: every batch is whole, and an example that misses one
    epoch is as likely as any other to be in the next.

    Args:
      num_examples: N, the size of the training split.
      batch_size: B, at most N.
      seed: of the order, in [0, 2⁶⁴).
      step: counted from 0, over all epochs.

    Returns:
      int32 `[B]`, all different. The same arguments give the same indices on every machine and
      with every version of NumPy.

    Raises:
      TypeError: an argument that is no Python integer.
      ValueError: an argument out of range.
    """
    num_steps = steps_per_epoch(num_examples, batch_size)
    check_count("step", step, 0)
    epoch, position = divmod(step, num_steps)
    order = _epoch_order(num_examples, _checked_seed(seed), epoch)
    return order[position * batch_size : (position + 1) * batch_size].copy()


def stacked_batch_indices(
    num_examples: int, batch_size: int, seed: int, first_step: int, num_steps: int
) -> np.ndarray:
    """`batch_indices` for `num_steps` steps from `first_step`, int32 `[num_steps, B]`.

    The steps may run over the end of an epoch.
    """
    check_count("first_step", first_step, 0)
    check_count("num_steps", num_steps)
    steps = range(first_step, first_step + num_steps)
    return np.stack([batch_indices(num_examples, batch_size, seed, step) for step in steps])


class EvaluationBatches(NamedTuple):
    """Every example once and in order, in M batches of one size.

    Attributes:
      indices: int32 `[M, B]`; the padding at the end repeats the last example.
      weights: float32 `[M, B]`; 1 for an example and 0 for padding, so they sum to N.
    """

    indices: np.ndarray
    weights: np.ndarray


def evaluation_batches(num_examples: int, batch_size: int) -> EvaluationBatches:
    """Cut a split into batches for evaluation, the last one padded.

    >>> batches = evaluation_batches(5, 2)
    >>> batches.indices.tolist()
    [[0, 1], [2, 3], [4, 4]]
    >>> batches.weights.tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size)
    num_batches = -(-num_examples // batch_size)
    positions = np.arange(num_batches * batch_size).reshape(num_batches, batch_size)
    indices = np.minimum(positions, num_examples - 1).astype(np.int32)
    return EvaluationBatches(indices, (positions < num_examples).astype(np.float32))


# Two, because a run of stacked steps goes over the end of one epoch into the next.
@functools.lru_cache(maxsize=2)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    # NumPy keeps the raw words of a bit generator for ever, but not what `permutation` makes of
    # them; ordering the words is a uniform permutation, short of ties (n² / 2⁶⁵).
    order = np.argsort(bits.random_raw(num_examples), kind="stable").astype(np.int32)
    order.setflags(write=False)
    return order


def _checked_seed(seed: int) -> int:
    check_count("seed", seed, 0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {seed}")
    return seed
