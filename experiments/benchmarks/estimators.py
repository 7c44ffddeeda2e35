"""Importance-sampled log p(x) of a VAE with 5,000 samples a point, against PyTorch and pythae.

    python -m experiments.benchmarks.estimators

About 1 minute on one CPU core (`taskset -c 0`). The model is the 784-200-200-50 VAE of Burda et
al. (2015) with the same weights on every side. PyTorch streams whole chunks through fused kernels,
the chunk size and the form of the Bernoulli term chosen for it by a trial; pythae runs its own
`get_nll`. A peer that is not installed (`pip install .[bench]`) is left out, and a line says so.
Expected: faster than both.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments.benchmarks._timing import Row, as_metrics, compare, print_rows
from jaxgen.core import Params, check_count, check_multiple

MODEL = jg.VAE(num_dims=784, num_symbols=2, num_latents=50, hidden_sizes=(200, 200))
CHUNK_SIZE = 50


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of weights, data and samples."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_estimators")
    """Folder of the run."""
    num_points: int = 20
    """Data points evaluated at once."""
    num_samples: int = 5000
    """Importance samples for each of them, a multiple of 50."""
    num_repeats: int = 7
    """Pairs of timings."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("num_points", "num_repeats"):
            check_count(name, getattr(self, name))
        check_multiple("num_samples", self.num_samples, 50)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_points=2, num_samples=100, num_repeats=1)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time every peer that is installed."""
    run = harness.start(config, "benchmarks.estimators")
    params, x = build(config)
    ours = ours_fn(config, params, x)
    peers: dict[str, Callable] = {"torch": torch_fn, "pythae": pythae_fn}
    rows: list[Row] = []
    for name, build_peer in peers.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed; its row is left out")
            continue
        peer = build_peer(config, params, x)
        difference = float(np.mean(np.asarray(ours()))) - float(np.mean(np.asarray(peer())))
        rows.append(
            compare(
                f"log_prob_{name}",
                ours,
                peer,
                num_items=config.num_points * config.num_samples,
                peer=name,
                accuracy=f"mean log p(x) differs by {difference:+.3f} nats",
                num_repeats=config.num_repeats,
            )
        )
    print_rows(rows)
    return run.finish(as_metrics(rows))


def build(config: Config) -> tuple[Params, np.ndarray]:
    """Random weights, and points that the model itself drew.

    The paths through z are made weak, so that no importance weight dominates and the answers of
    different random numbers can be compared.
    """
    init_key, z_key, x_key = jax.random.split(jax.random.key(config.seed), 3)
    params = MODEL.init(init_key, jnp.zeros((1, 784), jnp.int32))
    for name in ("posterior_mean", "decoder_0"):
        params["params"][name]["kernel"] *= 0.1
    z = MODEL.prior(params).sample(seed=z_key, sample_shape=(config.num_points,))
    return params, np.asarray(MODEL.likelihood(params, z).sample(seed=x_key), np.int32)


def ours_fn(config: Config, params: Params, x: np.ndarray) -> Callable[[], jax.Array]:
    """The library's streamed estimate, compiled."""
    estimate = functools.partial(
        jg.objectives.importance_log_prob, num_samples=config.num_samples, chunk_size=CHUNK_SIZE
    )
    compiled = jax.jit(lambda key, params, x: estimate(key, MODEL, params, x).value)
    key = jax.random.key(config.seed + 1)
    return lambda: compiled(key, params, x)


def torch_fn(config: Config, params: Params, x: np.ndarray) -> Callable[[], Any]:
    """PyTorch with the fastest of several chunk sizes and both forms of the Bernoulli term."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    weights = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params["params"])
    data = torch.tensor(x, dtype=torch.float32)
    forms = {
        "fused": lambda logits, x: (
            -torch.nn.functional.binary_cross_entropy_with_logits(
                logits, x.expand_as(logits), reduction="none"
            ).sum(-1)
        ),
        "softplus": lambda logits, x: logits @ x - torch.nn.functional.softplus(logits).sum(-1),
    }
    sizes = [size for size in (100, 250, 500, 1000, 2500, 5000) if size <= config.num_samples]
    candidates = [
        functools.partial(torch_log_prob, weights, data, config.num_samples, size, form)
        for size in sizes
        for form in forms.values()
    ]
    return min(candidates, key=_seconds_of)


def torch_log_prob(
    weights: dict, data: Any, num_samples: int, chunk_size: int, log_likelihood: Callable
) -> Any:
    """Importance-sampled log p(x) of each row of `data`."""
    import torch

    def dense(name: str, h: Any) -> Any:
        return torch.addmm(weights[name]["bias"], h, weights[name]["kernel"])

    def log_weights(x: Any, mean: Any, log_scale: Any) -> Any:
        noise = torch.randn(chunk_size, 50)
        z = mean + log_scale.exp() * noise
        h = torch.tanh(dense("decoder_1", torch.tanh(dense("decoder_0", z))))
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_scale.sum()
        return log_likelihood(dense("outputs", h), x) + log_ratio

    with torch.no_grad():
        h = torch.tanh(dense("encoder_1", torch.tanh(dense("encoder_0", data))))
        means, log_scales = dense("posterior_mean", h), dense("posterior_log_scale", h)
        rows = [
            torch.cat([log_weights(*point) for _ in range(num_samples // chunk_size)])
            for point in zip(data, means, log_scales, strict=True)
        ]
        return torch.logsumexp(torch.stack(rows), 1) - math.log(rows[0].numel())


def pythae_fn(config: Config, params: Params, x: np.ndarray) -> Callable[[], Any]:
    """The `VAE.get_nll` of pythae with the same networks; it returns log p(x), not its negative."""
    import torch
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    weights = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params["params"])

    def dense(name: str, h: Any) -> Any:
        return torch.addmm(weights[name]["bias"], h, weights[name]["kernel"])

    class Encoder(BaseEncoder):
        def forward(self, x: Any) -> ModelOutput:
            h = torch.tanh(dense("encoder_1", torch.tanh(dense("encoder_0", x))))
            log_scale = dense("posterior_log_scale", h)
            return ModelOutput(embedding=dense("posterior_mean", h), log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def forward(self, z: Any) -> ModelOutput:
            h = torch.tanh(dense("decoder_1", torch.tanh(dense("decoder_0", z))))
            return ModelOutput(reconstruction=torch.sigmoid(dense("outputs", h)))

    settings = VAEConfig(input_dim=(784,), latent_dim=50, reconstruction_loss="bce")
    model = PythaeVAE(settings, Encoder(), Decoder()).eval()
    data = torch.tensor(x, dtype=torch.float32)

    def run() -> Any:
        with torch.no_grad():
            return model.get_nll(data, n_samples=config.num_samples, batch_size=100)

    return run


def _seconds_of(function: Callable[[], Any]) -> float:
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    harness.run_experiment(Config, main)
