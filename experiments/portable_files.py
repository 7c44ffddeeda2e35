"""Write portable files, and read them under other settings of XLA, other batches, another Python.

    python -m experiments.portable_files --other-python ~/other/bin/python

About 5 minutes on two CPU cores. Published models write plain and portable files of the same data;
processes of their own then read them: with fast math, without fusion, without AVX and FMA as an
older processor has it, on one core, row by row, and by another Python with another JAX where one is
given. Expected: every portable file is read as it was written, and takes less than half a percent
more bits than the plain one; most plain files are refused; none is read wrongly.
"""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from typing import Any

import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments import compression
from experiments._harness import Metric
from jaxgen.core import check_count

FAST_MATH = " ".join(
    ["--xla_cpu_enable_fast_math=true"]
    + [f"--xla_cpu_fast_math_honor_{what}=false" for what in ("nans", "infs", "division")]
)
SETTINGS: dict[str, tuple[str, list[str], list[str]]] = {  # flags of XLA, prefix, arguments
    "same": ("", [], []),
    "fast_math": (FAST_MATH, [], []),
    "no_fusion": ("--xla_disable_hlo_passes=fusion --xla_backend_optimization_level=0", [], []),
    "no_avx": ("--xla_cpu_max_isa=SSE4_2", [], []),
    "one_core": ("", ["taskset", "-c", "0"], []),
    "one_at_a_time": ("", [], ["--one-at-a-time"]),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of the choice of images."""
    run_dir: pathlib.Path = pathlib.Path("runs/portable_files")
    """Folder of the run."""
    num_images: int = 200
    """Test images in a file."""
    num_characters: int = 12_800
    """Characters of the test text in a file."""
    other_python: pathlib.Path | None = None
    """Another interpreter, with what the project depends on."""
    settings: tuple[str, ...] = ()
    """In which to read; none takes all."""
    is_smoke: bool = False
    """Use made-up images and a small model."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_images", self.num_images)
        check_count("num_characters", self.num_characters, minimum=compression.TEXT_ROWS)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_images=5, settings=("no_fusion",), is_smoke=True)


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "portable_files")
    metrics: dict[str, Metric] = {}
    folder = run.path / "files"
    folder.mkdir(exist_ok=True)
    of_compression = compression.Config(
        seed=config.seed, num_images=config.num_images, num_characters=config.num_characters
    )
    tasks = (compression.smoke_tasks if config.is_smoke else compression.all_tasks)(of_compression)
    for task in tasks:
        if isinstance(task.model, jg.AutoregressiveModel):
            metrics |= written(run, folder, task)
    readers = {name: (sys.executable, *SETTINGS[name]) for name in config.settings or SETTINGS}
    if config.other_python is not None:
        readers["other_python"] = (str(config.other_python), "", [], [])
    for name, (python, flags, prefix, arguments) in readers.items():
        if prefix and shutil.which(prefix[0]) is None:
            continue
        told = read_elsewhere(python, flags, prefix, [str(folder), *arguments])
        run.log(stage=name, **told)
        for what in ("same", "refused", "wrong"):
            for kind in ("plain", "portable"):
                count = sum(
                    outcome == what and file.endswith(kind)
                    for file, outcome in told["read"].items()
                )
                metrics[f"{name}/{kind}/{what}"] = Metric(count, None, len(told["read"]) // 2)
    return run.finish(metrics)


def written(run: harness.Run, folder: pathlib.Path, task: compression.Task) -> dict[str, Metric]:
    """Write both files of a model, and say what they took."""
    name, n = task.name.replace("/", "_"), len(task.x)
    jg.save(folder / f"{name}.safetensors", task.model, task.params)
    np.save(folder / f"{name}.npy", task.x)
    claimed = compression.claimed_bits(0, task)
    metrics: dict[str, Metric] = {}
    for kind in ("plain", "portable"):
        # Both compile once.
        file = jg.encode(task.model, task.params, task.x, is_portable=kind == "portable")
        jg.decode(task.model, task.params, file)
        start = seconds()
        file = jg.encode(task.model, task.params, task.x, is_portable=kind == "portable")
        encoded = seconds()
        jg.decode(task.model, task.params, file)
        (folder / f"{name}.{kind}.jxg").write_bytes(file)
        info = jg.coding.inspect(file)
        values: dict[str, Any] = {
            "percent_beyond_claim": 100 * (info.net_bits / claimed - 1),
            "encoding_cpu_seconds": encoded - start,
            "decoding_cpu_seconds": seconds() - encoded,
        }
        run.log(stage=f"{task.name}/{kind}", tolerance=info.tolerance, **values)
        metrics |= {f"{task.name}/{kind}/{what}": Metric(v, None, n) for what, v in values.items()}
    return metrics


def seconds() -> float:
    """Return the processor's seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_elsewhere(python: str, flags: str, prefix: list[str], arguments: list[str]) -> Any:
    """Read all files in a process of its own."""
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(harness.ROOT)}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [*prefix, python, "-m", "experiments._portable_reader", *arguments]
    done = subprocess.run(
        command,
        env=environment,
        cwd=pathlib.Path.cwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    harness.run_experiment(Config, main)
