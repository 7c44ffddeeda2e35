"""Parts of a model whose gradient keeps their inputs alone, and computes the rest again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._types import Array, Key


def rematerialized(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method from arrays to arrays: with `remat` it is computed again for its gradient.

    What memory that leaves free is the compiler's to say: XLA for CPUs merges what it finds twice.

    Args:
      method: of a Flax module that has the field `remat`; arguments are arrays, or None.
    """

    @functools.wraps(method)
    def run(module: Any, *args: Any) -> Any:
        again = module.remat and not module.is_initializing()
        return (nn.remat(method) if again else method)(module, *args)

    return run


def scan_layers(layers: list[Any], carry: Any, *args: Any, dropout_key: Key | None = None) -> Any:
    """Return what layers after another make of `carry`; each is computed again for its gradient.

    A scan, because XLA merges what it computes twice outside of loops: on a CPU, rematerialized
    layers that are written one after the other keep all they ever kept. It reads the parameters
    of all layers as one copy.

    Args:
      layers: bound Flax modules of equal fields, called as `layer(carry, *args) -> carry`.
      carry: the input of the first, a pytree of arrays whose shapes no layer changes.
      *args: what all of them see.
      dropout_key: None, or what the layers' dropout follows from.
    """
    template = layers[0].clone(parent=None)
    params = [layer.variables["params"] for layer in layers]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = None if dropout_key is None else jax.random.split(dropout_key, len(layers))

    def run(carry: Any, inputs: tuple[Any, Array | None]) -> tuple[Any, None]:
        params, key = inputs
        rngs = None if key is None else {"dropout": key}
        return template.apply({"params": params}, carry, *args, rngs=rngs), None

    return jax.lax.scan(jax.checkpoint(run, prevent_cse=False), carry, (stacked, keys))[0]
