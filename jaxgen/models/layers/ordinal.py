"""Codes for symbols that have an order, such as grey levels."""

import jax.numpy as jnp

from jaxgen.core.types import Array


def thermometer(x: Array, num_symbols: int) -> Array:
    """Encode symbols as the levels they reach: (x ≥ 1, x ≥ 2, …, x ≥ V − 1).

    A linear layer over it has the freedom of one over a one-hot code, but neighbouring levels share
    their weights. For bits (V = 2) it is the bit itself.

    Args:
      x: integers in [0, V), `[...]`.
      num_symbols: V.

    Returns:
      Zeros and ones, float32 `[..., V − 1]`.

    >>> import jax.numpy as jnp
    >>> thermometer(jnp.array([0, 2, 3]), 4).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    levels = jnp.arange(1, num_symbols).reshape((1,) * jnp.ndim(x) + (-1,))
    return (jnp.asarray(x)[..., None] >= levels).astype(jnp.float32)


def cumulative_logits(increments: Array) -> Array:
    r"""Logits from their increments, :math:`\ell_v = \sum_{w \le v} s_w`.

    Any logits can be written so; weight decay on what produces the increments then draws
    neighbouring levels together instead of drawing all levels towards zero apart.

    Args:
      increments: `[..., V]`.

    Returns:
      Logits, `[..., V]`.
    """
    return jnp.cumsum(increments, axis=-1)
