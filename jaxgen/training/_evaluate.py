"""A function of every example, by batches of one shape."""

import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen.core._checks import check_count
from jaxgen.core._files import write_bytes
from jaxgen.core._types import Key
from jaxgen.training._batches import is_stream, leading_size
from jaxgen.training._layout import Layout, any_process, whole
from jaxgen.training._settings import digest

_ABOUT = "about.json"


def evaluate(
    fn: Callable[..., Any],
    data: Any,
    *,
    batch_size: int,
    key: Key | None = None,
    report_fn: Callable[[int], None] | None = None,
    mesh: Mesh | None = None,
    directory: pathlib.Path | None = None,
    depends_on: Any = (),
) -> Any:
    """Compute a function of every example, in order, by batches of one shape.

    So a compiled `fn` compiles once; the last batch is filled up with the last example, and what
    that gives is cut off.

    Args:
      fn: `fn(batch)`, or `fn(key, batch)` where there is a key, that gives a pytree of arrays
        `[B, ...]`.
      data: a pytree of arrays `[N, ...]`, or an object that is read by indices, as for `fit`.
      batch_size: B; all at once where it is larger than N.
      key: a typed key; batch i draws from `fold_in(key, i)`.
      report_fn: told after every batch how many examples are done.
      mesh: devices over which each batch is spread, and so what a compiled `fn` computes of it;
        what it draws is the same on any.
      directory: a folder for what is computed so far, where one that was cut off goes on; made if
        missing.
      depends_on: with a directory, what else the numbers depend on, such as the parameters that
        `fn` closes over: a pytree of arrays, known again by its digest.

    Returns:
      What `fn` gives, for every example: NumPy arrays `[N, ...]`. Without examples it is asked
      once, for a batch of none.

    Raises:
      TypeError: `data` is a list.
      ValueError: a count below one, leading sizes that differ, a batch that is no multiple of the
        devices, or a directory that belongs to another evaluation.

    >>> evaluate(lambda x: 2 * x, np.arange(5), batch_size=2).tolist()
    [0, 2, 4, 6, 8]
    """
    check_count("batch_size", batch_size)
    layout = Layout(mesh)
    layout.check_batch(batch_size)
    num_examples = len(data) if is_stream(data) else leading_size("data", data)
    size = min(batch_size, -(-num_examples // layout.num_devices) * layout.num_devices)
    kept = _Kept(directory, {"batch": size, "of": [_about(x) for x in (data, key, depends_on)]})
    parts: list[Any] = []
    for i, start in enumerate(range(0, num_examples, size) if num_examples else [0]):
        value = kept.read(i, parts[0]) if parts else None
        if value is None:
            rows = np.minimum(np.arange(start, start + size), num_examples - 1)
            batch = data[rows] if is_stream(data) else jax.tree.map(lambda x, r=rows: x[r], data)
            batch = batch if mesh is None else layout.put_examples(batch)
            keys = () if key is None else (jax.random.fold_in(key, i),)
            with layout.calling():
                value = fn(*keys, batch)
            value = jax.tree.map(lambda leaf: np.asarray(whole(leaf)), value)
            kept.write(i, value)
        parts.append(value)
        if report_fn is not None:
            report_fn(min(start + size, num_examples))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_examples], *parts)


def _about(tree: Any) -> str:
    """Return words by which data, a key or parameters are known again."""
    if not is_stream(tree):
        return "" if tree is None else digest(tree)
    return str(getattr(tree, "fingerprint", None) or f"{len(tree)} examples")


class _Kept:
    """The values of batches on disk; without a directory, none.

    The first batch is computed anew, for its structure.
    """

    def __init__(self, directory: pathlib.Path | None, about: dict[str, Any]) -> None:
        self.directory = directory
        self.found: set[int] = set()
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path, text = directory / _ABOUT, json.dumps(about)
        if path.exists() and path.read_text() != text:
            raise ValueError(
                f"directory must be of the same evaluation, got {directory}, which is of other "
                "data, parameters, key or batch size: take another folder"
            )
        self.found = {int(file.stem) for file in directory.glob("*.npz")}
        any_process(False)  # all have looked, before one writes
        if jax.process_index() == 0:
            write_bytes(path, text.encode())

    def read(self, i: int, like: Any) -> Any:
        """Return the value of batch i, or None where it is not there whole."""
        if self.directory is None or i not in self.found:
            return None
        try:
            content = io.BytesIO((self.directory / f"{i}.npz").read_bytes())
            with np.load(content, allow_pickle=False) as file:
                leaves = [file[str(k)] for k in range(len(file.files))]
            return jax.tree.unflatten(jax.tree.structure(like), leaves)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, i: int, value: Any) -> None:
        """Keep the value of batch i."""
        if self.directory is None or jax.process_index() != 0:
            return
        content = io.BytesIO()
        leaves = jax.tree.leaves(value)
        np.savez(content, **{str(k): leaf for k, leaf in enumerate(leaves)})
        write_bytes(self.directory / f"{i}.npz", content.getvalue())
