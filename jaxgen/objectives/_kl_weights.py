"""Against early posterior collapse: free bits, and schedules of the KL term's weight."""

import jax.numpy as jnp

from jaxgen.core._checks import check_count, check_in_range, check_rank
from jaxgen.core._types import Array


def free_bits(kl: Array, minimum: float) -> Array:
    r"""Return a KL term that presses no group of latents below some nats (Kingma et al. 2016).

    .. math:: \sum_g \max\left(\lambda, \frac1B \sum_b \mathrm{KL}_{bg}\right)

    It replaces the mean KL in a training loss, and is no bound: report the ELBO without it.

    Args:
      kl: KL of each group (or coordinate) of latents, nats `[B, G]`.
      minimum: λ, nats each group may use for free.

    Returns:
      A scalar, nats.

    >>> import jax.numpy as jnp
    >>> float(free_bits(jnp.array([[0.1, 2.0], [0.1, 4.0]]), 0.5))
    3.5
    """
    check_rank("kl", kl, 2)
    check_in_range("minimum", minimum, 0.0, float("inf"), open_upper=True)
    return jnp.sum(jnp.maximum(jnp.mean(kl, axis=0), minimum))


def cyclical_weight(step: Array, period: int, ramp_fraction: float = 0.5) -> Array:
    """Return β, which in every period rises linearly from 0 to 1 and stays (Fu et al. 2019).

    For one rise alone `optax.linear_schedule` does.

    Args:
      step: the training step, a scalar.
      period: steps in a cycle.
      ramp_fraction: the share of a cycle spent rising, in (0, 1].

    >>> [round(float(cyclical_weight(step, 10)), 3) for step in (0, 1, 5, 9, 10)]
    [0.0, 0.2, 1.0, 1.0, 0.0]
    """
    check_count("period", period)
    check_in_range("ramp_fraction", ramp_fraction, 0.0, 1.0, open_lower=True)
    position = jnp.asarray(step) % period / period
    return jnp.minimum(position / ramp_fraction, 1.0)
