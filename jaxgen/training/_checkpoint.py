"""Checkpoints on disk: the one place that knows Orbax."""

import contextlib
import hashlib
import json
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxgen.core._checks import check_count
from jaxgen.core._files import write_bytes
from jaxgen.core._lock import lock
from jaxgen.training import _leaves as leaves
from jaxgen.training._quiet import quiet, system_reason

_DIGEST_BYTES = 32
_LOCK = ".lock"


class CheckpointError(OSError):
    """A checkpoint that could not be written or read back, or belongs to something else."""


class _DamagedError(Exception):
    """What is read is not what was written."""


class Checkpointer:
    """Saves pytrees of arrays by step under a folder, keeping the newest few.

    A save is seen whole or not at all: one that was cut off leaves a temporary folder that readers
    ignore. Each array has a digest, which is checked on reading. Typed keys, NamedTuples, NumPy
    arrays and Python numbers come back as they were.
    """

    def __init__(self, directory: pathlib.Path, num_kept: int = 2) -> None:
        check_count("num_kept", num_kept)
        self.directory = pathlib.Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            is_free = False  # what is cut off in the folder of a running training is being written
            with contextlib.suppress(OSError):
                if jax.process_count() > 1:
                    raise OSError("processes would find each other's lock")
                stack.enter_context(lock(self.directory / _LOCK))
                is_free = True
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(num_kept),
                cleanup_tmp_directories=is_free,
            )
        self._damaged: set[int] = set()

    def save(self, step: int, state: Any, settings: Mapping[str, Any] | None = None) -> None:
        """Write `state` as the checkpoint of `step`, in place of one that is there already.

        Args:
          step: at least 0.
          state: a pytree of arrays and numbers.
          settings: what the state belongs to, words and numbers by name; `load` with others refuses
            it.

        Raises:
          CheckpointError: the folder cannot be written (full, read-only).
          TypeError: a leaf is no array or number.
        """
        named = leaves.named(state)
        arrays = {name: _stored(leaf) for name, leaf in named.items()}
        about = {"labels": leaves.labels(named), "settings": dict(settings or {})}
        text = json.dumps(about).encode()
        content = {"about": np.frombuffer(hashlib.sha256(text).digest() + text, np.uint8)}
        content |= {f"leaves/{name}": array for name, array in arrays.items() if array.size}
        trouble = self._write(step, content)
        if trouble is not None:
            last = self.latest_step()
            kept = "nothing was saved before" if last is None else f"step {last} is there, whole"
            raise CheckpointError(
                f"checkpoint of step {step} could not be written under {self.directory}: "
                f"{trouble}; {kept}"
            )
        self._damaged.discard(step)

    def _write(self, step: int, content: dict[str, Any]) -> str | None:
        """Return what was in the way, or None; what Orbax raised is gone, with all it holds."""
        try:
            self._probe()
            with quiet():
                self._checkpointer.save(step, content, force=True, overwrite=True)
        except Exception as error:  # Orbax passes on errors of several storage libraries
            return system_reason(error)
        return None

    def _probe(self) -> None:
        """Raise where nothing can be written: threads of Orbax would wait for its folder."""
        path = self.directory / f".probe_{jax.process_index()}"
        write_bytes(path, b"1")
        path.unlink()

    def latest_step(self) -> int | None:
        """Return the newest step that was saved whole and not found damaged since, or None."""
        steps = {checkpoint.step for checkpoint in self._checkpointer.checkpoints}
        return max(steps - self._damaged, default=None)

    def load(
        self, template: Any, settings: Mapping[str, Any] | None = None
    ) -> tuple[int, Any] | None:
        """Read the newest checkpoint that is whole, or None where there is none.

        One that is damaged is passed over with a warning that says what is wrong with it.

        Args:
          template: a pytree like the one saved, for its structure, shapes and dtypes, and for the
            devices of its arrays.
          settings: what the state shall belong to; None takes any.

        Raises:
          CheckpointError: there are checkpoints, and none is whole; or the newest whole one is of
            another structure, shape or dtype, or of other settings; it names what differs.
        """
        errors = []
        for checkpoint in reversed(self._checkpointer.checkpoints):
            step = checkpoint.step
            try:
                about, arrays = self._read(step)
                self._refuse_another(step, about, template, settings)
                return step, leaves.like(template, _whole(about["labels"], arrays, template))
            except _DamagedError as error:
                self._damaged.add(step)
                errors.append(f"step {step}: {error}")
                warnings.warn(
                    f"passing over the checkpoint of step {step} under {self.directory}: {error}",
                    stacklevel=2,
                )
        if errors:
            raise CheckpointError(
                f"no checkpoint under {self.directory} can be read; move the folder away to start "
                "afresh. " + "; ".join(errors)
            )
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other runs; of several processes the first holds it for all.

        Raises:
          CheckpointError: another holds it, or it cannot be written.
        """
        if jax.process_index() != 0:
            yield
            return
        try:
            held = lock(self.directory / _LOCK)
        except BlockingIOError as error:
            raise CheckpointError(str(error)) from error
        except OSError as error:
            trouble = f"{self.directory} cannot be written: {system_reason(error)}"
            raise CheckpointError(f"{trouble}; nothing was trained") from error
        with held:
            yield

    def close(self) -> None:
        """Wait for what is being written."""
        with contextlib.suppress(Exception), quiet():  # of the last save, which raised it before
            self._checkpointer.close()

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            with quiet():
                content = self._checkpointer.load(step, self._abstract(step))
        except Exception:  # Orbax's own words are many, and say less
            content = None
        if not isinstance(content, dict) or "about" not in content:
            raise _DamagedError("it is damaged, or was not saved by jaxgen.training.Checkpointer")
        data = np.asarray(content.pop("about")).tobytes()
        digest, text = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(text).digest() != digest:
            raise _DamagedError("the list of its arrays is damaged")
        return json.loads(text), {
            name.removeprefix("leaves/"): np.asarray(array) for name, array in content.items()
        }

    def _abstract(self, step: int) -> Any:
        """Ask for arrays of the host, whatever devices they were saved from."""
        found = self._checkpointer.metadata(step).metadata
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), found)

    def _refuse_another(
        self, step: int, about: dict[str, Any], template: Any, settings: Mapping[str, Any] | None
    ) -> None:
        difference = None
        if settings is not None:
            difference = leaves.difference(
                {name: repr(one) for name, one in settings.items()},
                {name: repr(one) for name, one in about["settings"].items()},
            )
        if difference is None:
            wanted = {name: leaves.describe(leaf) for name, leaf in leaves.named(template).items()}
            found = {name: leaves.description_of(label) for name, label in about["labels"].items()}
            difference = leaves.difference(wanted, found)
        if difference is not None:
            raise CheckpointError(
                f"the checkpoint of step {step} under {self.directory} belongs to something else: "
                f"{difference}; move the folder away to start afresh"
            )


def _stored(leaf: Any) -> Any:
    """Return what Orbax is given: of several processes each writes its part of an array."""
    is_spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    return leaf if is_spread else leaves.plain(leaf)


def _whole(
    labels: dict[str, str], arrays: dict[str, np.ndarray], template: Any
) -> dict[str, np.ndarray]:
    """Return the arrays, with those that are empty, if all are what their labels say."""
    for name, leaf in leaves.named(template).items():
        if 0 in np.shape(leaf):
            arrays[name] = leaves.empty(leaf)
    if missing := labels.keys() - arrays.keys():
        raise _DamagedError(f"it lacks {sorted(missing)[0]}")
    if damaged := leaves.damaged(labels, arrays):
        raise _DamagedError(f"its digests are not those of {damaged}")
    return arrays
