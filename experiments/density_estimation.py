"""Estimate densities of bits and of real numbers and hold them against the published ones.

    python -m experiments.density_estimation --row binary/nltcs/committees

Each row is a set and a model, with a folder of its own under `runs/density_estimation/`. It takes
between 1 and 10 minutes on two CPU cores, saves checkpoints, and goes on after an interruption.
Over bits a model is a mixture over orders of the coordinates; in each order, a committee of
networks averages every conditional. Over real numbers it is a mixture of flows or of MADEs, each
in an order of its own, or one normal distribution, which checks the preprocessing. All numbers are
log-likelihoods of a test example in nats (higher is better); whatever is chosen, epochs included,
is chosen on the validation split, and the test split is read once. Tables count in standardized
units, with errors over ten folds.

Expected: the table in docs/results.md, made by `python -m experiments._publish density_estimation`
from the folders of the rows.
"""

import dataclasses
import pathlib

from experiments import _harness as harness
from experiments._density_binary import run_binary
from experiments._density_real import run_real
from experiments._density_rows import BinaryRow
from experiments._density_table import ROWS
from experiments._harness import Metric
from jaxgen.core import check_count, check_one_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Which row to run."""

    row: str = "binary/nltcs/committees"
    """The row: data and model, as in `experiments/_density_table.py`."""
    seed: int = 0
    """Seed of initial weights, batches and dropout."""
    run_dir: pathlib.Path | None = None
    """Folder of the run; None is `runs/density_estimation/ROW`. An unfinished run goes on."""
    is_smoke: bool = False
    """Use a few made-up examples, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_one_of("row", self.row, tuple(ROWS))
        check_count("seed", self.seed, minimum=0)
        if self.run_dir is None:
            folder = pathlib.Path("runs/density_estimation") / self.row.replace("/", "_")
            object.__setattr__(self, "run_dir", folder)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(row="binary/smoke", is_smoke=True)


def main(config: Config) -> dict[str, Metric]:
    """Run one row; see the module docstring."""
    run = harness.start(config, "density_estimation")
    row = ROWS[config.row]
    metrics = run_binary(run, row) if isinstance(row, BinaryRow) else run_real(run, row)
    return run.finish(metrics)


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
