"""Image models against PyTorch, eager and compiled: training steps, and sampling of PixelSNAIL.

    python -m experiments.benchmarks.images

About 2 minutes. One process on one core, ours and the peer in turn, medians over pairs. The peers
are the same networks in PyTorch, which `torch.compile` needs a C++ compiler for; without one, or
without PyTorch, rows are left out, and a line says so. Of sampling by a full pass a pixel, a stated
number of passes is timed and counted for all pixels. Expected: a step of PixelSNAIL about as fast
as the compiled one, that of the deep VAE twice as fast; sampling at least 300 times as fast.
"""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments.benchmarks._timing import (
    Row,
    as_metrics,
    compare,
    compare_with_torch,
    print_rows,
    use_one_core,
)
from jaxgen.core import Array, Key, Params, check_count

LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of weights, images and uniforms."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_images")
    """Folder of the run."""
    num_repeats: int = 7
    """Pairs of timings."""
    batch_size: int = 25
    """Images in a training step, and images drawn."""
    num_steps: int = 4
    """Training steps in one timing."""
    num_passes: int = 8
    """Full passes of the peer that are timed, for one a pixel."""
    is_smoke: bool = False
    """Use tiny models, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_repeats", "batch_size", "num_steps", "num_passes"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_repeats=1, batch_size=2, num_steps=1, num_passes=1, is_smoke=True)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time every row and print the table."""
    run = harness.start(config, "benchmarks.images")
    rows: list[Row] = []
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed; all rows are left out")
    else:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        with jax.debug_key_reuse(False):  # timings repeat one piece of work, key included
            for measure in (pixelsnail_rows, deep_vae_rows):
                rows += measure(config)
                run.log(stage="rows", step=len(rows))
    print_rows(rows)
    return run.finish(as_metrics(rows))


def pixelsnail_rows(config: Config) -> list[Row]:
    """A training step, and sampling; both sides have the very weights."""
    from experiments.benchmarks import _images_torch as peers

    if config.is_smoke:
        module = jg.PixelSNAIL((4, 4), 2, 8, 1, 1, num_heads=1)
    else:
        module = jg.PixelSNAIL((28, 28), 2, 24, 2, 4, num_heads=1)
    x = bits(config, module.num_dims)
    params = jax.jit(module.init)(jax.random.key(config.seed), x)

    def loss_fn(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(module.log_prob(params, batch))

    peer = peers.PixelSNAIL(module, params)
    theirs = peer.nats(as_floats(x)).detach().numpy()
    difference = np.abs(theirs + jax.jit(module.log_prob)(params, x)).max()
    accuracy = f"log p differs by {difference:.1e} nats at most"
    rows = training_rows(
        "pixelsnail", config, loss_fn, params, x, lambda: peers.PixelSNAIL(module, params), accuracy
    )
    return [*rows, sampling_row(config, module, params, peer)]


def deep_vae_rows(config: Config) -> list[Row]:
    """A training step of a deep hierarchical VAE on the ELBO of one sample."""
    from experiments.benchmarks import _images_torch as peers

    scale = jg.models.Scale
    if config.is_smoke:
        module = jg.DeepHierarchicalVAE(16, 2, (4, 4), (scale(2, 4, 2, 1, 1), scale(2, 4, 2, 1, 1)))
    else:
        scales = scale(4, 48, 24, 3, 1), scale(7, 128, 128, 4, 8)
        module = jg.DeepHierarchicalVAE(784, 2, (28, 28), scales)
    x = bits(config, module.num_dims)
    params = jax.jit(module.init)(jax.random.key(config.seed), x)

    def loss_fn(key: Key, params: Params, batch: Array, step: Array) -> Array:
        terms = module.evidence_terms(key, params, batch, num_samples=1)
        return jnp.mean(jnp.sum(terms.kl, axis=0) - terms.log_likelihood)

    return training_rows("deep_vae", config, loss_fn, params, x, lambda: peers.DeepVAE(module), "")


def training_rows(
    name: str,
    config: Config,
    loss_fn: Callable[..., Any],
    params: Params,
    x: np.ndarray,
    build_peer: Callable[[], Any],
    accuracy: str,
) -> list[Row]:
    """Steps of Adam in one dispatch, against PyTorch's, eager and compiled."""
    from experiments.benchmarks import _images_torch as peers

    optimizer = optax.adam(LEARNING_RATE)
    scan = jg.training.build_scan(jg.training.build_step(loss_fn, optimizer))
    state = [jg.training.init_state(params, optimizer)]
    indices = jnp.broadcast_to(jnp.arange(len(x)), (config.num_steps, len(x)))
    key, data = jax.random.key(0), jnp.asarray(x)

    def ours() -> Array:
        state[0], metrics = scan(key, state[0], data, indices)
        return metrics.loss

    def build(is_compiled: bool) -> Callable[[], Any]:
        arguments = build_peer(), x, config.num_steps, LEARNING_RATE
        return peers.training(*arguments, is_compiled=is_compiled)

    return compare_with_torch(
        (f"{name}_training_eager", f"{name}_training_compiled"),
        ours,
        build,
        num_items=config.num_steps * len(x),
        accuracy=accuracy,
        num_repeats=config.num_repeats,
    )


def sampling_row(config: Config, module: jg.PixelSNAIL, params: Params, peer: Any) -> Row:
    """Images from uniforms, against full passes of the peer for some pixels, counted for all."""
    import torch

    shape = config.batch_size, module.num_dims
    u = jax.random.uniform(jax.random.key(config.seed + 1), shape)
    draw = jax.jit(jg.samplers.quantile)
    drawn = draw(module, params, u).x
    images = as_floats(np.asarray(drawn))

    def passes() -> None:
        with torch.inference_mode():
            for _ in range(config.num_passes):
                torch.bernoulli(torch.sigmoid(peer(images)[:, 0]))

    naive = jg.samplers.categorical_quantile(jax.jit(module.logits)(params, drawn), u)
    row = compare(
        "pixelsnail_sampling",
        lambda: draw(module, params, u),
        passes,
        num_items=drawn.size,
        peer=f"torch, eager, a pass a pixel; {config.num_passes} timed, for {module.num_dims}",
        accuracy=f"equals our naive sampler: {bool(jnp.all(naive == drawn))}",
        num_repeats=config.num_repeats,
    )
    share = module.num_dims / config.num_passes
    return row._replace(ratio=row.ratio * share, peer_ns=row.peer_ns * share)


def bits(config: Config, num_dims: int) -> np.ndarray:
    """Images of random bits, int32 `[B, D]`."""
    generator = np.random.default_rng(config.seed)
    return generator.integers(0, 2, (config.batch_size, num_dims)).astype(np.int32)


def as_floats(x: np.ndarray) -> Any:
    """Return images as PyTorch's floats."""
    import torch

    return torch.tensor(x, dtype=torch.float32)


if __name__ == "__main__":
    use_one_core()
    harness.run_experiment(Config, main)
