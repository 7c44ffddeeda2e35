"""What the steps of a dispatch are given: rows of arrays on the devices, or batches just read."""

import concurrent.futures
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._types import Array, Key
from jaxgen.training import _leaves as leaves
from jaxgen.training._batches import (
    batch_indices,
    is_stream,
    leading_size,
    order_seed,
    steps_per_epoch,
)
from jaxgen.training._diagnosis import check_source
from jaxgen.training._layout import Layout, num_bytes
from jaxgen.training._settings import digest
from jaxgen.training._step import examples_of

_STEPS_PER_DISPATCH = 50  # more cost less each, and take longer to interrupt
_BYTES_PER_DISPATCH = 2**26  # of batches read ahead; there are two at a time

LengthFn = Callable[[int], int]
"""`length_fn(step) -> num_steps`: how long the dispatch is that starts at a step."""


class Feed(Protocol):
    """Where the batches come from.

    Attributes:
      num_examples: N.
      max_steps: how many steps a dispatch has at most.
      data: what stays on the devices.
    """

    num_examples: int
    max_steps: int
    data: Any

    def batch_fn(self, data: Any, batches: Any, i: Array) -> tuple[Any, Array]:
        """Make the batch of a dispatch's step i, and say whether it is one."""

    def shapes(self) -> Any:
        """Return the abstract arrays of a batch."""

    def about(self) -> dict[str, str]:
        """Return what the data are, by name, in words and digests."""

    def batches(self, first: int, length_fn: LengthFn) -> Any:
        """Return what the steps from `first` on are given, of `max_steps` rows."""

    def suspects(self, step: int) -> tuple[Any, np.ndarray | None]:
        """Return data that the batch of a step is of, and which rows, None for all."""

    def close(self) -> None:
        """Read no more."""


def feed(source: Any, key: Key, batch_size: int, layout: Layout) -> Feed:
    """Return the feed of arrays, or of an object with a length that is read by indices."""
    layout.check_batch(batch_size)
    return (Streamed if is_stream(source) else InMemory)(source, key, batch_size, layout)


class InMemory:
    """Arrays, whole on every device; a dispatch is told the rows of its batches."""

    max_steps = _STEPS_PER_DISPATCH

    def __init__(self, source: Any, key: Key, batch_size: int, layout: Layout) -> None:
        self.num_examples = leading_size("source", source)
        steps_per_epoch(self.num_examples, batch_size)  # checks both
        check_source(source)
        self.data = layout.put(source)
        self._layout, self._source = layout, source
        self._batch_size, self._seed = batch_size, order_seed(key)

    def shapes(self) -> Any:
        """Return the abstract arrays of a batch."""
        return jax.tree.map(lambda leaf: _abstract(leaf, self._batch_size), self.data)

    def about(self) -> dict[str, str]:
        """Return a digest of each array."""
        named = leaves.named(self._source)
        return {f"data {name}".strip(): digest(leaf) for name, leaf in named.items()}

    def batch_fn(self, data: Any, batches: Any, i: Array) -> tuple[Any, Array]:
        """Take the rows of step i."""
        batch, is_valid = examples_of(data, batches, i)
        return self._layout.constrain(batch), is_valid

    def batches(self, first: int, length_fn: LengthFn) -> Array:
        """Return the rows of each step, int32 `[S, B]`."""
        num_steps = length_fn(first)
        rows = batch_indices(
            self.num_examples,
            self._batch_size,
            seed=self._seed,
            first_step=first,
            num_steps=num_steps,
        )
        return self._layout.put(np.pad(rows, ((0, self.max_steps - num_steps), (0, 0))))

    def suspects(self, step: int) -> tuple[Any, np.ndarray | None]:
        """Return all data."""
        return self._source, None

    def close(self) -> None:
        """Do nothing: nothing is being read."""


class Streamed:
    """An object read by indices: the next dispatch's batches while this one's are computed.

    Each process reads the examples of its own devices alone.
    """

    data = ()

    def __init__(self, source: Any, key: Key, batch_size: int, layout: Layout) -> None:
        self.num_examples = len(source)
        steps_per_epoch(self.num_examples, batch_size)  # checks both
        self._source, self._layout = source, layout
        self._batch_size, self._seed = batch_size, order_seed(key)
        self._first = first = self._examples(np.arange(1))
        check_source(first)
        size = max(1, num_bytes(first) * batch_size)
        self.max_steps = min(_STEPS_PER_DISPATCH, max(1, _BYTES_PER_DISPATCH // size))
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "jaxgen-reader")
        self._ahead: dict[int, concurrent.futures.Future] = {}

    def shapes(self) -> Any:
        """Return the abstract arrays of a batch."""
        return jax.tree.map(lambda leaf: _abstract(leaf, self._batch_size), self._first)

    def about(self) -> dict[str, str]:
        """Return the source's own fingerprint, or a digest of its first example."""
        told = getattr(self._source, "fingerprint", None)
        if told is None:
            told = f"{self.num_examples} examples, the first {digest(self._first)}"
        return {"data": str(told)}

    def batch_fn(self, data: Any, batches: Any, i: Array) -> tuple[Any, Array]:
        """Take the batch of step i."""
        batch = jax.tree.map(lambda leaf: leaf[i], batches)
        return self._layout.constrain(batch), jnp.array(True)

    def batches(self, first: int, length_fn: LengthFn) -> Any:
        """Return batches `[S, B, ...]`, and begin to read those of the next dispatch."""
        num_steps = length_fn(first)
        reading = self._ahead.pop(first, None) or self._reader.submit(self._read, first, num_steps)
        batches, following = reading.result(), first + num_steps
        self._ahead.clear()
        if (num_next := length_fn(following)) > 0:
            self._ahead[following] = self._reader.submit(self._read, following, num_next)
        return batches

    def suspects(self, step: int) -> tuple[Any, np.ndarray | None]:
        """Return the batch of a step."""
        rows = self._rows(step, 1)[0]
        return self._examples(rows), rows

    def close(self) -> None:
        """Let what is being read end, and read no more."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _rows(self, first: int, num_steps: int) -> np.ndarray:
        sizes = self.num_examples, self._batch_size
        return batch_indices(*sizes, seed=self._seed, first_step=first, num_steps=num_steps)

    def _read(self, first: int, num_steps: int) -> Any:
        """Read the batches of some steps onto the devices, in arrays with room for a dispatch."""
        rows, sharding = self._rows(first, num_steps), self._layout.examples(axis=1)
        if sharding is None:
            return jax.tree.map(jnp.asarray, self._some(rows))
        shape = self.max_steps, self._batch_size
        places = sharding.addressable_devices_indices_map(shape)
        parts = [
            jax.device_put(self._some(rows[:, index[1]]), device)
            for device, index in places.items()
            if index is not None
        ]

        def joined(*ones: Array) -> Array:
            return jax.make_array_from_single_device_arrays(
                (*shape, *ones[0].shape[2:]), sharding, list(ones)
            )

        return jax.tree.map(joined, *parts)

    def _some(self, rows: np.ndarray) -> Any:
        num_steps, size = rows.shape

        def shaped(leaf: np.ndarray) -> np.ndarray:
            room = np.zeros((self.max_steps, size, *leaf.shape[1:]), leaf.dtype)
            room[:num_steps] = leaf.reshape(num_steps, size, *leaf.shape[1:])
            return room

        return jax.tree.map(shaped, self._examples(rows.reshape(-1)))

    def _examples(self, rows: np.ndarray) -> Any:
        examples = jax.tree.map(np.asarray, self._source[rows.astype(np.int64)])
        if (found := leading_size("source[indices]", examples)) != len(rows):
            raise ValueError(f"source[indices] must give {len(rows)} examples, got {found}")
        return examples


def _abstract(leaf: Any, batch_size: int) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    return jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), dtype)
