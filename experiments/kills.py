"""Kill a training at random moments, and see that it ends with the numbers it would have had.

    python -m experiments.kills

About 6 minutes on two CPU cores. A training on four devices, each with a part of all parameters,
of data that are read as a stream, saves behind every dispatch. It is killed at random moments after
its start, every other time when a checkpoint is next being written, by SIGKILL or SIGTERM, and the
same command goes on until it ends; then the next begins. Expected: all that ended have parameters,
validation and steps of one that was not killed, bit for bit, and half of the kills came while a
checkpoint was being written.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

from experiments import _harness as harness
from experiments._harness import Metric
from jaxgen.core import check_count

PATIENCE = 120  # seconds for a training that was told to stop


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of the moments and signals."""
    run_dir: pathlib.Path = pathlib.Path("runs/kills")
    """Folder of the run."""
    num_kills: int = 50
    """Kills in all."""
    num_devices: int = 4
    """Devices that train, made of the CPU's threads."""
    num_steps: int = 2000
    """Steps of the training."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_kills", "num_devices", "num_steps"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_kills=1, num_devices=2, num_steps=300)


class Training:
    """One training in a folder of its own, started as often as it takes."""

    def __init__(self, config: Config, folder: pathlib.Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.end, self.config = folder, folder / "end.json", config
        self.left: dict[str, int] = {}  # of saves that were cut off before

    def start(self) -> subprocess.Popen:
        """Start it, or go on."""
        self.left = self._begun()
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes = (str(self.config.num_devices), str(self.config.num_steps))
        arguments = (str(self.folder / "checkpoints"), *sizes, str(self.end))
        path = os.pathsep.join([str(harness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, "-m", "experiments._kills_training", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
        )

    def is_saving(self) -> bool:
        """Whether a checkpoint was begun since the start and did not end."""
        return bool(self._begun().items() - self.left.items())

    def _begun(self) -> dict[str, int]:
        """Folders of checkpoints that did not end, and when each last changed."""
        found = {}
        for path in (self.folder / "checkpoints").glob("*tmp*"):
            with contextlib.suppress(FileNotFoundError):  # it has ended
                found[path.name] = path.stat().st_ctime_ns
        return found

    def result(self) -> str | None:
        """What it ended with, or None before."""
        return self.end.read_text() if self.end.exists() else None


def main(config: Config) -> dict[str, Metric]:
    """Train once undisturbed, then kill; see the module docstring."""
    run = harness.start(config, "kills")
    rng = np.random.default_rng(config.seed)
    straight = Training(config, config.run_dir / "straight")
    start = time.monotonic()
    if straight.start().wait() or straight.result() is None:
        raise RuntimeError("the training ends with an error where nothing kills it")
    seconds = time.monotonic() - start
    counts = dict.fromkeys(("kills", "sigterms", "while_saving", "ended", "as_undisturbed"), 0)
    with harness.progress_bar("kills", config.num_kills) as update:
        while counts["kills"] < config.num_kills or counts["ended"] == 0:
            killed = Training(config, config.run_dir / "killed")
            while killed.result() is None:
                process = killed.start()
                moment = rng.uniform(0, seconds) if counts["kills"] < config.num_kills else None
                is_told, in_save = (bool(one) for one in rng.integers(2, size=2))
                kill(process, moment, is_told, in_save, killed, counts)
                update(counts["kills"], f"{counts['ended']} trainings ended")
            counts["ended"] += 1
            counts["as_undisturbed"] += killed.result() == straight.result()
            run.log(stage="training", step=counts["ended"], **counts)
    return run.finish({name: Metric(count) for name, count in counts.items()})


def kill(
    process: subprocess.Popen,
    moment: float | None,
    is_told: bool,
    in_save: bool,
    training: Training,
    counts: dict[str, int],
) -> None:
    """Wait for the moment, or for the end, and kill what still runs; told, it may save."""
    try:
        code: int | None = process.wait(moment)
    except subprocess.TimeoutExpired:
        while in_save and process.poll() is None and not training.is_saving():
            time.sleep(1e-3)
        code = process.poll()
    if code is not None:
        if training.result() is None:
            raise RuntimeError(f"a training that nothing killed ended with {code}")
        return
    counts["while_saving"] += training.is_saving()
    process.send_signal(signal.SIGTERM if is_told else signal.SIGKILL)
    process.wait(PATIENCE)
    counts["kills"] += 1
    counts["sigterms"] += is_told


if __name__ == "__main__":
    harness.run_experiment(Config, main)
