"""From Flax modules to the plain functions that samplers, objectives and coders take."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.checks import check_in_range, check_shape
from jaxgen.core.types import Array, AutoregressiveModel, LatentVariableModel, Params


@functools.cache
def autoregressive(module: nn.Module) -> AutoregressiveModel:
    """The functions of an autoregressive module, in their deterministic form (no dropout).

    Equal modules give the same functions, so compiled code that takes them as static arguments is
    compiled once. A step past the last coordinate raises ValueError where the index is known, and
    gives NaN logits, which show in any result, where it is traced.

    Args:
      module: a Linen module with fields `num_dims` and `num_symbols` and methods `logits`,
        `init_cache` and `step`, whose parameters are what `module.init` returned; a method
        `prefill(prompt)` where it has a faster one than step by step; a method
        `resize(cache, length)` and a field `block_size` where its cache grows with the length.
    """

    def logits(params: Params, x: Array) -> Array:
        return jnp.asarray(module.apply(params, x, method="logits"))

    def init_cache(params: Params, batch_size: int) -> Any:
        return module.apply(params, batch_size, method="init_cache")

    def step(params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        if not isinstance(index, jax.core.Tracer):
            check_in_range("index", int(index), 0, module.num_dims - 1)
        index = jnp.asarray(index)
        output: Any = module.apply(params, cache, index, previous, method="step")
        logits, cache = output
        is_inside = (index >= 0) & (index < module.num_dims)
        return jnp.where(is_inside, logits, jnp.nan), cache

    def prefill(params: Params, prompt: Array) -> tuple[Array, Any]:
        check_shape("prompt", prompt, (None, None))
        check_in_range("the prompt's length", prompt.shape[1], 1, module.num_dims)
        if hasattr(module, "prefill"):
            output: Any = module.apply(params, prompt, method="prefill")
            return output
        return _step_through(model, params, prompt)

    def resize(params: Params, cache: Any, length: int) -> Any:
        return module.apply(params, cache, length, method="resize")

    sizes = module.num_dims, module.num_symbols
    model = AutoregressiveModel(logits, init_cache, step, prefill, *sizes)
    if hasattr(module, "resize"):
        model = model._replace(resize=resize, block_size=module.block_size)
    return model


def conditioned(params: Params, labels: Array) -> Params:
    """Parameters of a class-conditional model, with the classes to condition on.

    Whatever takes `params` then works given the class: `logits`, samplers, coders. In training,
    condition inside the loss, on the parameters that it is differentiated by: labels are integers,
    which have no gradient, and an optimiser would take them for parameters.

    Args:
      params: what `init` of a module with classes returned.
      labels: integers in [0, num_classes], one for each row of a batch, `[B]`, or one for all,
        `[]`; `num_classes` itself stands for "no class", which trains a model for both uses. A
        label out of range gives NaN.
    """
    return {**params, "context": {"labels": jnp.asarray(labels)}}


def _step_through(model: AutoregressiveModel, params: Params, prompt: Array) -> tuple[Array, Any]:
    """`prefill` for a model that only knows how to step."""

    def body(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], Array]:
        (cache, previous), (index, x_i) = carry, inputs
        logits, cache = model.step(params, cache, index, previous)
        return (cache, x_i), logits

    batch_size, length = prompt.shape
    start = (model.init_cache(params, batch_size), jnp.zeros_like(prompt[:, 0]))
    (cache, _), logits = jax.lax.scan(body, start, (jnp.arange(length), prompt.T))
    return jnp.swapaxes(logits, 0, 1), cache


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
