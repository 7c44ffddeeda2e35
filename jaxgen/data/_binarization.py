"""Binary images from gray ones, by chance: each pixel is one with its gray level as probability."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._checks import (
    check_count,
    check_integer_array,
    check_key,
    check_one_of,
    check_rank,
    check_shape,
)
from jaxgen.core._types import Array, Key

BinarizationMode = Literal["static", "per_epoch", "per_batch"]
"""When fresh bits are drawn: never, with every epoch, or with every step."""


def binarization_key(key: Key, mode: BinarizationMode, step: Array, steps_per_epoch: int) -> Key:
    """Return the key of the bits that are in force at a training step.

    `static` keeps the key, so an image always has the same bits; `per_epoch` folds in the epoch,
    `step // steps_per_epoch`; `per_batch` folds in the step. Batches drawn without replacement show
    an image once an epoch, so in training the last two are equal in distribution.

    Args:
      key: one typed key for the run.
      mode: one of `static`, `per_epoch`, `per_batch`; static under `jax.jit`.
      step: the step, counted from 0; an integer or a traced scalar.
      steps_per_epoch: whole batches in an epoch.

    Returns:
      A typed key for `binarize`.

    Raises:
      ValueError: an unknown mode, or `steps_per_epoch` below 1.
    """
    check_key(key)
    check_one_of("mode", mode, ("static", "per_epoch", "per_batch"))
    check_count("steps_per_epoch", steps_per_epoch)
    check_rank("step", step, 0)
    if mode == "static":
        return key
    return jax.random.fold_in(key, step // steps_per_epoch if mode == "per_epoch" else step)


def binarize(key: Key, gray: ArrayLike, example_index: ArrayLike) -> Array:
    r"""Draw bits whose means are gray levels.

    .. math:: x_d = [u_d < g_d], \quad u_d \sim U[0, 1), \quad P(x_d = 1) = g_d

    This is the dynamic binarization of Salakhutdinov & Murray (2008) and Burda et al. (2015). Each
    example draws from its own key, `fold_in(key, example_index)`: one key gives an image the same
    bits whatever batch it is in and wherever it stands there.

    Args:
      key: one typed key, as `binarization_key` gives it.
      gray: gray levels, `[B, ...]`: floating-point numbers in [0, 1], or uint8 intensities that
        stand for intensity / 255.
      example_index: where each example stands in its data set, integers `[B]`.

    Returns:
      Zeros and ones, uint8, the shape of `gray`. A level outside [0, 1], or NaN, gives 255, no
      bit: floating-point images that were not divided by 255 show at once.

    Raises:
      TypeError: `gray` is neither floating-point nor uint8, or `example_index` is not of integers.
      ValueError: the leading sizes differ.

    >>> import jax, jax.numpy as jnp
    >>> gray = jnp.array([[0, 255, 0, 255]], jnp.uint8)
    >>> binarize(jax.random.key(0), gray, jnp.array([7])).tolist()
    [[0, 1, 0, 1]]
    """
    check_key(key)
    gray, example_index = jnp.asarray(gray), jnp.asarray(example_index)
    check_integer_array("example_index", example_index)
    check_rank("example_index", example_index, 1)
    check_shape("example_index", example_index, gray.shape[:1])
    probability = _probability(gray)

    def draw(index: Array, probability: Array) -> Array:
        # float32 also under x64, where another width would be other bits for the same key.
        uniforms = jax.random.uniform(
            jax.random.fold_in(key, index), probability.shape, jnp.float32
        )
        valid = (probability >= 0) & (probability <= 1)
        return jnp.where(valid, uniforms < probability, 255).astype(jnp.uint8)

    return jax.vmap(draw)(example_index, probability)


def _probability(gray: Array) -> Array:
    if gray.dtype == jnp.uint8:
        return gray.astype(jnp.float32) / 255
    if not jnp.issubdtype(gray.dtype, jnp.floating):
        raise TypeError(
            f"gray must be floating-point levels in [0, 1] or uint8 intensities, got {gray.dtype}; "
            "divide other counts by their maximum"
        )
    return gray
