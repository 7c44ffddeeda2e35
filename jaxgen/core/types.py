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


class AutoregressiveModel(NamedTuple):
    """The autoregressive contract over `x` of integers in [0, V), `[..., D]`, in a fixed order.

    Attributes:
      logits: `(params, x [..., D]) -> [..., D, V]`; row i is log p(x_i | x_<i), unnormalised.
      init_cache: `(params, batch_size) -> cache`, a pytree of arrays of fixed shape.
      step: `(params, cache, index, previous [B]) -> (logits [B, V], cache)`; the logits of
        x_index given the symbols fed so far. `previous` is x_{index−1}; at index 0 it is ignored.
      prefill: `(params, prompt [B, P]) -> (logits [B, P, V], cache)`: what steps 0 to P − 1 along
        the prompt give, in one pass where the model can; step P follows, and feeds x_{P−1}.
      num_dims: D.
      num_symbols: V.
      resize: `(params, cache, length) -> cache` with room for the first `length` coordinates alone;
        `step` takes a cache of any length that has room for its index. None where the size of a
        cache does not depend on the length.
      block_size: where there is `resize`, samplers let the cache grow by so many coordinates. Room
        that is not there yet costs no time, and a growing cache is never sliced or copied by a
        step.
    """

    logits: Callable[[Params, Array], Array]
    init_cache: Callable[[Params, int], Any]
    step: Callable[[Params, Any, Array, Array], tuple[Array, Any]]
    prefill: Callable[[Params, Array], tuple[Array, Any]]
    num_dims: int
    num_symbols: int
    resize: Callable[[Params, Any, int], Any] | None = None
    block_size: int = 1


class LatentVariableModel(NamedTuple):
    """The latent-variable contract: three distributions; the latent z may be a tuple of groups.

    Each distribution has `log_prob` and `sample_and_log_prob`, as in distrax.

    Attributes:
      prior: `(params) -> p(z)`.
      posterior: `(params, x [B, ...]) -> q(z | x)`, with batch shape [B].
      likelihood: `(params, z [..., B, Z]) -> p(x | z)`, with batch shape [..., B].
    """

    prior: Callable[[Params], Any]
    posterior: Callable[[Params, Array], Any]
    likelihood: Callable[[Params, Any], Any]
