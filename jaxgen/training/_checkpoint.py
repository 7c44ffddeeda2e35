"""Checkpoints on disk: the one place that knows Orbax."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxgen.core._checks import check_count

_MESSAGE_LENGTH = 200


class CheckpointError(OSError):
    """A checkpoint that could not be written or read back."""


class Checkpointer:
    """Saves pytrees of arrays by step under a folder, keeping the newest few.

    A save is seen whole or not at all: one that was cut off leaves a temporary folder that readers
    ignore. Typed keys and NamedTuples come back as they were.
    """

    def __init__(self, directory: pathlib.Path, num_kept: int = 2) -> None:
        check_count("num_kept", num_kept)
        self.directory = pathlib.Path(directory).absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(num_kept),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any) -> None:
        """Write `state` as the checkpoint of `step`, in place of one that is there already.

        Raises:
          CheckpointError: the folder cannot be written (full, read-only).
        """
        try:
            self._checkpointer.save(step, state, force=True, overwrite=True)
        except Exception as error:  # Orbax passes on errors of several storage libraries
            raise CheckpointError(
                f"checkpoint of step {step} could not be written under {self.directory}: {error}"
            ) from error

    def latest_step(self) -> int | None:
        """Return the newest step that was saved whole, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def load(self, template: Any) -> tuple[int, Any] | None:
        """Read the newest checkpoint that can be read, or None where there is none.

        Args:
          template: a pytree like the one saved, for its structure, shapes and dtypes.

        Raises:
          CheckpointError: there are checkpoints, and none fits the template or is whole.
        """
        abstract = jax.tree.map(_abstract, template)
        errors = []
        for checkpoint in reversed(self._checkpointer.checkpoints):
            try:
                return checkpoint.step, self._checkpointer.load(checkpoint.step, abstract)
            except Exception as error:
                # Orbax spells out every array of the template; what went wrong stands before that.
                errors.append(f"step {checkpoint.step}: {str(error)[:_MESSAGE_LENGTH]}")
        if errors:
            raise CheckpointError(
                f"no checkpoint under {self.directory} can be read by this version with these "
                "settings; move the folder away to start afresh. " + "; ".join(errors)
            )
        return None

    def close(self) -> None:
        """Wait for what is being written."""
        self._checkpointer.close()


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
