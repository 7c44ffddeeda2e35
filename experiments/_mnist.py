"""What the tables over MNIST share: fresh bits, made-up images, and weights as published."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _harness as harness
from jaxgen.core.types import Params
from jaxgen.data import mnist
from jaxgen.data.binarization import binarize
from jaxgen.data.data_set import DataSet, Split

NUM_DIMS, SHAPE = 784, (28, 28)
PRETRAINED = harness.ROOT / "experiments" / "pretrained"


class Splits(NamedTuple):
    """What a row trains and is judged on.

    Attributes:
      train: a pytree of arrays `[N, ...]`; the loss makes a batch of bits of it.
      valid: bits, uint8 `[N, 784]`.
      test: bits, uint8 `[N, 784]`.
    """

    train: dict[str, np.ndarray]
    valid: np.ndarray
    test: np.ndarray


def dynamic_splits(is_smoke: bool, *, trains_on_valid: bool = False) -> Splits:
    """Grey levels `grey` and their `index` to train on; bits drawn once by fixed keys to judge."""
    data = made_up_images() if is_smoke else mnist.load()
    grey = np.concatenate([data.train.x, data.valid.x]) if trains_on_valid else data.train.x
    index = np.arange(len(grey), dtype=np.int32)
    valid, test = (
        np.asarray(binarize(jax.random.key(k), jnp.asarray(split.x), jnp.arange(len(split.x))))
        for k, split in enumerate((data.valid, data.test))
    )
    return Splits({"grey": grey, "index": index}, valid, test)


def made_up_images() -> DataSet:
    """Grey images `[N, 784]` with no meaning, for the smoke form."""
    images = np.random.default_rng(0).integers(0, 256, (3, 200, NUM_DIMS), np.uint8)
    train, valid, test = (Split(x, None) for x in images)
    return DataSet("made_up", train, valid, test, num_symbols=256, example_shape=SHAPE)


def stored(params: Params) -> Params:
    """Parameters in half precision, as they are published."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)


def as_stored(params: Params) -> Params:
    """Parameters rounded to what is published, so that the numbers are those of the file."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(leaf.dtype), params)
