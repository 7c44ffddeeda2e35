"""Images by name, for experiments that a flag points at one set or another."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments._mnist import dynamic_splits
from jaxgen.core import Array, Key


class Images(NamedTuple):
    """What is trained and judged on.

    Attributes:
      train: a pytree of arrays `[N, ...]`, of symbols `x` or of gray levels and their `index`.
      valid: symbols `[N, D]`.
      test: symbols `[N, D]`.
      shape: height and width.
      num_symbols: V.
    """

    train: dict[str, np.ndarray]
    valid: np.ndarray
    test: np.ndarray
    shape: tuple[int, int]
    num_symbols: int


def load(name: Literal["digits", "mnist"]) -> Images:
    """Scikit-learn's 8×8 digits of 17 gray levels, or MNIST, whose bits are drawn anew."""
    if name == "digits":
        found = jg.data.digits()
        return Images({"x": found.train.x}, found.valid.x, found.test.x, (8, 8), 17)
    splits = dynamic_splits(is_smoke=False)
    return Images(splits.train, splits.valid, splits.test, (28, 28), 2)


def symbols(key: Key, batch: dict) -> Array:
    """The symbols of a batch, drawn afresh where it holds gray levels."""
    if "x" in batch:
        return jnp.asarray(batch["x"])
    return jg.data.binarize(key, jnp.asarray(batch["gray"]), jnp.asarray(batch["index"]))
