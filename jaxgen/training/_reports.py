"""Progress on boards of others: functions that `fit` takes as its `report_fn`."""

import pathlib
from typing import Any

from jaxgen.training._loop import ReportFn


def tensorboard(folder: pathlib.Path | str) -> ReportFn:
    """Write every number that is reported as a scalar of TensorBoard, by step.

    Args:
      folder: for TensorBoard's event files, made if missing.

    Raises:
      ImportError: there is no tensorboardX; `pip install 'jaxgen[tensorboard]'` brings it.
    """
    writer = _imported("tensorboardX", "tensorboard").SummaryWriter(str(folder))

    def report(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return report


def wandb(**settings: Any) -> ReportFn:
    """Send every number that is reported to Weights & Biases, by step.

    Args:
      **settings: of `wandb.init`, such as `project` and `config`; with `id` and `resume="allow"` a
        training that goes on writes to the same run.

    Raises:
      ImportError: there is no wandb; `pip install 'jaxgen[wandb]'` brings it.
    """
    run = _imported("wandb", "wandb").init(**settings)

    def report(step: int, numbers: dict[str, float]) -> None:
        run.log(numbers, step=step)

    return report


def _imported(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is missing: pip install 'jaxgen[{extra}]' brings it"
        ) from error
