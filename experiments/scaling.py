"""What a training step needs on 1 to 512 devices: memory, arithmetic, bytes between them.

    python -m experiments.scaling

About 11 minutes on two CPU cores. The programs that `jg.fit` runs are compiled from shapes alone,
for meshes of so many devices of this host, or of two processes, and read: memory off XLA's plan,
products of matrices and bytes that a device sends off the program's text, each loop as often as it
runs. Models are a VAE (100 images a device), a transformer of 50,257 tokens, 12 layers of 768
channels, and one with ten times the parameters, 28 layers of 2,048; both read 64 sequences of 1,024
tokens a step, or one a device where there are more devices. Expected: of P bytes of parameters, n
devices send 2 P (n - 1) / n each where all hold them, in one process or in several, and half as
much again where each holds a part, until no axis of an array divides by n; the arithmetic of a
device is 1 / n of one device's.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from experiments import _harness as harness
from experiments._harness import Metric
from experiments._launch import free_port
from jaxgen.core import check_count

MODELS: dict[str, dict[str, Any]] = {
    "vae": {"kind": "vae", "num_dims": 784, "num_latents": 50, "num_hidden": 200},
    "base": {"num_symbols": 50_257, "num_dims": 1024, "width": 768, "num_layers": 12},
    "tenfold": {"num_symbols": 50_257, "num_dims": 1024, "width": 2048, "num_layers": 28},
    "smoke": {"num_symbols": 5, "num_dims": 6, "width": 64, "num_layers": 2},
}
SHARDINGS = ("replicated", "fully_sharded")
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run."""

    seed: int = 0
    """Of nothing: no number is drawn."""
    run_dir: pathlib.Path = pathlib.Path("runs/scaling")
    """Folder of the run."""
    models: tuple[str, ...] = ("base", "tenfold")
    """Transformers."""
    num_devices: tuple[int, ...] = (1, 8, 64, 512)
    """Devices that share a step of those."""
    batch_size: int = 64
    """Sequences in a step, or as many as devices where those are more."""
    num_vae_devices: tuple[int, ...] = (1, 2, 4, 8)
    """Devices that share a step of the VAE, of 100 images each."""
    num_vae_processes: tuple[int, ...] = (2,)
    """Processes that do, of one device each."""

    def __post_init__(self) -> None:
        """Check names and counts."""
        check_count("batch_size", self.batch_size)
        for count in (*self.num_devices, *self.num_vae_devices, *self.num_vae_processes):
            check_count("num_devices", count)
        if unknown := set(self.models) - set(MODELS):
            raise ValueError(f"models must be some of {tuple(MODELS)}, got {sorted(unknown)}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(
            models=("smoke",),
            num_devices=(2,),
            batch_size=2,
            num_vae_devices=(),
            num_vae_processes=(),
        )


def main(config: Config) -> dict[str, Metric]:
    """Compile every program, and gather what was read."""
    run = harness.start(config, "scaling")
    programs = list(all_programs(config))
    found = {row["name"]: row for row in run.rows("program")}
    by_count: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for program in programs:
        if program["name"] not in found:
            count = program["num_processes"], program["num_devices"]
            by_count.setdefault(count, []).append(program)
    with harness.progress_bar("programs", len(programs)) as update:

        def compile_all(todo: list[dict[str, Any]]) -> None:
            for row in compiled(todo):
                found[row["name"]] = row
                run.log(stage="program", **row)
                update(len(found), row["name"])

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_all, by_count.values()))
    metrics = {}
    for program in programs:
        for column, value in columns(found[program["name"]]).items():
            metrics[f"{program['name']}/{column}"] = Metric(value)
    return run.finish(metrics)


def all_programs(config: Config) -> Iterator[dict[str, Any]]:
    """What to compile; on one device both shardings are the same."""
    for count in config.num_vae_devices:
        yield _program("vae", "replicated", count, 100 * count)
    for count in config.num_vae_processes:
        yield _program("vae", "replicated", count, 100 * count, num_processes=count)
    for name in config.models:
        for count in config.num_devices:
            for sharding in SHARDINGS[: 1 if count == 1 else 2]:
                yield _program(name, sharding, count, max(count, config.batch_size))


def _program(
    model: str, param_sharding: str, num_devices: int, batch_size: int, num_processes: int = 1
) -> dict[str, Any]:
    layout = "one" if num_devices == 1 else param_sharding
    layout = layout if num_processes == 1 else f"{layout}_{num_processes}_processes"
    return {
        "name": f"{model}/{layout}/{num_devices}",
        "num_processes": num_processes,
        "model": MODELS[model],
        "param_sharding": param_sharding,
        "num_devices": num_devices,
        "batch_size": batch_size,
    }


def compiled(programs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is read off each; in a process that has so many devices, or several that share them."""
    command = [sys.executable, "-m", "experiments._step_program", json.dumps(programs)]
    path = os.pathsep.join([str(harness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [*command, address, str(number)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for number in range(programs[0]["num_processes"])
    ]
    outputs = [process.stdout for process in processes]
    assert outputs[0] is not None
    for line in outputs[0]:  # the others print the same
        yield json.loads(line)
    for process in processes:
        process.communicate()
    if worst := max(abs(process.returncode) for process in processes):
        raise ChildProcessError(
            f"compiling for {programs[0]['num_devices']} devices ended with {worst}"
        )


def columns(row: dict[str, Any]) -> dict[str, float]:
    """What the table says of a program; bytes are those that a device sends in a step."""
    sent = row["sent"]
    named = {kind: sent.get(kind, 0.0) for kind in ("all-gather", "all-reduce")}
    return {
        "batch": row["batch_size"],
        "params_gib": row["num_param_bytes"] / GIB,
        "state_gib": row["argument_bytes"] / GIB,
        "memory_gib": row["peak_bytes"] / GIB,
        "tflop": row["flops"] / 1e12,
        "gathered_gib": named["all-gather"] / GIB,
        "reduced_gib": named["all-reduce"] / GIB,
        "other_gib": (sum(sent.values()) - sum(named.values())) / GIB,
    }


if __name__ == "__main__":
    harness.run_experiment(Config, main)
