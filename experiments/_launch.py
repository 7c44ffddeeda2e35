"""What the flags of `Launch` ask for: on which devices to train, and what to show of it."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental.multihost_utils
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments._compilation_cache import keep_compiled_programs
from experiments._flags import Launch
from jaxgen.core import Key, Params

ReportFn = Callable[[int, dict[str, float]], None]
_PROFILED = range(2, 4)  # of the dispatches: the first compiles


class DryRunError(Exception):
    """Ends an experiment whose training was only to be looked at."""


_launch = Launch()


@contextlib.contextmanager
def launched(launch: Launch) -> Any:
    """Make devices and processes ready; must come before JAX is asked for anything."""
    global _launch
    if launch.compilation_cache is not None:
        keep_compiled_programs(launch.compilation_cache)
    if launch.devices is not None and getattr(jax.config, "jax_num_cpu_devices") < 1:  # noqa: B009
        jax.config.update("jax_num_cpu_devices", launch.devices)
    if launch.process is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(launch.coordinator, launch.processes, launch.process)
    before, _launch = _launch, launch
    try:
        yield
    finally:
        _launch = before


def is_first_process() -> bool:
    """Return whether this process writes and shows what is for all."""
    return _launch.process in (None, 0)


def wait_for_first() -> None:
    """Wait until the first process has come here, too."""
    if _launch.process is not None:
        jax.experimental.multihost_utils.sync_global_devices("first")


def mesh() -> jax.sharding.Mesh | None:
    """Return the mesh of all devices asked for, or None where none were.

    Raises:
      ValueError: there are not as many.
    """
    if _launch.devices is None and _launch.process is None:
        return None
    devices = jax.devices()
    if _launch.process is None and _launch.devices is not None:
        if len(devices) < _launch.devices:
            raise ValueError(f"devices must be at most {len(devices)}, got {_launch.devices}")
        devices = devices[: _launch.devices]
    return jax.make_mesh((len(devices),), ("data",), devices=devices)


def fit(
    key: Key,
    params: Params,
    loss_fn: Any,
    source: Any,
    optimizer: Any,
    *,
    report_fn: ReportFn | None = None,
    **kwargs: Any,
) -> jg.training.FitResult:
    """Call `jg.fit` on the devices of the flags, and show what they ask for.

    Raises:
      DryRunError: with what the training would take, where only that was asked.
    """
    args: tuple[Any, ...] = (key, params, loss_fn, source, optimizer)
    layout: dict[str, Any] = {
        "mesh": mesh(),
        "param_sharding": "fully_sharded" if _launch.fully_sharded else "replicated",
    }
    if _launch.dry_run:
        names = ("num_steps", "batch_size", "average_decay", "after_step_fn")
        known: dict[str, Any] = {name: kwargs[name] for name in names if name in kwargs}
        known |= layout
        raise DryRunError(_in_words(jg.training.plan(*args, **known)))
    kwargs |= layout
    with contextlib.ExitStack() as stack:
        report_fns = [report_fn] if report_fn is not None else []
        if is_first_process():
            report_fns += _boards(stack)

        def report(step: int, numbers: dict[str, float]) -> None:
            for one in report_fns:
                one(step, numbers)

        result = jg.fit(*args, report_fn=report if report_fns else None, **kwargs)
    if layout["mesh"] is None:
        return result
    return result._replace(params=_on_first_device(result.params))


def evaluate(*args: Any, **kwargs: Any) -> Any:
    """Call `jg.training.evaluate` on the devices of the flags."""
    return jg.training.evaluate(*args, **kwargs, mesh=mesh())


def _on_first_device(params: Any) -> Any:
    """Return parameters that whatever comes next may use on one device, or with a mesh."""

    def one(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            leaf = jax.experimental.multihost_utils.process_allgather(leaf, tiled=True)
        return jnp.asarray(np.asarray(leaf))

    return jax.tree.map(one, params)


def start_processes(launch: Launch) -> int:
    """Run this command once for each process on this machine; return the worst exit code."""
    address = launch.coordinator or f"127.0.0.1:{free_port()}"
    module = sys.modules["__main__"].__spec__
    start = ["-m", module.name] if module else [sys.argv[0]]
    command = [sys.executable, *start, *sys.argv[1:], "--coordinator", address]
    running = [
        subprocess.Popen([*command, "--process", str(number)])
        for number in range(launch.processes or 1)
    ]
    while True:
        try:
            return max(abs(process.wait()) for process in running)
        except KeyboardInterrupt:
            continue  # each process has got it, too, and stops by itself


def free_port() -> int:
    """Return a port of this machine that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _boards(stack: contextlib.ExitStack) -> list[ReportFn]:
    boards: list[ReportFn] = []
    if _launch.tensorboard is not None:
        boards.append(jg.training.tensorboard(_launch.tensorboard))
    if _launch.wandb is not None:
        boards.append(jg.training.wandb(project=_launch.wandb))
    if _launch.profile is not None:
        boards.append(_profiled(_launch.profile, stack))
    return boards


def _profiled(folder: pathlib.Path, stack: contextlib.ExitStack) -> ReportFn:
    """Trace a few dispatches, from a report to a later one or to the end."""
    count, tracing = 0, contextlib.ExitStack()
    stack.enter_context(tracing)

    def stop() -> None:
        jax.profiler.stop_trace()
        print(f"trace: {folder}", file=sys.stderr)

    def report(step: int, numbers: dict[str, float]) -> None:
        nonlocal count
        count += 1
        if count == _PROFILED.start:
            jax.profiler.start_trace(os.fspath(folder), create_perfetto_trace=True)
            tracing.callback(stop)
        if count == _PROFILED.stop:
            tracing.close()

    return report


def _in_words(found: jg.training.Plan) -> str:
    return (
        f"{found.num_params:,} parameters; {found.device_bytes / 2**20:,.1f} MiB and "
        f"{found.flops:.3g} FLOPs a step on each device; {1e3 * found.step_seconds:.3g} ms a step, "
        f"{found.seconds / 60:.3g} minutes for {found.num_steps:,} steps"
    )
