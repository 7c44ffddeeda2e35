"""Initial parameters of Flax modules, by one compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from jaxgen.core._types import Array, Key, Params


class CompiledInit(nn.Module):
    """A base of models that are static pytrees, and called by data and a context."""

    @nn.nowrap
    def init(self, key: Key, x: ArrayLike, context: Any = None) -> Params:  # type: ignore[override]
        """Return initial parameters, drawn by one compiled program.

        Args:
          key: a typed key.
          x: data of the right shape, such as a row or two; their values do not matter.
          context: a context of the right shape, where the model has one.
        """
        return _initial(self, key, jnp.asarray(x), context)


def _initial_params(model: Any, key: Key, x: Array, context: Any) -> Params:
    return nn.Module.init(model, key, x, context)


# Outside of `jax.jit` what Flax does compiles each operation alone.
_initial = jax.jit(_initial_params, inline=True)
