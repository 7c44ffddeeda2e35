"""Names for what passes between the parts of the library."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
"""A typed key, made by `jax.random.key(seed)`; used once and never returned."""

Params = Any
"""A pytree of arrays: the parameters of a model or a density."""

LogProbFn = Callable[[Params, Array], Array]
"""`log_prob_fn(params, x) -> scalar`, in nats, for one point; batches come from `jax.vmap`."""


class Estimate(NamedTuple):
    """A number with its error.

    Attributes:
      value: the estimate, `[...]`.
      standard_error: its standard error, same shape and units as `value`.
      num_samples: how many independent samples stand behind it, a scalar.
    """

    value: Array
    standard_error: Array
    num_samples: Array
