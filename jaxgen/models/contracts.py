"""From Flax modules to the plain functions that samplers, objectives and coders take."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.types import Array, AutoregressiveModel, LatentVariableModel, Params


@functools.cache
def autoregressive(module: nn.Module) -> AutoregressiveModel:
    """The three functions of an autoregressive module, in their deterministic form (no dropout).

    Equal modules give the same functions, so compiled code that takes them as static arguments is
    compiled once. Stepping past the last coordinate gives NaN logits, which show in any result.

    Args:
      module: a Linen module with fields `num_dims` and `num_symbols` and methods `logits`,
        `init_cache` and `step`, whose parameters are what `module.init` returned.
    """

    def logits(params: Params, x: Array) -> Array:
        return jnp.asarray(module.apply(params, x, method="logits"))

    def init_cache(params: Params, batch_size: int) -> Any:
        return module.apply(params, batch_size, method="init_cache")

    def step(params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        index = jnp.asarray(index)
        output: Any = module.apply(params, cache, index, previous, method="step")
        logits, cache = output
        is_inside = (index >= 0) & (index < module.num_dims)
        return jnp.where(is_inside, logits, jnp.nan), cache

    return AutoregressiveModel(logits, init_cache, step, module.num_dims, module.num_symbols)


@functools.cache
def latent_variable(module: nn.Module) -> LatentVariableModel:
    """The three distributions of a latent-variable module, as functions of its parameters.

    Args:
      module: a Linen module with methods `prior`, `posterior` and `likelihood`.
    """

    def prior(params: Params) -> Any:
        return module.apply(params, method="prior")

    def posterior(params: Params, x: Array) -> Any:
        return module.apply(params, x, method="posterior")

    def likelihood(params: Params, z: Any) -> Any:
        return module.apply(params, z, method="likelihood")

    return LatentVariableModel(prior, posterior, likelihood)
