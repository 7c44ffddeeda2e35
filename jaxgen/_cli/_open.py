"""Open a bundle for a command."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from jaxgen import Bundle
from jaxgen._cli import _images as images
from jaxgen._cli import _text as text
from jaxgen.core import Array
from jaxgen.data import Colors, GrayLevels


def open_bundle(path: Path, *, takes_colors: bool = False) -> Bundle:
    """Open what `train` wrote, or `jg.save` with a vocabulary.

    Raises:
      ValueError: a bundle without a vocabulary, of a latent-variable model of text, or of colors
        where a command does not take them.
    """
    bundle = jg.read_bundle(path)
    if bundle.vocabulary is None:
        raise ValueError(f"{path}: the bundle does not say what its symbols mean")
    if isinstance(bundle.vocabulary, Colors):
        if not takes_colors:
            raise ValueError(f"{path}: models of colors are for compress and restore alone")
    elif not isinstance(bundle.vocabulary, GrayLevels):
        check_autoregressive(bundle, path, "text")
    return bundle._replace(params=jax.tree.map(_widened, bundle.params))


def _widened(leaf: Array) -> Array:
    """Return an array as models compute with it: published weights are stored in half precision."""
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float16 else leaf


def check_autoregressive(bundle: Bundle, path: Path, what: str) -> None:
    """Raise ValueError unless a bundle is of an autoregressive model, which `what` needs."""
    if not isinstance(bundle.model, jg.AutoregressiveModel):
        name = type(bundle.model).__name__
        raise ValueError(f"{path}: {what} needs an autoregressive model, the file has {name}")


def read(bundle: Bundle, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the symbols of files, `[N, D]` of images or `[N]` of text, and names of the images."""
    assert bundle.vocabulary is not None
    if isinstance(bundle.vocabulary, GrayLevels):
        found = images.read(path)
        return images.encode(bundle.vocabulary, found, path), found.names
    assert not isinstance(bundle.vocabulary, Colors)
    return text.read(path, bundle.vocabulary), []
