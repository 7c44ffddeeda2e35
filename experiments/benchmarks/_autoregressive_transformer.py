"""Rows of the autoregressive benchmark for the causal transformer, against PyTorch.

It runs in eager mode, its training steps compiled, too. Both sides have the very weights, uniforms
and batches. Where the peer can be written in several ways, the fastest of them is taken. On a GPU
there is one row, the training step's use of it.
"""

import functools
import importlib.util
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare, compare_with_torch
from jaxgen.core import Array, AutoregressiveModel, Key, Params

LEARNING_RATE = 1e-3
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Multiplications and additions a second in bfloat16, without sparsity, of the SXM boards."""


@functools.partial(jax.jit, static_argnames="num_chunks")
def quantile(
    model: AutoregressiveModel, params: Params, u: Array, num_chunks: int
) -> jg.samplers.Draws:
    """Sequences from uniforms, a chunk of them after the other.

    Keys and values of fewer sequences stay in the processor's cache, where a step reads them twice
    as fast as from memory.
    """
    chunks = u.reshape(num_chunks, -1, model.num_dims)
    drawn = jax.lax.map(lambda chunk: jg.samplers.quantile(model, params, chunk), chunks)
    return jax.tree.map(lambda a: a.reshape(u.shape), drawn)


class Sizes(NamedTuple):
    """How much work the rows are.

    Attributes:
      num_dims: D, tokens of a sequence.
      width: channels.
      num_layers: layers.
      num_heads: attention heads.
      num_sequences: sequences drawn.
      num_chunks: chunks in which we draw them; the peer has the choice, as many or one.
      num_prefixes: passes over a prefix that are timed of the peer that has no cache, of D.
      batch_size: sequences in a training step.
      num_steps: training steps in one timing.
    """

    num_dims: int = 784
    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_sequences: int = 16
    num_chunks: int = 2
    num_prefixes: int = 14
    batch_size: int = 8
    num_steps: int = 2


SMOKE = Sizes(6, 8, 1, 2, num_sequences=2, num_prefixes=2, batch_size=2, num_steps=1)
ON_A_GPU = Sizes(width=768, num_layers=12, num_heads=12, batch_size=32, num_steps=20)


def transformer_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """Sampling and training against PyTorch on a CPU; on a GPU, the training step against its peak.

    The caller pins the process; PyTorch gets as many threads as there are cores left to it.
    """
    if jax.default_backend() == "gpu":
        return utilisation_rows(seed, ON_A_GPU, num_repeats)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed; the rows of the transformer are left out")
        return []
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return [
        *sampling_rows(seed, sizes, num_repeats),
        *training_rows(seed, sizes, num_repeats),
    ]


def build(seed: int, sizes: Sizes, dtype: Any = jnp.float32) -> tuple[jg.CausalTransformer, Params]:
    """The model, with a vector for each position as GPT-2 has, and its parameters."""
    module = jg.CausalTransformer(
        sizes.num_dims,
        2,
        sizes.width,
        sizes.num_layers,
        sizes.num_heads,
        positions="learned",
        dtype=dtype,
    )
    x = jnp.zeros((1, sizes.num_dims), jnp.int32)
    return module, jax.jit(module.init)(jax.random.key(seed), x)


def sampling_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """Sequences from uniforms, against a cache of keys and values, and against none.

    Without a cache, a token takes a pass over those before it (as nanoGPT samples) or over the
    whole array (as pytorch-generative does); the output layer reads the last position alone.
    """
    module, params = build(seed, sizes)
    model, peer = module, TorchTransformer(module, params)
    shape = (sizes.num_sequences, sizes.num_dims)
    u = np.random.default_rng(seed).random(shape, np.float32)
    draws = quantile(model, params, u, sizes.num_chunks)
    error = np.abs(peer.log_prob(draws.x) - np.sum(draws.log_probs, axis=-1)).max()
    label = f"transformer_{sizes.num_layers}x{sizes.width}_sampling"
    forms = itertools.product((1, sizes.num_chunks), (False, True))
    cached = compare(
        f"{label}_cache",
        lambda: quantile(model, params, u, sizes.num_chunks).x,
        min((peer.sampler(u, *form) for form in forms), key=seconds_of),
        num_items=u.size,
        peer="torch, eager, with a cache",
        accuracy=f"theirs of our draws' log p differs by {error:.1e} nats at most",
        num_repeats=num_repeats,
    )
    lengths = prefix_lengths(sizes)
    whole = [sizes.num_dims] * min(2, sizes.num_dims)
    recomputed = {
        "prefix": (lengths, f"prefixes of {lengths[0]} to {lengths[-1]} tokens"),
        "whole": (whole, f"passes over all {sizes.num_dims} tokens"),
    }
    rows = [cached]
    for name, (timed, what) in recomputed.items():
        row = compare(
            f"{label}_{name}",
            lambda: quantile(model, params, u, sizes.num_chunks).x,
            peer.prefix_reader(draws.x, timed),
            num_items=u.size,
            peer=f"torch, eager, a pass a token; {len(timed)} {what} timed, for {sizes.num_dims}",
            num_repeats=num_repeats,
        )
        share = sizes.num_dims / len(timed)
        rows.append(row._replace(ratio=row.ratio * share, peer_ns=row.peer_ns * share))
    return rows


def prefix_lengths(sizes: Sizes) -> list[int]:
    """Lengths evenly spaced from 1 to D, whose mean is that of all to within rounding."""
    spacing = sizes.num_dims / sizes.num_prefixes
    return [round((i + 0.5) * spacing + 0.5) for i in range(sizes.num_prefixes)]


def training_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """A step of Adam on the likelihood, ours in one scan of a few."""
    module, params = build(seed, sizes)
    shape = (sizes.batch_size, sizes.num_dims)
    x = np.random.default_rng(seed).integers(0, 2, shape, dtype=np.int32)
    ours = our_training(module, params, x, sizes.num_steps)

    def build_way(fused: bool, is_compiled: bool) -> Callable[[], list[float]]:
        peer = TorchTransformer(module, params)
        return peer.training(x, sizes.num_steps, fused=fused, is_compiled=is_compiled)

    losses, peer_losses = np.asarray(ours()), build_way(fused=False, is_compiled=False)()
    difference = np.abs(losses - peer_losses).max() / sizes.num_dims
    name = f"transformer_{sizes.num_layers}x{sizes.width}_training_step"
    return compare_with_torch(
        (name, f"{name}_compiled"),
        ours,
        lambda is_compiled: min(
            (build_way(fused, is_compiled) for fused in (False, True)), key=seconds_of
        ),
        num_items=sizes.num_steps,
        peer="torch, scaled_dot_product_attention",
        accuracy=f"losses differ by {difference:.1e} nats a token at most",
        num_repeats=num_repeats,
    )


def our_training(
    module: jg.CausalTransformer, params: Params, x: np.ndarray, num_steps: int
) -> Callable[[], Array]:
    """Steps of Adam in one dispatch; gives their losses."""

    def loss_fn(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(module.log_prob(params, batch))

    optimizer = optax.adam(LEARNING_RATE)
    scan = jg.training.build_scan(jg.training.build_step(loss_fn, optimizer))
    state = [jg.training.init_state(params, optimizer)]
    indices = jnp.broadcast_to(jnp.arange(len(x)), (num_steps, len(x)))
    key, data = jax.random.key(0), jnp.asarray(x)

    def run() -> Array:
        state[0], metrics = scan(key, state[0], data, indices)
        return metrics.loss

    return run


def utilisation_rows(seed: int, sizes: Sizes, num_repeats: int) -> list[Row]:
    """Model FLOP utilisation of the training step: the ratio is against the GPU at its peak.

    A token costs 6 operations a weight that multiplies it, and 6 T W a layer for attention to the
    T / 2 positions that it sees on average, forward and backward; what is computed again does not
    count (Chowdhery et al. 2022).
    """
    kind = jax.devices()[0].device_kind
    peaks = [flops for name, flops in PEAK_FLOPS.items() if name in kind]
    if not peaks:
        print(f"the peak of {kind} is not known; the transformer's row is left out")
        return []
    module, params = build(seed, sizes, jnp.bfloat16)
    shape = (sizes.batch_size, sizes.num_dims)
    x = np.random.default_rng(seed).integers(0, 2, shape, dtype=np.int32)
    ours = our_training(module, params, x, sizes.num_steps)
    jax.block_until_ready(ours())
    seconds = min(seconds_of(ours) for _ in range(num_repeats)) / sizes.num_steps
    ideal = x.size * flops_of_token(sizes) / peaks[0]
    label = f"transformer_{sizes.num_layers}x{sizes.width}_training_utilisation"
    return [Row(label, ideal / seconds, 1e9 * seconds, 1e9 * ideal, f"peak of {kind} in bfloat16")]


def flops_of_token(sizes: Sizes) -> float:
    """Operations of a training step, forward and backward, for one token."""
    num_weights = sizes.num_layers * 12 * sizes.width**2
    return 6.0 * num_weights + 6.0 * sizes.num_layers * sizes.width * sizes.num_dims


class TorchTransformer:
    """The same architecture and weights in PyTorch, in eager mode."""

    def __init__(self, module: jg.CausalTransformer, params: Params) -> None:
        import torch

        self.module, self.num_channels = module, module.width // module.num_heads
        copy = lambda a: torch.nn.Parameter(torch.tensor(np.asarray(a)))  # noqa: E731
        self.weights = jax.tree.map(copy, params["params"])
        self.layers = [self.weights[f"layers_{i}"] for i in range(module.num_layers)]

    def embed(self, symbols: Any, positions: Any) -> Any:
        """The stream of symbols, of which 2 is the start, at positions."""
        return self.weights["symbols_table"][symbols] + self.weights["positions_table"][positions]

    def queries_keys_values(self, layer: Any, h: Any) -> Any:
        """Three tensors of `[..., H, C]`."""
        qkv = norm(layer["attention_norm"], h) @ layer["qkv"]["kernel"]
        return qkv.unflatten(-1, (3, self.module.num_heads, self.num_channels)).unbind(-3)

    def add(self, layer: Any, h: Any, attention: Any) -> Any:
        """The stream after attention and the MLP."""
        from torch.nn.functional import gelu

        h = h + attention.reshape(h.shape) @ layer["mix"]["kernel"]
        hidden = gelu(norm(layer["mlp_norm"], h) @ layer["up"]["kernel"], approximate="tanh")
        return h + hidden @ layer["down"]["kernel"]

    def log_odds(self, h: Any) -> Any:
        """What the head reads."""
        output = self.weights["output"]
        return (norm(self.weights["norm"], h) @ output["kernel"] + output["bias"])[..., 0]

    def stream(self, x: Any) -> Any:
        """What leaves the layers, `[B, T, W]`, of symbols that begin with the start, `[B, T]`."""
        from torch.nn.functional import scaled_dot_product_attention

        h = self.embed(x, slice(0, x.shape[1]))
        for layer in self.layers:
            q, k, v = (a.transpose(1, 2) for a in self.queries_keys_values(layer, h))
            attention = scaled_dot_product_attention(q, k, v, is_causal=True)
            h = self.add(layer, h, attention.transpose(1, 2))
        return h

    def nats(self, x: Any) -> Any:
        """−log p of each row of symbols."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        log_odds = self.log_odds(self.stream(shifted(x)))
        return binary_cross_entropy_with_logits(log_odds, x.float(), reduction="none").sum(-1)

    def log_prob(self, x: Any) -> np.ndarray:
        """Log-probability of symbols, `[B]`."""
        import torch

        with torch.inference_mode():
            return -self.nats(torch.tensor(np.asarray(x))).numpy()

    def training(
        self, x: np.ndarray, num_steps: int, *, fused: bool, is_compiled: bool
    ) -> Callable[[], list[float]]:
        """Steps of Adam; gives their losses."""
        import torch

        leaves = jax.tree.leaves(self.weights)
        optimizer = torch.optim.Adam(leaves, lr=LEARNING_RATE, fused=fused)
        batch = torch.tensor(x)
        nats = torch.compile(self.nats) if is_compiled else self.nats

        def run() -> list[float]:
            losses = []
            for _ in range(num_steps):
                optimizer.zero_grad()
                loss = nats(batch).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

        return run

    def sampler(self, u: np.ndarray, num_chunks: int, fused: bool) -> Callable[[], Any]:
        """Symbols of uniforms, a token at a time, from a cache that is allocated once a chunk."""
        import torch

        def draw(u: Any) -> Any:
            room = (len(u), self.module.num_heads, u.shape[1])
            caches = [torch.zeros(2, *room, self.num_channels) for _ in self.layers]
            x = torch.full((len(u), u.shape[1] + 1), 2)
            for i in range(u.shape[1]):
                h = self.embed(x[:, i], i)
                for layer, cache in zip(self.layers, caches, strict=True):
                    q, cache[0, :, :, i], cache[1, :, :, i] = self.queries_keys_values(layer, h)
                    h = self.add(layer, h, attend(q, cache[:, :, :, : i + 1], fused=fused))
                x[:, i + 1] = u[:, i] >= torch.sigmoid(-self.log_odds(h))
            return x[:, 1:]

        def run() -> Any:
            return torch.cat([draw(chunk) for chunk in torch.tensor(u).chunk(num_chunks)])

        return torch.inference_mode()(run)

    def prefix_reader(self, x: Any, lengths: list[int]) -> Callable[[], Any]:
        """The last conditional of some prefixes, each from a pass over the whole prefix."""
        import torch

        symbols = shifted(torch.tensor(np.asarray(x)))

        def run() -> Any:
            return [self.log_odds(self.stream(symbols[:, :n])[:, -1]) for n in lengths]

        return torch.inference_mode()(run)


def attend(query: Any, cache: Any, *, fused: bool) -> Any:
    """PyTorch's attention of one query to a cache, by its fused kernel or by two products."""
    from torch.nn.functional import scaled_dot_product_attention

    query = query[:, :, None]
    if fused:
        return scaled_dot_product_attention(query, cache[0], cache[1])
    scores = query @ cache[0].mT / math.sqrt(query.shape[-1])
    return scores.softmax(-1) @ cache[1]


def norm(layer: Any, h: Any) -> Any:
    """Layer normalization with a scale, as Flax does it."""
    from torch.nn.functional import layer_norm

    return layer_norm(h, h.shape[-1:], layer["scale"], eps=1e-6)


def shifted(x: Any) -> Any:
    """Symbols a place later, behind the start."""
    import torch

    return torch.cat([torch.full_like(x[:, :1], 2), x[:, :-1]], dim=1)


def seconds_of(function: Callable[[], Any]) -> float:
    """One timing, to choose among forms of a peer."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start
