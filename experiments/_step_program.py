"""The program of a training step, compiled from shapes alone: nothing is allocated."""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

import jaxgen as jg
from experiments import _collectives as collectives
from jaxgen.core import Array, Key, Params
from jaxgen.training._dispatch import Start, build_dispatch
from jaxgen.training._layout import Layout, ParamSharding
from jaxgen.training._plan import peak_bytes
from jaxgen.training._step import LossFn, build_step

# Quick to generate, and the same between devices: what is left out comes behind XLA's own passes.
_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class _Feed:
    """Batches as a source gives them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def batch_fn(self, data: Any, batches: Array, i: Array) -> tuple[Array, Array]:
        """Take the batch of step i."""
        return self._layout.constrain(batches[i]), jnp.array(True)


def compiled(
    loss_fn: LossFn,
    params: Params,
    batch_shape: tuple[int, ...],
    mesh: Mesh | None,
    param_sharding: ParamSharding,
) -> Any:
    """Compile a dispatch of `jg.fit` that takes one step of Adam.

    Args:
      loss_fn: the loss.
      params: parameters, or their shapes.
      batch_shape: shape of a batch of integers.
      mesh: devices to train on; None is one.
      param_sharding: whether each holds all parameters.
    """
    layout, optimizer = Layout(mesh, param_sharding), optax.adam(1e-3)
    start = Start(params, optimizer, False, False, layout)
    state = jax.eval_shape(lambda params: start.initial(params).train, params)
    batches = jax.ShapeDtypeStruct((1, *batch_shape), jnp.int32, sharding=layout.examples(1))
    step = build_step(layout.spread(loss_fn), optimizer)
    batches_alone: Any = _Feed(layout)
    dispatch = build_dispatch(step, batches_alone, 0, layout)
    placed = jax.tree.map(_placed, state, layout.of_params(state))
    num_steps = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = dispatch.lower(jax.random.key(0), placed, (), batches, num_steps)
    return lowered.compile(compiler_options=_OPTIONS)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def measured(
    model: dict[str, Any], param_sharding: ParamSharding, num_devices: int, batch_size: int
) -> dict[str, Any]:
    """Return what a step of a model needs, in bytes and operations of one device."""
    module, loss_fn = _model_and_loss(**model)
    example = jax.ShapeDtypeStruct((1, module.num_dims), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), example)
    mesh = None if num_devices == 1 else jax.make_mesh((num_devices,), ("data",))
    program = compiled(loss_fn, params, (batch_size, module.num_dims), mesh, param_sharding)
    work = collectives.work(program.as_text())
    return {
        "num_devices": num_devices,
        "batch_size": batch_size,
        "num_param_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)),
        "argument_bytes": program.memory_analysis().argument_size_in_bytes,
        "peak_bytes": peak_bytes(program),
        "flops": work.flops,
        "sent": work.sent,
        "calls": work.calls,
    }


def _model_and_loss(kind: str = "transformer", **sizes: int) -> tuple[Any, LossFn]:
    if kind == "vae":
        hidden = (sizes["num_hidden"],) * 2
        vae = jg.VAE(sizes["num_dims"], 2, sizes["num_latents"], hidden)

        def bound(key: Key, params: Params, x: Array, step: Array) -> Array:
            return -jnp.mean(jg.elbo(key, vae, params, x).value)

        return vae, bound
    model = jg.CausalTransformer(
        sizes["num_dims"],
        sizes["num_symbols"],
        sizes["width"],
        sizes["num_layers"],
        sizes["width"] // (64 if sizes["width"] < 1024 else 128),
        remat=True,
    )

    def loss(key: Key, params: Params, x: Array, step: Array) -> Array:
        return -jnp.mean(jg.log_prob(model, params, x))

    return model, loss


def main() -> None:
    """Print what is read off each program, a line each; all are for the same number of devices."""
    text, address, number = sys.argv[1:]
    programs = json.loads(text)
    num_processes = programs[0]["num_processes"]
    jax.config.update("jax_num_cpu_devices", programs[0]["num_devices"] // num_processes)
    if num_processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            address, num_processes, int(number), coordinator_bind_address=address
        )
    for program in programs:
        name, _ = program.pop("name"), program.pop("num_processes")
        print(json.dumps({"name": name, **measured(**program)}), flush=True)


if __name__ == "__main__":
    main()
