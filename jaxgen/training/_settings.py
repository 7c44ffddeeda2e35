"""What a checkpoint of a training belongs to: its data, its start, and the program of a step."""

import hashlib
from typing import Any

import jax

from jaxgen.core._types import Key, Params
from jaxgen.training import _leaves as leaves

_SHOWN = 16  # hexadecimal digits of a digest: enough to tell two apart, and to read


def fingerprint(
    key: Key,
    params: Params,
    data: dict[str, str],
    batch_size: int,
    program: str,
    has_validation: bool,
) -> dict[str, Any]:
    """Return what determines every number of a training, by name, in words and digests.

    Args:
      key: of the training.
      params: what it starts from.
      data: what they are, by name.
      batch_size: B.
      program: the program of a step as text: loss, model, optimizer and averaging.
      has_validation: whether parameters are chosen by a validation.
    """
    version = f"jax {jax.__version__}"
    return {
        "key": digest(key),
        "start of the parameters": digest(params),
        **data,
        "batch_size": batch_size,
        "program of loss_fn and optimizer": f"{_shown(program.encode())}, {version}",
        "has validate_fn": has_validation,
    }


def digest(tree: Any) -> str:
    """Return a short digest of the arrays of a pytree; of one alone, behind its description."""
    labels = leaves.labels(leaves.named(tree))
    is_leaf = list(labels) == [""]
    start = f"{leaves.description_of(labels[''])} " if is_leaf else ""
    return start + _shown(repr(sorted(labels.items())).encode())


def _shown(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_SHOWN]
