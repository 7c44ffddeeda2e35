"""Coding by autoregressive models, against a loop over coordinates around constriction's coder.

    python -m experiments.benchmarks.coding

About 15 minutes on two CPU cores. The peer is how one codes with a maintained coder: for each
coordinate a compiled step of the model, its softmax, and a call of constriction's range coder for
all rows. Both compute the same conditionals. Ours is one compiled program for each block of
coordinates. Expected: ten times as fast and more where rows are few; with many, the model's own
arithmetic is what takes the time.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments.benchmarks._timing import Row, as_metrics, compare, print_rows
from jaxgen.core import Array, Params, check_count


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of weights and data."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_coding")
    """Folder of the run."""
    num_rows: tuple[int, ...] = (1, 64, 1024)
    """Data points in a file."""
    num_repeats: int = 5
    """Pairs of timings."""
    is_smoke: bool = False
    """Take small models."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_repeats", self.num_repeats)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_rows=(2,), num_repeats=2, is_smoke=True)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time files of both models in both directions."""
    run = harness.start(config, "benchmarks.coding")
    models: dict[str, Any] = {
        "made": jg.MADE(784, 2, (500,)),
        "transformer": jg.CausalTransformer(128, 65, 128, 4, 4),
    }
    if config.is_smoke:
        models = {"made": jg.MADE(6, 2, (4,))}
    rows: list[Row] = []
    if importlib.util.find_spec("constriction") is None:
        print("constriction is not installed; there is nothing to compare with")
        models = {}
    for name, model in models.items():
        for num_rows in config.num_rows:
            rows += compare_both_ways(config, f"{name}/{num_rows}", model, num_rows)
    print_rows(rows)
    return run.finish(as_metrics(rows))


def compare_both_ways(config: Config, name: str, model: Any, num_rows: int) -> list[Row]:
    """Time encoding and decoding of the same symbols."""
    start = jnp.zeros((1, model.num_dims), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(config.seed), start)
    shape = (num_rows, model.num_dims)
    rng = np.random.default_rng(config.seed)
    x = rng.integers(0, model.num_symbols, shape).astype(np.int32)
    file, words = jg.encode(model, params, x), peer_encode(model, params, x)
    equal = np.array_equal(peer_decode(model, params, words, num_rows), x)
    accuracy = f"{len(file)} bytes, theirs {4 * len(words)} and no header; equal: {equal}"
    row = functools.partial(
        compare,
        num_items=x.size,
        peer="constriction in a loop",
        accuracy=accuracy,
        num_repeats=config.num_repeats,
    )
    return [
        row(
            f"encode_{name}",
            lambda: jg.encode(model, params, x),
            lambda: peer_encode(model, params, x),
        ),
        row(
            f"decode_{name}",
            lambda: jg.decode(model, params, file),
            lambda: peer_decode(model, params, words, num_rows),
        ),
    ]


def peer_encode(model: Any, params: Params, x: np.ndarray) -> np.ndarray:
    """Encode column by column."""
    import constriction

    coder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)

    def put(index: int, probabilities: np.ndarray) -> np.ndarray:
        column = np.ascontiguousarray(x[:, index])
        coder.encode(column, family, probabilities)
        return column

    walk(model, params, len(x), put)
    return coder.get_compressed()


def peer_decode(model: Any, params: Params, words: np.ndarray, num_rows: int) -> np.ndarray:
    """Decode column by column."""
    import constriction

    coder = constriction.stream.queue.RangeDecoder(words)
    family = constriction.stream.model.Categorical(perfect=False)
    x = np.zeros((num_rows, model.num_dims), np.int32)

    def get(index: int, probabilities: np.ndarray) -> np.ndarray:
        x[:, index] = coder.decode(family, probabilities)
        return x[:, index]

    walk(model, params, num_rows, get)
    return x


def walk(
    model: Any, params: Params, num_rows: int, symbols_fn: Callable[[int, np.ndarray], np.ndarray]
) -> None:
    """Go through the coordinates, exchanging conditionals for symbols."""
    cache = model.init_cache(params, num_rows)
    previous = np.zeros(num_rows, np.int32)
    for index in range(model.num_dims):
        probabilities, cache = conditional(model, params, cache, jnp.int32(index), previous)
        previous = symbols_fn(index, np.asarray(probabilities))


@jax.jit
def conditional(
    model: Any, params: Params, cache: Any, index: Array, previous: Array
) -> tuple[Array, Any]:
    """One step, and its probabilities."""
    outputs, cache = model.step(params, cache, index, previous)
    logits = model.conditional_or_default.logits(outputs)
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1), cache


if __name__ == "__main__":
    harness.run_experiment(Config, main)
