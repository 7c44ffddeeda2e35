"""Initial parameters of Flax modules, by one compiled program."""

import functools
from typing import Any

import jax
from flax import linen as nn

from jaxgen.core._types import Array, Key, Params


@functools.partial(jax.jit, inline=True)
def initial_params(module: Any, key: Key, x: Array, context: Any) -> Params:
    """Return what `nn.Module.init` does, which outside of `jax.jit` compiles each operation alone.

    Args:
      module: a Flax module that is a static pytree.
      key: a typed key.
      x: data of the shape that `__call__` takes.
      context: its context, or None.
    """
    return nn.Module.init(module, key, x, context)
