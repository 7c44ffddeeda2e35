"""A trained model as one file: what it is, its weights, and what its symbols mean; no code."""

import dataclasses
import json
import math
import operator
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import __version__, data, models
from jaxgen.core._contracts import AutoregressiveModel, LatentVariableModel
from jaxgen.core._types import Params
from jaxgen.data._colors import Colors
from jaxgen.data._gray_levels import GrayLevels
from jaxgen.data._text import ByteVocabulary, CharacterVocabulary
from jaxgen.training import _leaves as leaves
from jaxgen.training import _weights as weights
from jaxgen.training._weights import WeightsError

FORMAT = 1
"""Grows when files of the new kind cannot be read by the code before."""

Vocabulary = CharacterVocabulary | ByteVocabulary | GrayLevels | Colors
"""What symbols mean: it has `num_symbols`, `encode` and `decode`."""

_PACKAGES = (models, data)  # no class from elsewhere is ever built
_FLAX_FIELDS = ("parent", "name")
_LEAF = "array"


class Bundle(NamedTuple):
    """All that a file of `save` holds.

    Attributes:
      model: a model of `jaxgen.models`.
      params: its parameters.
      vocabulary: what its symbols mean; None where the file does not say.
      metadata: notes of whoever saved it, as JSON has them.
    """

    model: Any
    params: Params
    vocabulary: Vocabulary | None
    metadata: dict[str, Any]


def save(
    path: str | pathlib.Path,
    model: Any,
    params: Params,
    *,
    vocabulary: Vocabulary | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with its parameters as one safetensors file, which `load` opens by itself.

    The arrays are those of `jaxgen.training.save_weights`; beside them stands, as JSON, the class
    of the model with all its fields. Everything has a digest. A reader sees the old file or the new
    one, never half of it.

    Args:
      path: the file, `.safetensors` by custom.
      model: a model of `jaxgen.models`. One of your own class has no name that another program
        could know: save its parameters with `jaxgen.training.save_weights`.
      params: its parameters.
      vocabulary: what symbols mean, such as `jaxgen.data.CharacterVocabulary`.
      metadata: notes by name, of what JSON has.

    Raises:
      TypeError: the model, or a field of it, is no value of jaxgen's, such as a function; or notes
        are not what JSON has.
      ValueError: the parameters are not those of the model, or its symbols not the vocabulary's.
    """
    if not _is_model(model):
        raise TypeError(f"model must be one of jaxgen.models, got {type(model).__name__}")
    about = {
        "format": FORMAT,
        "jaxgen": __version__,
        "model": _encoded(model, "model"),
        "params": _structure(params),
        "vocabulary": _encoded(vocabulary, "vocabulary"),
        "metadata": dict(metadata or {}),
    }
    num_symbols = getattr(model, "num_symbols", None)
    if vocabulary is not None and vocabulary.num_symbols != num_symbols:
        raise ValueError(
            f"vocabulary must have the model's num_symbols={num_symbols}, got "
            f"{vocabulary.num_symbols}"
        )
    _check_params(model, params)
    try:
        text = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must be what JSON has: {error}") from error
    weights.write(pathlib.Path(path), params, text)


def load(path: str | pathlib.Path) -> tuple[Any, Params]:
    """Open a file of `save`: the model and its parameters, without the code that made it.

    Nothing in the file is run: of classes, only the public ones of `jaxgen.models` are built.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: it is damaged, of a newer format, or names a class or a field that this jaxgen
        does not have.

    >>> import tempfile
    >>> model = models.MADE(num_dims=3, num_symbols=2, hidden_sizes=(4,))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 3), int))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "made.safetensors"
    >>> save(path, model, params)
    >>> load(path)[0] == model
    True
    """
    bundle = read_bundle(path)
    return bundle.model, bundle.params


def read_bundle(path: str | pathlib.Path) -> Bundle:
    """Open a file of `save` with all that it says; errors are those of `load`."""
    path = pathlib.Path(path)
    arrays, descriptions, text = weights.read(path)
    try:
        about = json.loads(text)
        if about["format"] > FORMAT:
            raise WeightsError(
                f"a newer jaxgen, {about['jaxgen']}, wrote it, in format {about['format']}; this "
                f"one reads {FORMAT}"
            )
        model = _decoded(about["model"])
        if not _is_model(model):
            raise WeightsError(f"{type(model).__name__} is no model")
        vocabulary = _decoded(about["vocabulary"])
        if not isinstance(vocabulary, Vocabulary | None):
            raise WeightsError(f"{type(vocabulary).__name__} is no vocabulary")
        params = _filled(about["params"], arrays, descriptions)
        return Bundle(model, params, vocabulary, about["metadata"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is no bundle that this jaxgen can open: {error}") from error


def _is_model(value: Any) -> bool:
    # A flow brings distrax along, which other models do without: so it is asked for by name.
    is_flow = type(value).__name__ == "NormalizingFlow" and isinstance(
        value, models.NormalizingFlow
    )
    return is_flow or isinstance(value, AutoregressiveModel | LatentVariableModel)


def _public_class(name: Any) -> type | None:
    """Return jaxgen's public class of that name, if there is one."""
    for package in _PACKAGES:
        if isinstance(name, str) and name in package.__all__:
            found = getattr(package, name)
            if isinstance(found, type) and (dataclasses.is_dataclass(found) or _is_named(found)):
                return found
    return None


def _is_named(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def field_names(cls: type) -> list[str]:
    """Return the fields that make a value of a dataclass."""
    return [f.name for f in dataclasses.fields(cls) if f.init and f.name not in _FLAX_FIELDS]


def _encoded(value: Any, where: str) -> Any:
    """Return what JSON has for a model, a part of one, or a field of a part; `where` it stands."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return operator.index(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(one, f"{where}[{i}]") for i, one in enumerate(value)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        if _public_class(cls.__name__) is not cls:
            raise TypeError(
                f"{where} must be of a public class of jaxgen, got {cls.__module__}."
                f"{cls.__qualname__}, which other programs do not have"
            )
        fields = {n: _encoded(getattr(value, n), f"{where}.{n}") for n in field_names(cls)}
        return {"class": cls.__name__, "fields": fields}
    dtype = _dtype_name(value)
    if dtype is None:
        raise TypeError(f"{where} must be a plain value to be saved, got {value!r}")
    return {"dtype": dtype}


def _dtype_name(value: Any) -> str | None:
    if isinstance(value, np.dtype) or hasattr(value, "dtype") or isinstance(value, type):
        try:
            return jnp.dtype(value).name
        except TypeError:
            return None
    return None


def _decoded(node: Any) -> Any:
    """Return the value that `_encoded` made `node` of."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    (kind, content), *more = node.items()
    if kind == "class":
        return _built(content, {name: _decoded(one) for name, one in node["fields"].items()})
    if more or kind not in ("tuple", "dtype", "float"):
        raise WeightsError(f"it has a value of unknown kind {kind!r}")
    if kind == "tuple":
        return tuple(map(_decoded, content))
    return getattr(jnp, jnp.dtype(content).name) if kind == "dtype" else float(content)


def _built(name: str, fields: dict[str, Any]) -> Any:
    cls = _public_class(name)
    if cls is None or not dataclasses.is_dataclass(cls):
        raise WeightsError(f"this jaxgen has no class {name!r}")
    if unknown := sorted(fields.keys() - set(field_names(cls))):
        raise WeightsError(f"{name} has no field {', '.join(unknown)} in this jaxgen")
    return cls(**fields)


def _structure(params: Params) -> Any:
    """Return what JSON has for the structure of parameters."""
    if isinstance(params, Mapping):
        if wrong := [key for key in params if not isinstance(key, str)]:
            raise TypeError(f"params must have names of text, got {wrong[0]!r}")
        return {"dict": {key: _structure(one) for key, one in params.items()}}
    if isinstance(params, tuple) and _is_named(type(params)):
        if _public_class(type(params).__name__) is not type(params):
            raise TypeError(f"params must be of jaxgen's own kinds, got {type(params).__name__}")
        parts = {name: _structure(one) for name, one in params._asdict().items()}  # type: ignore[attr-defined]
        return {"class": type(params).__name__, "fields": parts}
    if isinstance(params, list | tuple):
        return {type(params).__name__: [_structure(one) for one in params]}
    if params is None:
        return None
    if not hasattr(params, "dtype") or jnp.issubdtype(params.dtype, jax.dtypes.prng_key):
        raise TypeError(f"params must hold arrays alone, got {type(params).__name__}")
    return _LEAF


def _filled(
    structure: Any, arrays: Mapping[str, np.ndarray], descriptions: Mapping[str, str]
) -> Params:
    """Return parameters of a structure; each array must have been saved as it is described."""
    places = _unfolded(structure)
    names = iter(leaves.named(places))  # in the order in which a pytree has them
    if set(leaves.named(places)) != arrays.keys():
        raise WeightsError("its arrays are not those of its parameters")

    def abstract(_: int) -> jax.ShapeDtypeStruct:
        array = arrays[name := next(names)]
        if leaves.describe(array) != descriptions[name]:
            raise WeightsError(f"{name} is no plain array")
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    return leaves.like(jax.tree.map(abstract, places), arrays)


def _unfolded(node: Any) -> Any:
    """Return the pytree that `_structure` made `node` of, with 0 for each array."""
    if node is None:
        return None
    if node == _LEAF:
        return 0
    (kind, content), *_ = node.items()
    if kind == "dict":
        return {key: _unfolded(one) for key, one in content.items()}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_unfolded(one) for one in content)
    cls = _public_class(content) if kind == "class" else None
    if cls is None or not _is_named(cls):
        raise WeightsError(f"its parameters have a part of unknown kind {kind!r}")
    return cls(**{name: _unfolded(one) for name, one in node["fields"].items()})


def _check_params(model: Any, params: Params) -> None:
    """Raise ValueError unless a model with `init` would make parameters like these."""
    if not hasattr(model, "init"):
        return
    dtype = jnp.float32 if getattr(model, "num_symbols", None) is None else jnp.int32
    x = jax.ShapeDtypeStruct((1, model.num_dims), dtype)
    wanted = jax.eval_shape(model.init, jax.random.key(0), x)
    shapes = [
        {name: leaves.describe(leaf).partition("[")[2] for name, leaf in leaves.named(tree).items()}
        for tree in (wanted, params)
    ]
    if (difference := leaves.difference(*shapes)) is not None:
        raise ValueError(f"params must be those of the model: {difference}")
