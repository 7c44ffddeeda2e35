"""Common to the tables over MNIST: fresh bits, made-up images, and weights as published."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from jaxgen.core import Params

NUM_DIMS, SHAPE = 784, (28, 28)
PRETRAINED = harness.ROOT / "experiments" / "pretrained"


class Splits(NamedTuple):
    """The bits that a row trains and is judged on.

    Attributes:
      train: a pytree of arrays `[N, ...]`; the loss makes a batch of bits of it.
      valid: bits, uint8 `[N, 784]`.
      test: bits, uint8 `[N, 784]`.
    """

    train: dict[str, np.ndarray]
    valid: np.ndarray
    test: np.ndarray


def dynamic_splits(is_smoke: bool, *, trains_on_valid: bool = False) -> Splits:
    """Return gray levels `gray` and their `index` to train on, and fixed bits to judge by."""
    data = made_up_images() if is_smoke else jg.data.mnist()
    gray = np.concatenate([data.train.x, data.valid.x]) if trains_on_valid else data.train.x
    index = np.arange(len(gray), dtype=np.int32)
    draw = jax.jit(jg.data.binarize)
    valid, test = (
        np.asarray(draw(jax.random.key(k), split.x, np.arange(len(split.x), dtype=np.int32)))
        for k, split in enumerate((data.valid, data.test))
    )
    return Splits({"gray": gray, "index": index}, valid, test)


def made_up_images(shape: tuple[int, ...] = SHAPE) -> jg.data.DataSet:
    """Make images `[N, D]` of 256 levels with no meaning, for the smoke form."""
    size = (3, 200, math.prod(shape))
    images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    train, valid, test = (jg.data.Split(x, None) for x in images)
    return jg.data.DataSet("made_up", train, valid, test, num_symbols=256, example_shape=shape)


def stored(params: Params) -> Params:
    """Return parameters in half precision, as they are published."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), params)


def as_stored(params: Params) -> Params:
    """Round parameters to what is published, so that the numbers are those of the file."""
    return jax.tree.map(
        lambda leaf, half: jnp.asarray(half.astype(leaf.dtype)), params, stored(params)
    )
