"""Rows of the autoregressive benchmark for MADE, and for how cost grows with length.

The peer is PyTorch, eager and for training steps compiled, with the very weights, uniforms and
batches; where it can be written in several ways, the fastest of them. Everything of ours is
compiled before it is timed.
"""

import functools
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare, compare_with_torch
from jaxgen.core import Array, Key, Params

LEARNING_RATE = 1e-3

quantile = jax.jit(jg.samplers.quantile)


class Sizes(NamedTuple):
    """How much work the rows are.

    Attributes:
      num_dims: D of the model that is compared with PyTorch.
      num_hidden: units of MADE's hidden layer.
      batch_size: data points drawn at once, or in a training step.
      num_steps: training steps in one timing.
      short_length: D of the shorter of two models; the longer has 8 times as many.
      width: channels of the linear recurrence, which has two layers.
    """

    num_dims: int = 784
    num_hidden: int = 500
    batch_size: int = 100
    num_steps: int = 100
    short_length: int = 196
    width: int = 64


SMOKE = Sizes(num_dims=6, num_hidden=5, batch_size=4, num_steps=2, short_length=3, width=4)


def made_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """Sampling and training against PyTorch, and sampling at two lengths."""
    rows = []
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed; its rows are left out")
    else:
        rows += [sampling_row(seed, sizes, num_repeats), *training_rows(seed, sizes, num_repeats)]
    return rows + length_rows(seed, sizes, num_repeats)


def sampling_row(seed: int, sizes: Sizes, num_repeats: int) -> Row:
    """All coordinates of a batch, against a full forward pass for each of them."""
    module = jg.MADE(sizes.num_dims, 2, (sizes.num_hidden,))
    params = random_params(jax.random.key(seed), module)
    u = np.random.default_rng(seed).random((sizes.batch_size, sizes.num_dims), np.float32)
    peer = torch_sampler(module, params, u)
    equal = np.mean(np.asarray(quantile(module, params, u).x) == peer().numpy())
    return compare(
        "made_sampling",
        lambda: quantile(module, params, u).x,
        peer,
        num_items=sizes.batch_size,
        peer="torch, a full pass for each pixel",
        accuracy=f"equal uniforms give equal symbols at {100 * equal:.3f} % of the pixels",
        num_repeats=num_repeats,
    )


def training_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """A step of Adam on the likelihood, ours in one scan of many, against PyTorch."""
    module = jg.MADE(sizes.num_dims, 2, (sizes.num_hidden,))
    params = random_params(jax.random.key(seed), module)
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 2, (20 * sizes.batch_size, sizes.num_dims), dtype=np.int32)
    indices = generator.integers(0, len(x), (sizes.num_steps, sizes.batch_size), dtype=np.int32)
    ours = our_training(module, params, x, indices)

    def build(is_compiled: bool) -> Callable[[], Any]:
        build_way = functools.partial(
            torch_training, module, params, x, indices, is_compiled=is_compiled
        )
        ways = [
            build_way(multiplies=multiplies, fused=fused)
            for multiplies in (False, True)
            for fused in (False, True)
        ]
        return min(ways, key=seconds_of)

    one = torch_training(
        module, params, x, indices, multiplies=False, fused=False, is_compiled=False
    )
    loss, peer_loss = float(ours()), float(one())
    return compare_with_torch(
        ("made_training_step", "made_training_step_compiled"),
        ours,
        build,
        num_items=sizes.num_steps,
        accuracy=f"loss after {sizes.num_steps} steps {loss:.3f}, theirs {peer_loss:.3f} nats",
        num_repeats=num_repeats,
    )


def length_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """Sampling at two lengths, 8 times apart; the ratio is how the cost of a sample grew."""
    builds: dict[str, Callable[[int], nn.Module]] = {
        "made": lambda length: jg.MADE(length, 2, (sizes.num_hidden,)),
        "linear_recurrence": lambda length: jg.LinearRecurrence(
            length, 2, width=sizes.width, num_layers=2
        ),
    }
    return [
        compare(
            f"{name}_8_times_as_long",
            sampler(seed, build(sizes.short_length), sizes.batch_size),
            sampler(seed, build(8 * sizes.short_length), sizes.batch_size),
            num_items=sizes.batch_size,
            peer=f"itself at D = {8 * sizes.short_length} in place of {sizes.short_length}",
            accuracy="8 is linear, 64 quadratic",
            num_repeats=num_repeats,
        )
        for name, build in builds.items()
    ]


def sampler(seed: int, module: nn.Module, batch_size: int) -> Callable[[], Array]:
    """Draw a batch from a model with random weights."""
    params = random_params(jax.random.key(seed), module)
    u = np.random.default_rng(seed).random((batch_size, module.num_dims), np.float32)
    return lambda: quantile(module, params, u).x


def random_params(key: Key, module: nn.Module) -> Params:
    """Initial parameters, moved a little so that no bias is zero."""
    init_key, noise_key = jax.random.split(key)
    x = jnp.zeros((1, module.num_dims), jnp.int32)
    leaves, structure = jax.tree.flatten(jax.jit(module.init)(init_key, x))
    keys = jax.random.split(noise_key, len(leaves))
    moved = [a + 0.01 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def our_training(
    module: jg.MADE, params: Params, x: np.ndarray, indices: np.ndarray
) -> Callable[[], Array]:
    """Go on training for as many steps as there are batches; returns the last loss."""

    def loss_fn(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(module.log_prob(params, batch))

    optimizer = optax.adam(LEARNING_RATE)
    scan = jg.training.build_scan(jg.training.build_step(loss_fn, optimizer))
    key, data, batches = jax.random.key(0), jnp.asarray(x), jnp.asarray(indices)
    state = jg.training.init_state(params, optimizer)

    def run() -> Array:
        nonlocal state
        state, metrics = scan(key, state, data, batches)
        return metrics.loss[-1]

    return run


def torch_weights(module: jg.MADE, params: Params) -> tuple[list[Any], list[Any], list[Any]]:
    """Kernels, biases and masks of both layers as PyTorch tensors."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    named = {name: torch.tensor(np.asarray(leaf)) for name, leaf in params["params"].items()}
    inputs, hidden, outputs = module.degrees
    masks = [inputs[:, None] <= hidden[None], hidden[:, None] <= outputs[None]]
    return (
        [named["kernel_0"], named["kernel_1"]],
        [named["bias_0"], named["bias_1"]],
        [torch.tensor(mask, dtype=torch.float32) for mask in masks],
    )


def torch_sampler(module: jg.MADE, params: Params, u: np.ndarray) -> Callable[[], Any]:
    """A full forward pass for each coordinate; the masks are applied once, before."""
    import torch

    kernels, biases, masks = torch_weights(module, params)
    masked = [kernel * mask for kernel, mask in zip(kernels, masks, strict=True)]
    uniforms = torch.tensor(u)

    @torch.no_grad()
    def run() -> Any:
        x = torch.zeros_like(uniforms)
        for i in range(module.num_dims):
            h = torch.relu(torch.addmm(biases[0], x, masked[0]))
            logits = torch.addmm(biases[1], h, masked[1])[:, i]
            x[:, i] = (uniforms[:, i] >= torch.sigmoid(-logits)).float()
        return x

    return run


def torch_training(
    module: jg.MADE,
    params: Params,
    x: np.ndarray,
    indices: np.ndarray,
    *,
    multiplies: bool,
    fused: bool,
    is_compiled: bool,
) -> Callable[[], Any]:
    """The same training; masks either multiply the kernels or blank them before each step."""
    import torch

    kernels, biases, masks = torch_weights(module, params)
    leaves = [leaf.requires_grad_() for leaf in kernels + biases]
    optimizer = torch.optim.Adam(leaves, LEARNING_RATE, fused=fused)
    data, batches = torch.tensor(x, dtype=torch.float32), torch.tensor(indices)

    def nats(points: Any) -> Any:
        masked = [k * m for k, m in zip(kernels, masks, strict=True)] if multiplies else kernels
        h = torch.relu(torch.addmm(biases[0], points, masked[0]))
        logits = torch.addmm(biases[1], h, masked[1])
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, points, reduction="sum"
        ) / len(points)

    loss_fn = torch.compile(nats) if is_compiled else nats

    def run() -> Any:
        for batch in batches:
            if not multiplies:
                for kernel, mask in zip(kernels, masks, strict=True):
                    kernel.data *= mask
            loss = loss_fn(data[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    return run


def seconds_of(function: Callable[[], Any]) -> float:
    """Seconds of a second call."""
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
