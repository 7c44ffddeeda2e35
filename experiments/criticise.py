"""Ask of every published model whether it is believable, and what is wrong with it if not.

    python -m experiments.criticise --row dynamic/nade

About 20 minutes on two CPU cores without a row, which takes all whose weights are published. Data
are test images (or windows of text), which no model was trained or chosen on: 2,000 of them, or
fewer of many gray levels, as their conditionals would fill the memory. `failing` counts the
findings that a right model gives with probability below 0.01 together; `_nats` is what mending one
of them alone would gain. Expected: nearly every model fails somewhere, as no model of real data is
right; what a fault costs tells which is worth mending. The report of each row is a text file
beside its page of figures.
"""

import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import (
    _autoregressive_rows,
    _criticism,
    _iwae_rows,
    autoregressive_images,
    shakespeare,
)
from experiments import _harness as harness
from experiments._harness import Metric
from experiments._mnist import PRETRAINED, SHAPE, dynamic_splits
from jaxgen.core import Params, check_count, check_one_of

CHAINS = {name: row.model for name, row in _autoregressive_rows.ROWS.items()}
LATENTS = {name: row.model for name, row in _iwae_rows.ROWS.items()}
TEXT = "shakespeare"


def weights(row: str) -> pathlib.Path:
    """Return the file with the published weights of a row, which may not be there."""
    return PRETRAINED / f"{row.replace('/', '_')}.safetensors"


ROWS = tuple(row for row in (*CHAINS, *LATENTS, TEXT) if weights(row).exists())


@dataclasses.dataclass(frozen=True)
class Config:
    """Which models, and how hard to look."""

    row: tuple[str, ...] = ()
    """Rows, named as in their tables; none takes all that are published."""
    seed: int = 0
    """Seed of all draws."""
    num_points: int = 2000
    """Test points to look at, at random."""
    num_samples: int = 1000
    """Draws of each model."""
    run_dir: pathlib.Path = pathlib.Path("runs/criticise")
    """Folder of the run."""
    is_smoke: bool = False
    """Criticize an untrained model of made-up images, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        for row in self.row:
            check_one_of("row", row, ROWS)
        check_count("num_points", self.num_points, minimum=10)
        check_count("num_samples", self.num_samples, minimum=10)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(num_points=20, num_samples=20, is_smoke=True)


class Subject(NamedTuple):
    """A model to look at.

    Attributes:
      model: under either contract.
      params: its parameters.
      train: what copies are looked for among, or None.
      test: data that it was not trained on, `[N, D]`.
      shape: how coordinates are laid out in a figure.
    """

    model: Any
    params: Params
    train: np.ndarray | None
    test: np.ndarray
    shape: tuple[int, int]


def main(config: Config) -> dict[str, Metric]:
    """Look at each row; see the module docstring."""
    run = harness.start(config, "criticise")
    rows = ("made_up",) if config.is_smoke else config.row or ROWS
    metrics: dict[str, Metric] = {}
    for i, row in enumerate(rows):
        choose_key, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), i))
        subject = made_up() if config.is_smoke else load(row)
        order = np.asarray(jax.random.permutation(choose_key, len(subject.test)))
        most = most_points(subject.model)
        x = subject.test[order[: min(config.num_points, most)]]
        result = jg.criticise(
            key,
            subject.model,
            subject.params,
            x,
            train=subject.train,
            image_shape=None if row == TEXT else subject.shape,
            num_samples=min(config.num_samples, most),
        )
        print(f"{row}: {result}\n")
        name = row.replace("/", "_")
        harness.write_text(run.path / f"{name}.txt", f"{result}\n")
        run.save_figure(_criticism.page(result, subject.shape, row), f"{name}.png")
        metrics |= _criticism.metrics(row, result, len(x))
    return run.finish(metrics)


def most_points(model: Any) -> int:
    """Return how many points a criticism can hold the conditionals of, several times, in memory."""
    return max(100, 2**26 // (model.num_dims * model.num_symbols))


def load(row: str) -> Subject:
    """Return a published model with its data."""
    if row == TEXT:
        return load_text()
    model: Any = CHAINS.get(row, LATENTS.get(row))
    rows, *others = getattr(model, "image_shape", SHAPE)
    if row in CHAINS:
        kind = _autoregressive_rows.ROWS[row].data
        splits = autoregressive_images.load(kind, autoregressive_images.Config(row=row))
    else:
        splits = dynamic_splits(is_smoke=False, trains_on_valid=True)
    train = splits.train.get("x")
    if train is None:
        gray, index = splits.train["gray"][:20_000], splits.train["index"][:20_000]
        train = np.asarray(jg.data.binarize(jax.random.key(3), jnp.asarray(gray), index))
    template = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, model.num_dims), jnp.int32))
    )
    params = jg.training.load_weights(weights(row), template)
    shape = rows, math.prod(others)
    return Subject(model, params, train[:20_000], splits.test.astype(np.int32), shape)


def load_text() -> Subject:
    """Return the published model of text at its fitted temperature, and windows to test."""
    setting = shakespeare.SETTINGS["cpu"]
    data = shakespeare.load("cpu")
    model = setting.module(data.vocabulary.num_symbols)
    template = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, setting.context), jnp.int32))
    )
    params = jg.training.load_weights(weights(TEXT), template)
    _, params = shakespeare.calibrated(model, params, data)
    length = setting.context
    count = len(data.test) // length
    x = np.asarray(data.test[: count * length]).reshape(count, length)
    return Subject(model, params, None, x.astype(np.int32), (8, length // 8))


def made_up() -> Subject:
    """Return an untrained model of made-up images."""
    model = jg.MADE(16, 2, (4,))
    x = np.random.default_rng(0).integers(0, 2, (60, 16))
    return Subject(model, model.init(jax.random.key(0), x[:1]), x[:20], x[20:], (4, 4))


if __name__ == "__main__":
    harness.run_experiment(Config, main)
