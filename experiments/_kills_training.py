"""A training that saves behind every dispatch: data read as a stream, on a mesh."""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments._compilation_cache import keep_compiled_programs
from jaxgen.core import Array, Key, Params
from jaxgen.training import _loop as loop
from jaxgen.training._settings import digest

_SECONDS_A_DISPATCH = 0.05  # a pace that a busy machine keeps, too
_NUM_EXAMPLES, _NUM_DIMS = 4000, 32


class _Stream:
    """Examples that are made when they are read."""

    fingerprint = "noise of kills"

    def __len__(self) -> int:
        return _NUM_EXAMPLES

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        phases = indices[:, None] * np.arange(1, _NUM_DIMS + 1)
        return np.sin(phases).astype(np.float32)


def train(folder: pathlib.Path, num_steps: int) -> str:
    """Train on all devices, or go on from the folder's checkpoint; return a digest of it all."""
    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(_NUM_DIMS, 256)).astype(np.float32) / 10,
        "out": rng.normal(size=(256, _NUM_DIMS)).astype(np.float32) / 10,
    }

    def predict(params: Params, x: Array) -> Array:
        return jnp.tanh(x @ params["in"]) @ params["out"]

    def loss_fn(key: Key, params: Params, x: Array, step: Array) -> Array:
        noise = 0.1 * jax.random.normal(key, x.shape)
        return jnp.mean((predict(params, x + noise) - x) ** 2)

    held_out = jnp.asarray(_Stream()[np.arange(200) + _NUM_EXAMPLES])
    validate_fn = jax.jit(lambda params: jnp.mean((predict(params, held_out) - held_out) ** 2))
    result = jg.fit(
        jax.random.key(0),
        params,
        loss_fn,
        _Stream(),
        optax.adam(1e-3),
        num_steps=num_steps,
        batch_size=32,
        validate_fn=validate_fn,
        validate_every=100,
        average_decay=0.9,
        checkpointer=jg.training.Checkpointer(folder),
        report_fn=lambda step, numbers: time.sleep(_SECONDS_A_DISPATCH),
        mesh=jax.make_mesh((jax.device_count(),), ("data",)),
        param_sharding="fully_sharded",
    )
    return digest(jax.tree.map(np.asarray, result._asdict()))


def main() -> None:
    """Train in the folder of the first argument; the rest are devices, steps, and a file to end."""
    folder, num_devices, num_steps, end = sys.argv[1:]
    keep_compiled_programs()
    jax.config.update("jax_num_cpu_devices", int(num_devices))
    loop._SHORTEST_PAUSE = loop._LONGEST_PAUSE = 0.0
    digest = train(pathlib.Path(folder), int(num_steps))
    pathlib.Path(end).write_text(json.dumps(digest))


if __name__ == "__main__":
    main()
