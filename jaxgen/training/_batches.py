"""Which examples are in which batch: a function of (seed, step), so resuming needs only the step.

All of it is NumPy on the host; the indices of many steps are made at once and fed to a loop.
"""

import functools
from typing import Any

import jax
import numpy as np

from jaxgen.core._checks import check_count
from jaxgen.core._types import Key

_TEXT = (str, bytes, bytearray)  # read by an index, and not by an array of them


def order_seed(key: Key) -> int:
    """Return the seed of the order of examples that belongs to a typed key: its first 64 bits.

    >>> order_seed(jax.random.key(7))
    7
    """
    high, low = np.asarray(jax.random.key_data(key)).ravel()[:2]
    return int(high) << 32 | int(low)


def is_stream(source: Any) -> bool:
    """Return whether a source is an object that is read by indices."""
    is_object = not hasattr(source, "shape") and jax.tree_util.all_leaves([source])
    is_object = is_object and not isinstance(source, _TEXT)
    return is_object and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def leading_size(name: str, tree: Any) -> int:
    """Return N of a pytree of arrays `[N, ...]`.

    Raises:
      TypeError: a list, which could be one of examples as well as one of arrays; or text.
      ValueError: no arrays, a scalar, or leading sizes that differ.
    """
    if isinstance(tree, list):
        raise TypeError(
            f"{name} must be an array [N, ...], or a dict or tuple of them, got a list of "
            f"{len(tree)}: numpy.stack makes an array of examples"
        )
    if isinstance(tree, _TEXT):
        raise TypeError(
            f"{name} must be an array [N, ...], or a dict or tuple of them, or an object that is "
            f"read by indices, got a {type(tree).__name__} of {len(tree)}: jaxgen.data.text makes "
            "symbols of a text"
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"{name} must be arrays with one leading size, got shapes {shapes}")
    return shapes[0][0]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return how many whole batches an epoch has; the examples left over wait for another's order.

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


def batch_indices(
    num_examples: int, batch_size: int, *, seed: int, first_step: int = 0, num_steps: int = 1
) -> np.ndarray:
    """Draw the examples of consecutive training steps, without replacement within an epoch.

    Epoch `step // steps_per_epoch` visits the examples in an order of its own, keyed by (seed,
    epoch). Its last, partial batch is dropped: every batch is whole, and an example that misses one
    epoch is as likely as any other to be in the next. The steps may run over the end of an epoch.

    Args:
      num_examples: N, the size of the training split.
      batch_size: B, at most N.
      seed: of the order, in [0, 2⁶⁴).
      first_step: counted from 0, over all epochs.
      num_steps: S.

    Returns:
      int32 `[S, B]`, each row all different. The same arguments give the same indices on every
      machine and with every version of NumPy.

    Raises:
      TypeError: an argument that is no Python integer.
      ValueError: an argument out of range.
    """
    length = steps_per_epoch(num_examples, batch_size)
    check_count("seed", seed, 0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {seed}")
    check_count("first_step", first_step, 0)
    check_count("num_steps", num_steps)

    def batch(step: int) -> np.ndarray:
        epoch, position = divmod(step, length)
        start = position * batch_size
        return _epoch_order(num_examples, seed, epoch)[start : start + batch_size]

    return np.stack([batch(step) for step in range(first_step, first_step + num_steps)])


# Two, because a run of steps goes over the end of one epoch into the next.
@functools.lru_cache(maxsize=2)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    # NumPy promises the raw words of a bit generator, but not what `permutation` makes of them;
    # ordering the words is a uniform permutation, short of ties (n² / 2⁶⁵).
    order = np.argsort(bits.random_raw(num_examples), kind="stable").astype(np.int32)
    order.setflags(write=False)
    return order
