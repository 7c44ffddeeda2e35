"""Rows of the autoregressive benchmark for the Gated PixelCNN, against pytorch-generative.

The peer is on no package registry: its rows need a folder with its source. Hyper-parameters are
equal; the peer's vertical stack also has a 1x1 convolution that ours does without. Sampling of the
peer is one full pass a pixel, of which a stated number are timed and counted for all.
"""

import functools
import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare
from jaxgen.core import Array, Key, Params

PEER = "pytorch-generative"
SHAPE, NUM_DIMS = (28, 28), 784


def pixelcnn_rows(
    seed: int,
    peer_folder: pathlib.Path | None,
    *,
    width: int = 32,
    num_layers: int = 5,
    batch_size: int = 16,
    num_steps: int = 4,
    num_peer_pixels: int = 8,
    num_repeats: int = 7,
) -> list[Row]:
    """A training step, and sampling.

    Args:
      seed: of weights, images and uniforms.
      peer_folder: a checkout of pytorch-generative; None, or one without it, leaves the rows out
        and says so.
      width: channels.
      num_layers: layers, the first one included.
      batch_size: images in a step, and images drawn.
      num_steps: training steps timed at once.
      num_peer_pixels: full passes of the peer that are timed; it needs 784.
      num_repeats: pairs of timings.
    """
    peer_class = load_peer(peer_folder)
    if peer_class is None:
        print(f"{PEER} is not in {peer_folder}; the rows of the Gated PixelCNN are left out")
        return []
    module = jg.GatedPixelCNN(SHAPE, 2, width=width, num_layers=num_layers)
    peer = peer_class(1, 1, num_layers - 1, width, module.head_width)
    x = np.random.default_rng(seed).integers(0, 2, (batch_size, NUM_DIMS)).astype(np.int32)
    params = jax.jit(module.init)(jax.random.key(seed), x)
    label = f"gated_pixelcnn_{num_layers}x{width}"
    step = compare(
        f"{label}_training",
        ours_training(module, params, x, num_steps),
        peer_training(peer, x, num_steps),
        num_items=num_steps * batch_size,
        peer=PEER,
        num_repeats=num_repeats,
    )
    return [step, sampling_row(label, module, params, peer, x, seed, num_peer_pixels, num_repeats)]


def load_peer(folder: pathlib.Path | None) -> Any:
    """The peer's class, or None; only its model's module is loaded, which needs PyTorch alone."""
    if folder is None or not (folder / "pytorch_generative").is_dir():
        return None
    for name in ("pytorch_generative", "pytorch_generative.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.path.insert(0, str(folder))
    path = "pytorch_generative.models.autoregressive.gated_pixel_cnn"
    return importlib.import_module(path).GatedPixelCNN


def ours_training(
    module: jg.GatedPixelCNN, params: Params, x: np.ndarray, num_steps: int
) -> Callable[[], Any]:
    """Steps of Adam in one dispatch."""

    def loss_fn(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(module.log_prob(params, batch))

    optimizer = optax.adam(1e-3)
    scan = jg.training.build_scan(jg.training.build_step(loss_fn, optimizer))
    state = [jg.training.init_state(params, optimizer)]
    indices = jnp.broadcast_to(jnp.arange(len(x)), (num_steps, len(x)))
    key, data = jax.random.key(0), jnp.asarray(x)

    def run() -> Array:
        state[0], metrics = scan(key, state[0], data, indices)
        return metrics.loss

    return run


def peer_training(peer: Any, x: np.ndarray, num_steps: int) -> Callable[[], Any]:
    """The same steps in PyTorch."""
    import torch

    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-3)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, *SHAPE)
    nats = functools.partial(torch.nn.functional.binary_cross_entropy_with_logits, reduction="none")

    def run() -> None:
        for _ in range(num_steps):
            optimizer.zero_grad()
            nats(peer(images), images).sum((1, 2, 3)).mean().backward()
            optimizer.step()

    return run


def sampling_row(
    label: str,
    module: jg.GatedPixelCNN,
    params: Params,
    peer: Any,
    x: np.ndarray,
    seed: int,
    num_peer_pixels: int,
    num_repeats: int,
) -> Row:
    """Images from uniforms, against the peer's passes for some pixels, counted for all of them."""
    import torch

    u = jax.random.uniform(jax.random.key(seed + 1), x.shape)
    draw = jax.jit(jg.samplers.quantile)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, *SHAPE)

    def passes() -> None:
        with torch.no_grad():
            for _ in range(num_peer_pixels):
                torch.bernoulli(torch.sigmoid(peer(images)[..., 0, 0]))

    drawn = draw(module, params, u).x
    naive = jg.samplers.categorical_quantile(jax.jit(module.logits)(params, drawn), u)
    row = compare(
        f"{label}_sampling",
        lambda: draw(module, params, u),
        passes,
        num_items=x.size,
        peer=f"{PEER}, {num_peer_pixels} of {NUM_DIMS} pixels timed",
        accuracy=f"equals our naive sampler: {bool(jnp.all(naive == drawn))}",
        num_repeats=num_repeats,
    )
    share = NUM_DIMS / num_peer_pixels
    return row._replace(ratio=row.ratio * share, peer_ns=row.peer_ns * share)
