"""Training steps of VAEs with 1 and 50 samples, against PyTorch and pythae.

    python -m experiments.benchmarks.latent

About 6 minutes on one CPU core. The model is the 784-200-200-50 VAE of Burda et al. (2015), a step
is a batch of 100 images under Adam: with one sample the ELBO, with 50 the importance-weighted
bound; then a VAE with convolutions of 16 and 32 channels and one sample; then our step with 50
samples and a gradient through one of them, resampled, against ours through all; last the gradient
of our linear layer, with two leading axes, against Flax's and against ours with the bias added,
which is a product in ours. Ours runs its steps as one scan, and takes the norm of each gradient,
which the peers do not; PyTorch and pythae run a call a step, as their users do, PyTorch also by
`torch.compile`, which needs a C++ compiler. A peer that is not installed (`pip install .[bench]`)
is left out, and a line says so. On Linux freed memory is kept, the peers' best case. Expected:
every row above 1 but perhaps the convolutions; all depend on the machine.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import math
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

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
from jaxgen.models.layers._linear import Dense

MODEL = jg.VAE(num_dims=784, num_symbols=2, num_latents=50, hidden_sizes=(200, 200))
CHANNELS = (16, 32)
CONVOLUTIONAL = jg.VAE(784, 2, 50, (200,), convolutions=jg.models.Convolutions((28, 28), CHANNELS))
LEARNING_RATE = 1e-3
PEERS = ("torch", "pythae")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of weights, data and samples."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_latent")
    """Folder of the run."""
    batch_size: int = 100
    """Images in a step."""
    num_steps: int = 100
    """Steps in a timing with one sample; with 50 samples a tenth."""
    num_repeats: int = 15
    """Pairs of timings."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("batch_size", "num_steps", "num_repeats"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(batch_size=2, num_steps=10, num_repeats=1)


def main(config: Config) -> dict[str, harness.Metric]:
    """Time every peer that is installed."""
    run = harness.start(config, "benchmarks.latent")
    x = np.random.default_rng(config.seed).integers(0, 2, (config.batch_size, 784), np.uint8)
    few = math.ceil(config.num_steps / 10)
    rows: list[Row] = []
    is_installed = {name: importlib.util.find_spec(name) is not None for name in PEERS}
    for name in (name for name in PEERS if not is_installed[name]):
        print(f"{name} is not installed; its rows are left out")
    for label, model, num_samples, num_steps, build in (
        ("train_k1", MODEL, 1, config.num_steps, torch_steps),
        ("train_k50", MODEL, 50, few, torch_steps),
        ("train_convolutions", CONVOLUTIONAL, 1, few, torch_convolutional_steps),
    ):
        ours = our_steps(config, model, x, num_samples, num_steps)
        timing: Any = {"num_items": num_steps, "num_repeats": config.num_repeats}
        keep_freed_memory()
        if is_installed["torch"]:
            steps = functools.partial(build, x, num_samples, num_steps)
            names = f"{label}_torch", f"{label}_torch_compiled"
            rows += compare_with_torch(names, ours, steps, **timing)
        if is_installed["pythae"] and model is MODEL:
            peer_fn = pythae_steps(x, num_samples, num_steps)
            rows.append(compare(f"{label}_pythae", ours, peer_fn, peer="pythae", **timing))
    rows.append(
        compare(
            "train_k50_resampled",
            our_steps(config, MODEL, x, 50, few, resample=True),
            our_steps(config, MODEL, x, 50, few),
            num_items=few,
            peer="ours without",
            num_repeats=config.num_repeats,
        )
    )
    for name, peer, layer in (
        ("flax", "flax", nn.Dense),
        ("added_bias", "ours, bias added", Added),
    ):
        rows.append(
            compare(
                f"dense_gradient_{name}",
                dense_gradients(config, Dense, few),
                dense_gradients(config, layer, few),
                num_items=few,
                peer=peer,
                num_repeats=config.num_repeats,
            )
        )
    print_rows(rows)
    return run.finish(as_metrics(rows))


def keep_freed_memory() -> None:
    """Tell glibc to give no memory back, so that an eager step gets it without a page fault.

    Whether it does by itself depends on what the process did before, and the ratio with it.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4
        ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
        ctypes.CDLL(None).mallopt(mmap_max, 0)


def our_steps(
    config: Config,
    model: jg.VAE,
    x: np.ndarray,
    num_samples: int,
    num_steps: int,
    *,
    resample: bool = False,
) -> Callable[[], jax.Array]:
    """The library's steps as one dispatch, which goes on from where the last one ended."""

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        value = jg.iwae(key, model, params, batch["x"], num_samples=num_samples, resample=resample)
        return -jnp.mean(value)

    optimizer = optax.adam(LEARNING_RATE)
    scan = jg.training.build_scan(jg.training.build_step(loss, optimizer))
    key = jax.random.key(config.seed)
    states = [jg.training.init_state(model.init(key, x[:1]), optimizer)]
    indices = jnp.tile(jnp.arange(len(x)), (num_steps, 1))
    data = {"x": jnp.asarray(x)}

    def run() -> jax.Array:
        state, metrics = scan(key, states.pop(), data, indices)
        states.append(state)
        return metrics.loss

    return run


class Added(nn.Module):
    """Our linear layer with the bias added by broadcasting, instead of as a product."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """See the class."""
        bias = self.param("bias", nn.initializers.zeros, (1, 1, self.features))
        return jnp.asarray(Dense(self.features, use_bias=False)(x)) + bias


def dense_gradients(
    config: Config, layer: type[nn.Module], num_items: int
) -> Callable[[], jax.Array]:
    """Gradients of the output layer with 50 samples, as two leading axes, and of its input."""
    h = jax.random.normal(jax.random.key(config.seed), (50, config.batch_size, 200))
    module = layer(784)
    params = module.init(jax.random.key(config.seed + 1), h)

    def loss(both: tuple[Params, Array]) -> Array:
        return jnp.mean(jnp.asarray(module.apply(*both)) ** 2)

    @jax.jit
    def gradients(params: Params) -> tuple[Params, Array]:
        def body(both: tuple[Params, Array], _: None) -> tuple[tuple[Params, Array], None]:
            return optax.apply_updates(both, jax.grad(loss)(both)), None

        return jax.lax.scan(body, (params, h), length=num_items)[0]

    return lambda: gradients(params)


def torch_networks() -> tuple[Any, Any, Any, Any]:
    """Encoder, its two heads, and decoder, as PyTorch has them."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    linear, tanh = torch.nn.Linear, torch.nn.Tanh
    encoder = torch.nn.Sequential(linear(784, 200), tanh(), linear(200, 200), tanh())
    decoder = torch.nn.Sequential(
        linear(50, 200), tanh(), linear(200, 200), tanh(), linear(200, 784)
    )
    return encoder, linear(200, 50), linear(200, 50), decoder


def torch_steps(
    x: np.ndarray, num_samples: int, num_steps: int, is_compiled: bool
) -> Callable[[], None]:
    """The same step written for PyTorch, with its fused Bernoulli term."""
    return _torch_vae_steps(torch_networks(), x, num_samples, num_steps, is_compiled)


def _torch_vae_steps(
    networks: tuple[Any, Any, Any, Any],
    x: np.ndarray,
    num_samples: int,
    num_steps: int,
    is_compiled: bool,
) -> Callable[[], None]:
    import torch

    encoder, to_mean, to_log_scale, decoder = networks
    parts = torch.nn.ModuleList([encoder, to_mean, to_log_scale, decoder])
    optimizer = torch.optim.Adam(parts.parameters(), LEARNING_RATE)
    data = torch.tensor(x, dtype=torch.float32)

    def loss() -> Any:
        h = encoder(data)
        mean, log_scale = to_mean(h), to_log_scale(h)
        noise = torch.randn(num_samples, *mean.shape)
        z = mean + log_scale.exp() * noise
        logits = decoder(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
        log_likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits, data.expand_as(logits), reduction="none"
        ).sum(-1)
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_scale.sum(-1)
        log_w = log_likelihood + log_ratio
        return -(torch.logsumexp(log_w, 0) - math.log(num_samples)).mean()

    return _torch_loop(optimizer, torch.compile(loss) if is_compiled else loss, num_steps)


def torch_convolutional_steps(
    x: np.ndarray, num_samples: int, num_steps: int, is_compiled: bool
) -> Callable[[], None]:
    """The step of `CONVOLUTIONAL`, layer by layer the same."""
    import torch

    class Residual(torch.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(size, size, 3, padding=1)

        def forward(self, h: Any) -> Any:
            return h + gelu(self.layer(h))

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    linear, tanh = torch.nn.Linear, torch.nn.Tanh
    conv, gelu = torch.nn.Conv2d, torch.nn.GELU("tanh")
    first, second = CHANNELS
    encoder = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 28, 28)),
        *(conv(1, first, 3, stride=2, padding=1), gelu, Residual(first)),
        *(conv(first, second, 3, stride=2, padding=1), gelu, Residual(second)),
        *(torch.nn.Flatten(), linear(49 * second, 200), tanh()),
    )
    shuffle = torch.nn.PixelShuffle(2)
    decoder = torch.nn.Sequential(
        *(linear(50, 200), tanh(), linear(200, 49 * second), gelu),
        torch.nn.Unflatten(1, (second, 7, 7)),
        *(Residual(second), conv(second, 4 * first, 3, padding=1), shuffle, gelu),
        *(Residual(first), conv(first, 4 * first, 3, padding=1), shuffle, gelu),
        *(conv(first, 1, 1), torch.nn.Flatten()),
    )
    networks = encoder, linear(200, 50), linear(200, 50), decoder
    return _torch_vae_steps(networks, x, num_samples, num_steps, is_compiled)


def pythae_steps(x: np.ndarray, num_samples: int, num_steps: int) -> Callable[[], None]:
    """The `VAE` and `IWAE` of pythae with the same networks."""
    import torch
    from pythae.models import IWAE, IWAEConfig, VAEConfig
    from pythae.models import VAE as PythaeVAE
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    encoder, to_mean, to_log_scale, decoder = torch_networks()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.parts = torch.nn.ModuleList([encoder, to_mean, to_log_scale])

        def forward(self, x: Any) -> ModelOutput:
            h = self.parts[0](x)
            return ModelOutput(embedding=self.parts[1](h), log_covariance=self.parts[2](h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.layers = decoder

        def forward(self, z: Any) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    settings = {"input_dim": (784,), "latent_dim": 50, "reconstruction_loss": "bce"}
    if num_samples == 1:
        model = PythaeVAE(VAEConfig(**settings), Encoder(), Decoder())
    else:
        settings["number_samples"] = num_samples
        model = IWAE(IWAEConfig(**settings), Encoder(), Decoder())
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    data = {"data": torch.tensor(x, dtype=torch.float32)}
    return _torch_loop(optimizer, lambda: model(data).loss, num_steps)


def _torch_loop(optimizer: Any, loss: Callable[[], Any], num_steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    use_one_core()
    harness.run_experiment(Config, main)
