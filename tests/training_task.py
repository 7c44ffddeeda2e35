"""A small training that `fit` is tested by."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.training._loop import fit

DATA = {"x": np.random.default_rng(0).normal(3.0, 1.0, (64, 2)).astype(np.float32)}
START = {"mean": jnp.zeros(2)}


def loss_fn(key, params, batch, step):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)  # so that keys matter to a resume
    return jnp.mean((batch["x"] + noise - params["mean"][None]) ** 2)


def validate_fn(params):
    return float(jnp.mean((DATA["x"].mean(0) - params["mean"]) ** 2))


def run(**kwargs):
    arguments = {
        "loss_fn": loss_fn,
        "source": DATA,
        "optimizer": optax.adam(0.05),
        "num_steps": 60,
        "batch_size": 8,
        "validate_fn": validate_fn,
        "validate_every": 10,
        "average_decay": 0.5,
        "key": jax.random.key(0),
        "params": START,
        **kwargs,
    }
    return fit(**arguments)


def interrupt_at(step, number=signal.SIGINT):
    def report(now, numbers):
        if now == step:
            signal.raise_signal(number)

    return report
