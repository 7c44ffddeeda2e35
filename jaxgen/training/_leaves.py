"""Pytrees on disk: arrays under names, each with a label by which damage shows."""

import collections
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.training._layout import place, whole

_NUM_NAMED = 5  # of what differs, as many as an error can hold and be read


def named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree under the names on their way joined by `/`.

    Raises:
      ValueError: two leaves have one name.
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"leaves must have different names, got two of {_few(twice)}")
    return dict(zip(names, [leaf for _, leaf in paths], strict=True))


def describe(leaf: Any) -> str:
    """Return what a leaf must agree in: its dtype and shape, as `float32[2, 3]`."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}{list(np.shape(leaf))}"


def plain(leaf: Any) -> np.ndarray:
    """Return the array that stands for a leaf on disk; of a typed key, its data.

    Raises:
      TypeError: a leaf that is no array, number or bool.
    """
    if _key_impl(leaf) is not None:
        leaf = jax.random.key_data(leaf)
    array = np.asarray(whole(leaf), order="C")
    if array.dtype.kind in "OSUMm":
        raise TypeError(f"leaves must be arrays or numbers, got {type(leaf).__name__}")
    return array


def empty(leaf: Any) -> np.ndarray:
    """Return the array that stands for a leaf without elements, known by its shape alone."""
    if _key_impl(leaf) is not None:
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return np.zeros(leaf.shape, leaf.dtype)


def label(description: str, array: np.ndarray) -> str:
    """Return the description of a leaf, and a digest of it and of the array that stands for it."""
    digest = hashlib.sha256(f"{description} {array.dtype}{list(array.shape)}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return f"{description} sha256:{digest.hexdigest()}"


def description_of(label: str) -> str:
    """Return the description in a label."""
    return label.partition(" sha256:")[0]


def labels(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Return the label of each leaf."""
    return {name: label(describe(leaf), plain(leaf)) for name, leaf in leaves.items()}


def difference(wanted: Mapping[str, str], stored: Mapping[str, str]) -> str | None:
    """Say how descriptions by name differ from those wanted, or None where they do not."""
    if wanted.keys() != stored.keys():
        lacks, beside = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
        return f"it lacks {_few(sorted(lacks))} and has {_few(sorted(beside))} beside"
    wrong = [
        f"{name} is {stored[name]} there and {one} here"
        for name, one in wanted.items()
        if stored[name] != one
    ]
    return _few(wrong, "; ") if wrong else None


def damaged(labels: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str | None:
    """Name the arrays that are not what their labels say, or None where all are."""
    wrong = [
        name for name, one in labels.items() if label(description_of(one), arrays[name]) != one
    ]
    return _few(wrong) if wrong else None


def like(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Make a pytree like the template of the arrays under its names.

    NumPy arrays and Python numbers come back as such, all else on the template's devices.

    Raises:
      TypeError: an array of 64 bits that JAX would cut to 32.
    """
    leaves = [_like(name, leaf, arrays[name]) for name, leaf in named(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _like(name: str, leaf: Any, array: np.ndarray) -> Any:
    if isinstance(leaf, int | float | complex):  # a bool is an int
        return type(leaf)(array.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return array[()] if isinstance(leaf, np.generic) else array.copy()
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise TypeError(f"{name} is {array.dtype}, which needs jax_enable_x64")
    key_impl = _key_impl(leaf)
    value = (
        array if key_impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    )
    return place(value, getattr(leaf, "sharding", None))


def _key_impl(leaf: Any) -> Any:
    """Return the implementation of typed keys, or of their abstract value; None of all else."""
    if not jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
        return None
    found: list[Any] = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), leaf)
    return found[0]


def _few(words: Iterable[str], separator: str = ", ") -> str:
    words = list(words)
    rest = len(words) - _NUM_NAMED
    more = [f"{rest} more"] if rest > 0 else []
    return separator.join([*words[:_NUM_NAMED], *more]) or "nothing"
