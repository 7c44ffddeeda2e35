"""A disk that takes no more: what was saved before stays, and training goes on from there."""

import contextlib
import errno
import io
import os
import pathlib
import resource

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_task import interrupt_at, run

from jaxgen.training._checkpoint import Checkpointer, CheckpointError
from jaxgen.training._loop import TrainingInterrupted

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
def test_training_goes_on_from_what_was_saved_before(
    tmp_path, num_devices, max_bytes, monkeypatch, capfd, caplog
):
    monkeypatch.setattr("jaxgen.training._feed.InMemory.max_steps", 20)
    checkpointer = OnFullDisk(tmp_path)
    with pytest.raises(TrainingInterrupted):
        train(num_devices, checkpointer=checkpointer, report_fn=interrupt_at(20))
    checkpointer.max_bytes = max_bytes
    with pytest.raises(
        CheckpointError,
        match=rf"step 21 could not be written under {tmp_path}: File too large; step 20 is there",
    ):
        train(num_devices, checkpointer=checkpointer)
    assert capfd.readouterr().err == caplog.text == ""
    checkpointer.close()
    seen = []
    resumed = train(
        num_devices,
        checkpointer=Checkpointer(tmp_path),
        report_fn=lambda step, numbers: seen.append(step),
    )
    assert seen == [40, 60]
    chex.assert_trees_all_equal(resumed, train(num_devices))


def read_only(folder, monkeypatch):
    """Make the system refuse all that is new under a folder, as where a disk is read-only."""

    def refusing(call):
        def refuse(path, *args, **kwargs):
            is_new = isinstance(path, str | os.PathLike) and not pathlib.Path(path).exists()
            if is_new and str(path).startswith(str(folder)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return call(path, *args, **kwargs)

        return refuse

    for module, name in ((os, "mkdir"), (os, "open"), (io, "open")):
        monkeypatch.setattr(module, name, refusing(getattr(module, name)))


def test_a_disk_that_becomes_read_only_costs_no_more_than_what_was_not_saved(
    tmp_path, capfd, caplog
):
    with pytest.MonkeyPatch.context() as patch:

        def report(step, numbers):
            read_only(tmp_path, patch)

        with pytest.raises(
            CheckpointError,
            match=rf"^checkpoint of step 60 could not be written under {tmp_path}: "
            r"Read-only file system; step \d+ is there, whole$",
        ):
            train(None, checkpointer=Checkpointer(tmp_path), report_fn=report)
    assert capfd.readouterr().err == caplog.text == ""
    chex.assert_trees_all_equal(train(None, checkpointer=Checkpointer(tmp_path)), train(None))


def test_a_disk_that_is_read_only_from_the_start_is_told_before_anything_is_trained(
    tmp_path, monkeypatch
):
    checkpointer = Checkpointer(tmp_path)
    (tmp_path / ".lock").unlink()
    read_only(tmp_path, monkeypatch)
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path} cannot be written: Read-only .*; nothing was trained$"
    ):
        train(None, checkpointer=checkpointer, report_fn=lambda *_: pytest.fail("it trains"))
