"""Trained weights as plain safetensors files: names and arrays, no code, readable anywhere."""

import hashlib
import json
import pathlib
import warnings

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxgen.core._files import write_bytes
from jaxgen.core._types import Params
from jaxgen.training import _leaves as leaves

_DTYPES = {
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}
_FLOATS = {name for name in _DTYPES.values() if "float" in name}
_RESERVED = "__metadata__"  # safetensors keeps what is no array under this name
_ABOUT = "__about__"  # the key of the text beside the labels


class WeightsError(ValueError):
    """A file that is damaged, not in safetensors format, or of other arrays than the model has."""


def save_weights(path: pathlib.Path, params: Params) -> None:
    """Write parameters, each array under the names on its way joined by `/`.

    The file holds a digest of each array, which `load_weights` checks. A reader sees the old file
    or the new one, never half of it.

    Args:
      path: the file, `.safetensors` by custom.
      params: a pytree of arrays, in the dtypes that the file shall have; of typed keys the data are
        written.

    Raises:
      TypeError: a leaf is no array, or its dtype has no place in the format.
      ValueError: two leaves have one name.
    """
    write(path, params)


def write(path: pathlib.Path, params: Params, about: str | None = None) -> None:
    """Write parameters as `save_weights` does, with a text about them beside, and its digest."""
    named = leaves.named(params)
    arrays = {name: leaves.plain(leaf) for name, leaf in named.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES.values() or name in (_RESERVED, _ABOUT):
            raise TypeError(f"safetensors cannot hold {name} of {leaves.describe(named[name])}")
    metadata = leaves.labels(named)
    if about is not None:
        metadata[_ABOUT] = f"{_digest(about)} {about}"
    write_bytes(pathlib.Path(path), safetensors.numpy.save(arrays, metadata=metadata or None))


def load_weights(path: pathlib.Path, template: Params) -> Params:
    """Read parameters that `save_weights` wrote, or those of a bundle of `jaxgen.save`.

    A file of another program, which has no digests, is read with a warning.

    Args:
      path: the file.
      template: parameters of the same model (or their `jax.eval_shape`), for structure, shapes and
        dtypes; floating-point numbers stored in fewer bits are widened.

    Returns:
      Parameters like the template: NumPy arrays where it has those, else on its devices.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is damaged, or lacks an array, has one too many or one of another shape or
        dtype.
    """
    arrays, labels, _ = _read(path)
    wanted = {name: leaves.describe(leaf) for name, leaf in leaves.named(template).items()}
    if arrays and not labels:
        warnings.warn(f"{path} has no digests of its arrays: damage would not show", stacklevel=2)
        labels = {name: leaves.label(leaves.describe(one), one) for name, one in arrays.items()}
    _check_digests(path, arrays, labels)
    found = {name: leaves.description_of(label) for name, label in labels.items()}
    shared = found.keys() & wanted.keys()
    narrow = {name for name in shared if _is_narrower(found[name], wanted[name])}
    difference = leaves.difference(wanted, found | {name: wanted[name] for name in narrow})
    if difference is not None:
        raise WeightsError(f"{path} holds other weights than the model has: {difference}")
    for name in narrow:
        arrays[name] = arrays[name].astype(jnp.dtype(_split(wanted[name])[0]))
    return leaves.like(template, arrays)


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Read what `write` wrote: arrays and their descriptions by name, and the text about them.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is damaged, or has no such text.
    """
    arrays, labels, about = _read(path)
    if about is None:
        raise WeightsError(
            f"{path} does not say what model it is of: jaxgen.save writes files that do, and "
            "jaxgen.training.load_weights reads the others into parameters of the same model"
        )
    _check_digests(path, arrays, labels)
    digest, _, text = about.partition(" ")
    if digest != _digest(text):
        raise WeightsError(f"{path} is damaged: the text about its model has another digest")
    return arrays, {name: leaves.description_of(label) for name, label in labels.items()}, text


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _check_digests(
    path: pathlib.Path, arrays: dict[str, np.ndarray], labels: dict[str, str]
) -> None:
    if labels.keys() != arrays.keys():
        raise WeightsError(f"{path} is damaged: its digests and its arrays have different names")
    if damaged := leaves.damaged(labels, arrays):
        raise WeightsError(f"{path} is damaged: its digests are not those of {damaged}")


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str], str | None]:
    """Return the arrays of a file, their labels (none where it is another program's), and more."""
    content = pathlib.Path(path).read_bytes()
    try:
        arrays = {
            name: np.frombuffer(one["data"], jnp.dtype(_DTYPES[one["dtype"]])).reshape(one["shape"])
            for name, one in safetensors.deserialize(content)
        }
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    except KeyError as error:
        raise WeightsError(f"{path} holds an array of type {error}, which JAX lacks") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get(_RESERVED) or {}
    about = metadata.pop(_ABOUT, None)
    is_ours = any(name in arrays or "sha256" in text for name, text in metadata.items())
    return arrays, metadata if is_ours else {}, about


def _is_narrower(one: str, other: str) -> bool:
    """Whether two descriptions differ in no more than that the first has fewer bits of a float."""
    (narrow, shape), (wide, other_shape) = _split(one), _split(other)
    if shape != other_shape or not {narrow, wide} <= _FLOATS:
        return False
    return narrow != wide and np.can_cast(jnp.dtype(narrow), jnp.dtype(wide))


def _split(description: str) -> tuple[str, str]:
    dtype, _, shape = description.partition("[")
    return dtype, shape
