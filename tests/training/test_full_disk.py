"""A disk that takes no more: what was saved before stays, and training goes on from there."""

import contextlib
import resource

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_task import interrupt_at, run

from jaxgen.training._checkpoint import Checkpointer, CheckpointError
from jaxgen.training._loop import TrainingInterrupted

# Where one array cannot be written, Orbax leaves the writes of the others to fail.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)
START = {"mean": jnp.zeros(2), "spread": jnp.zeros((16, 2))}


class OnFullDisk(Checkpointer):
    """Writes no more than so many bytes of a file, and then gets an error, as on a full disk."""

    max_bytes = resource.RLIM_INFINITY

    def save(self, step, state, settings=None):
        with limited(self.max_bytes):
            super().save(step, state, settings)


@contextlib.contextmanager
def limited(max_bytes):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def loss_fn(key, params, batch, step):
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)
    error = batch["x"] + noise - params["mean"][None] - params["spread"].sum(0, keepdims=True)
    return jnp.mean(error**2)


def train(num_devices, **kwargs):
    mesh = None
    if num_devices is not None:
        mesh = jax.make_mesh((num_devices,), ("data",), devices=jax.devices()[:num_devices])
    sharding = "replicated" if mesh is None else "fully_sharded"
    kwargs |= {"loss_fn": loss_fn, "params": START, "validate_fn": None, "validate_every": 100}
    return jax.tree.map(np.asarray, run(mesh=mesh, param_sharding=sharding, **kwargs).params)


@pytest.mark.parametrize("num_devices", [None, 8])
@pytest.mark.parametrize("max_bytes", [0, 700])
def test_training_goes_on_from_what_was_saved_before(tmp_path, num_devices, max_bytes, monkeypatch):
    monkeypatch.setattr("jaxgen.training._feed.InMemory.max_steps", 20)
    checkpointer = OnFullDisk(tmp_path)
    with pytest.raises(TrainingInterrupted):
        train(num_devices, checkpointer=checkpointer, report_fn=interrupt_at(20))
    checkpointer.max_bytes = max_bytes
    with pytest.raises(CheckpointError, match=rf"step 21 could not be written under {tmp_path}"):
        train(num_devices, checkpointer=checkpointer)
    checkpointer.close()
    seen = []
    resumed = train(
        num_devices,
        checkpointer=Checkpointer(tmp_path),
        report_fn=lambda step, numbers: seen.append(step),
    )
    assert seen == [40, 60]
    chex.assert_trees_all_equal(resumed, train(num_devices))
