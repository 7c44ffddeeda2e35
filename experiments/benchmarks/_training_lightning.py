"""The training of `training` by PyTorch Lightning: the same layers, bound and optimizer."""

import itertools
import logging
import os
import time
import warnings
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3


def seconds_a_step(
    x: np.ndarray, num_hidden: int, num_latents: int, batch_size: int, first: int, num_steps: int
) -> float:
    """Train a VAE of bits by Lightning's `Trainer`, and time a step.

    All that can be turned off is: logs, progress, summary, checkpoints. Data are tensors in memory,
    shuffled by PyTorch's `DataLoader` without processes of its own.

    Args:
      x: bits `[N, D]`.
      num_hidden: units of each of the two hidden layers of either network.
      num_latents: L.
      batch_size: B.
      first: steps that are not timed.
      num_steps: steps in all.
    """
    import lightning
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    times: list[float] = []

    class Times(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (first, num_steps):
                times.append(time.perf_counter())

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=num_steps,
        logger=False,
        callbacks=[Times()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.TensorDataset(torch.tensor(x, dtype=torch.float32))
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one asks for processes that read, on the one core
        trainer.fit(_module(x.shape[1], num_hidden, num_latents), loader)
    start, end = times
    return (end - start) / (num_steps - first)


def _module(num_dims: int, num_hidden: int, num_latents: int) -> Any:
    import lightning
    import torch

    def network(num_inputs: int, num_outputs: int) -> Any:
        sizes = (num_inputs, num_hidden, num_hidden)
        layers = [
            layer
            for size in itertools.pairwise(sizes)
            for layer in (torch.nn.Linear(*size), torch.nn.Tanh())
        ]
        return torch.nn.Sequential(*layers, torch.nn.Linear(num_hidden, num_outputs))

    class Vae(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = network(num_dims, 2 * num_latents)
            self.decoder = network(num_latents, num_dims)

        def training_step(self, batch: Any, _: int) -> Any:
            (x,) = batch
            mean, log_scale = self.encoder(x).chunk(2, dim=1)
            noise = torch.randn_like(mean)
            z = mean + log_scale.exp() * noise
            nats = torch.nn.functional.binary_cross_entropy_with_logits(
                self.decoder(z), x, reduction="sum"
            )
            log_ratio = 0.5 * (noise.square() - z.square()).sum() + log_scale.sum()
            return (nats - log_ratio) / len(x)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), LEARNING_RATE)

    return Vae()
