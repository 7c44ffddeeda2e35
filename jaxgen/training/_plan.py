"""What a training will take, before it is begun."""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxgen.core._checks import check_count, check_key
from jaxgen.core._types import Key, Params
from jaxgen.training._dispatch import Start, build_dispatch
from jaxgen.training._feed import feed
from jaxgen.training._layout import Layout, ParamSharding
from jaxgen.training._step import AfterStepFn, LossFn, build_step

_NUM_TIMED = 5


class Plan(NamedTuple):
    """The size of a training.

    Attributes:
      num_params: parameters in all.
      device_bytes: memory that the program of the steps holds at its peak on each device, in bytes,
        the data among it; what the backend's allocator adds is not.
      flops: floating-point operations of a step on each device, as the compiler counts them, which
        takes a loop inside the loss for one turn of it; NaN where it does not count.
      step_seconds: time of a step, the median of a few after the first.
      num_steps: steps in all.
    """

    num_params: int
    device_bytes: int
    flops: float
    step_seconds: float
    num_steps: int

    @property
    def seconds(self) -> float:
        """Return the time of all steps, without validations and checkpoints."""
        return self.step_seconds * self.num_steps


def plan(
    key: Key,
    params: Params,
    loss_fn: LossFn,
    source: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    batch_size: int,
    average_decay: float = 0.0,
    after_step_fn: AfterStepFn | None = None,
    mesh: Mesh | None = None,
    param_sharding: ParamSharding = "replicated",
) -> Plan:
    """Say what `fit` with the same arguments would take: it compiles, and tries a few steps.

    Args:
      key: as for `fit`, and so are all other arguments.
      params: parameters to start from, which stay as they are.
      loss_fn: the loss.
      source: the data.
      optimizer: any Optax transformation.
      num_steps: steps in all.
      batch_size: B.
      average_decay: of the moving average of parameters.
      after_step_fn: what follows a step.
      mesh: the devices.
      param_sharding: where parameters lie on them.

    >>> x = np.zeros((100, 3), np.float32)
    >>> def loss_fn(key, mean, batch, step):
    ...     return jax.numpy.mean((batch - mean[None]) ** 2)
    >>> sizes = plan(jax.random.key(0), np.zeros(3, np.float32), loss_fn, x, optax.adam(0.1),
    ...              num_steps=1000, batch_size=10)
    >>> sizes.num_params, sizes.num_steps
    (3, 1000)
    """
    check_key(key)
    check_count("num_steps", num_steps)
    layout = Layout(mesh, param_sharding)
    spread = layout.spread(loss_fn)
    step = build_step(spread, optimizer, average_decay=average_decay, after_step_fn=after_step_fn)
    batches = feed(source, key, batch_size, layout)
    try:
        state = Start(params, optimizer, average_decay > 0, False, layout).state().train
        num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
        rows = batches.batches(0, lambda step: int(step == 0))
        program = build_dispatch(step, batches, num_steps, layout)
        compiled = program.lower(key, state, batches.data, rows, 1).compile()
        seconds = []
        for _ in range(_NUM_TIMED + 1):
            started = time.perf_counter()
            state, *_ = jax.block_until_ready(compiled(key, state, batches.data, rows, 1))
            seconds.append(time.perf_counter() - started)
    finally:
        batches.close()
    step_seconds = float(np.median(seconds[1:]))
    return Plan(num_params, peak_bytes(compiled), _flops(compiled), step_seconds, num_steps)


def peak_bytes(compiled: Any) -> int:
    """Return what a compiled program holds: its arguments and results, and what is in between."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(held + found.temp_size_in_bytes)


def _flops(compiled: Any) -> float:
    found = compiled.cost_analysis()
    return float((found or {}).get("flops", math.nan))
