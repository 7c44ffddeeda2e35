"""Trained weights as plain safetensors files: names and arrays, no code, readable anywhere."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxgen.core._types import Params


class WeightsError(ValueError):
    """A file that is not in safetensors format, or holds other arrays than the model has."""


def save_weights(path: pathlib.Path, params: Params) -> None:
    """Write parameters, each array under the names on its way joined by `/`.

    A reader sees the old file or the new one, never half of it.

    Args:
      path: the file, `.safetensors` by custom.
      params: a pytree of arrays, in the dtypes that the file shall have.
    """
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _named(params).items()}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(safetensors.numpy.save(arrays))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_weights(path: pathlib.Path, template: Params) -> Params:
    """Read parameters that `save_weights` wrote.

    Args:
      path: the file.
      template: parameters of the same model (or their `jax.eval_shape`), for structure, shapes and
        dtypes; what was stored in fewer bits is widened.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is damaged, or lacks an array, has one too many or one of another shape.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        arrays = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    wanted = _named(template)
    if arrays.keys() != wanted.keys():
        raise WeightsError(
            f"{path} holds other weights than the model has: it lacks "
            f"{sorted(wanted.keys() - arrays.keys())} and has {sorted(arrays.keys() - wanted)} "
            "beside"
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape:
            raise WeightsError(
                f"{path} holds {name} of shape {arrays[name].shape}, the model has {leaf.shape}"
            )
    leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named(params: Params) -> dict:
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
