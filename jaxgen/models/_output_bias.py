"""Where training starts: with what the data are, coordinate by coordinate."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_shape
from jaxgen.core._types import Params


def set_output_bias(
    model: Any, params: Params, x: np.ndarray, *, is_observed: np.ndarray | None = None
) -> Params:
    """Return parameters whose output biases fit each coordinate of the data by itself.

    Adam moves a parameter by no more than its rate in a step, and the bias of a pixel that is
    nearly always off has far to go: this saves thousands of steps. Where all coordinates share
    their outputs' bias, it starts at the average over coordinates.

    Of reals also the units are set in which the model sees each column; training leaves them alone,
    and log p stays that of the data as they are.

    Args:
      model: a model of `jaxgen.models`, under either contract.
      params: what `model.init` returned.
      x: training data, `[N, D]`.
      is_observed: which cells are, bool `[N, D]`; None for all. Others may hold anything.

    Raises:
      ValueError: a shape does not fit, or a column has no cell that is observed.
    """
    check_shape("x", x, (None, model.num_dims))
    if is_observed is not None:
        x = _observed_quantiles(np.asarray(x), np.asarray(is_observed))
    conditional = model.conditional_or_default
    outputs = conditional.marginal_outputs(np.asarray(x))
    if conditional.num_units:
        units = jnp.asarray(conditional.units(np.asarray(x)), jnp.result_type(float))
        params = _replaced(params, ("params", "units"), units)
    path = ("params", *model.output_bias)
    bias = params
    for name in path:
        bias = bias[name]
    if bias.size != outputs.size:
        outputs = outputs.mean(axis=0)
    return _replaced(params, path, jnp.asarray(outputs.reshape(bias.shape), bias.dtype))


def _observed_quantiles(x: np.ndarray, is_observed: np.ndarray) -> np.ndarray:
    """Return columns `[N, D]` with the observed cells' values alone, in even shares."""
    check_shape("is_observed", is_observed, x.shape)
    empty = np.flatnonzero(~is_observed.any(axis=0))
    if empty.size:
        raise ValueError(f"is_observed must have a cell in every column, got none in {empty[0]}")
    shares = (np.arange(len(x)) + 0.5) / len(x)
    columns = [
        np.quantile(column[is_own], shares, method="inverted_cdf")
        for column, is_own in zip(x.T, is_observed.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def _replaced(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
