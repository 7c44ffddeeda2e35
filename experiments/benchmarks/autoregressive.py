"""Autoregressive models against PyTorch and pytorch-generative: sampling and training.

    python -m experiments.benchmarks.autoregressive --peer-folder PATH

About 5 minutes. One process on one core, ours and the peer in turn, medians over pairs. PATH is a
folder with a checkout of pytorch-generative, which is not released as a package; without it the
rows of the Gated PixelCNN are left out, and a line says so. Training steps are held against
PyTorch eager and compiled, which needs a C++ compiler. Expected: sampling some 200 times as fast as
full passes (MADE, PixelCNN, transformer), twice as fast as PyTorch with a cache; training steps as
fast as PyTorch's or faster; a sample 8 times as long costs 7 to 8 times as much.
"""

import dataclasses
import pathlib

import jax

from experiments import _harness as harness
from experiments.benchmarks import _autoregressive_made as made
from experiments.benchmarks import _autoregressive_transformer as transformer
from experiments.benchmarks._autoregressive_pixelcnn import pixelcnn_rows
from experiments.benchmarks._timing import Row, as_metrics, print_rows, use_one_core
from jaxgen.core import check_count


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of weights, data and uniforms."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_autoregressive")
    """Folder of the run."""
    peer_folder: pathlib.Path | None = None
    """A checkout of pytorch-generative; None leaves its rows out."""
    num_repeats: int = 7
    """Pairs of timings."""
    is_smoke: bool = False
    """Use tiny models, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("seed", self.seed, minimum=0)
        check_count("num_repeats", self.num_repeats)
        if self.peer_folder is not None and not self.peer_folder.is_dir():
            raise ValueError(f"peer_folder must be a folder that exists, got {self.peer_folder}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_repeats=1, is_smoke=True)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time every row and print the table."""
    run = harness.start(config, "benchmarks.autoregressive")
    made_sizes = made.SMOKE if config.is_smoke else made.Sizes()
    transformer_sizes = transformer.SMOKE if config.is_smoke else transformer.Sizes()
    rows: list[Row] = []
    with jax.debug_key_reuse(False):  # timings repeat one piece of work, key included
        for measure in (
            lambda: made.made_rows(config.seed, made_sizes, config.num_repeats),
            lambda: transformer.transformer_rows(
                config.seed, transformer_sizes, config.num_repeats
            ),
            lambda: pixelcnn_rows(config.seed, config.peer_folder, num_repeats=config.num_repeats),
        ):
            rows += measure()
            run.log(stage="rows", step=len(rows))
    print_rows(rows)
    return run.finish(as_metrics(rows))


if __name__ == "__main__":
    use_one_core()
    harness.run_experiment(Config, main)
