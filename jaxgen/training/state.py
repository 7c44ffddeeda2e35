"""What a training step changes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.types import Array, Params


class TrainState(NamedTuple):
    """The whole state of an optimisation: with the data and a key it determines every later step.

    Attributes:
      step: how many steps were taken, scalar int32.
      params: the parameters.
      opt_state: the optimiser's state.
      average: exponential moving average of the parameters, a pytree like `params`.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    average: Params


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Parameters and average are copies, so that a step may write over both in place and the caller's
    arrays stay.
    """
    params, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)
