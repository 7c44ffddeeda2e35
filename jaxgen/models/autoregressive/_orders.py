"""Other orders than the natural one, for models whose parameters can move with coordinates."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._log_mean_exp import log_mean_exp
from jaxgen.core._types import Array, Params


def reordered(params: Params, order: Array) -> Params:
    r"""Return parameters with which MADE over `x[..., order]` visits coordinates in that order.

    The connections move with their coordinates, the masks stay: one set of parameters thus serves
    any order. Training it under many makes it order-agnostic (Germain et al. 2015; Uria et al.
    2014), and the mean of p(x) over orders is an ensemble at no cost in parameters:

    .. math:: p(x) = \frac1M \sum_m p_m(x_{\pi_m})

    Columns of several kinds keep to the places of their own kind.

    Args:
      params: parameters of a `MADE`, or of a `NADE`, whose names and shapes are the same.
      order: a permutation of the D coordinates, integers `[D]`; may be traced.
    """
    (num_dims,) = order.shape
    moved = dict(params["params"])
    last = max(int(name.removeprefix("bias_")) for name in moved if name.startswith("bias_"))

    def move(array: Array, axis: int) -> Array:
        shape = array.shape
        blocks = array.reshape(*shape[:axis], num_dims, -1, *shape[axis + 1 :])
        return jnp.take(blocks, order, axis=axis).reshape(shape)

    moved["kernel_0"] = move(moved["kernel_0"], 0)
    moved[f"kernel_{last}"] = move(moved[f"kernel_{last}"], 1)
    moved[f"bias_{last}"] = move(moved[f"bias_{last}"], 0)
    for name in [name for name in moved if name.startswith("direct")]:
        moved[name] = move(moved[name], 1)
    if "direct_kernel_0" in moved:
        moved["direct_kernel_0"] = move(moved["direct_kernel_0"], 0)
    if "units" in moved:
        moved["units"] = move(moved["units"], 0)
    if "context_to_outputs" in moved:
        moved["context_to_outputs"] = {"kernel": move(moved["context_to_outputs"]["kernel"], 1)}
    return {**params, "params": moved}


def order_ensemble_log_prob(
    model: AutoregressiveModel, params: Params, x: Array, orders: ArrayLike
) -> Array:
    r"""Return the log of the mean of p(x) over members that each read x in an order of their own.

    .. math:: \log p(x) = \log \frac1M \sum_m p_m(x_{\pi_m})

    Args:
      model: an autoregressive model.
      params: parameters of every member, a pytree of `[M, ...]`.
      x: data `[B, D]`.
      orders: permutations of the coordinates, integers `[M, D]`.

    Returns:
      Nats, `[B]`. One member is evaluated after the other.
    """
    members = jax.lax.map(lambda m: model.log_prob(m[0], x[:, m[1]]), (params, jnp.asarray(orders)))
    return log_mean_exp(members, axis=0)
