"""What trains a codebook: straight-through gradients, commitment, moving averages, revival."""

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_in_range, check_key, check_shape
from jaxgen.core.types import Array, Key


def straight_through(encoded: Array, vectors: Array) -> Array:
    """`vectors`, whose derivative goes to `encoded` as if nothing had been rounded.

    Args:
      encoded: h, `[..., E]`.
      vectors: the chosen code's vector of each, `[..., E]`.
    """
    return encoded + jax.lax.stop_gradient(vectors - encoded)


def commitment(encoded: Array, vectors: Array) -> Array:
    r"""What an encoder pays for distance, :math:`\lVert h - \mathrm{sg}[e] \rVert^2`: `[...]`.

    Summed over the size of a vector; the vectors get no gradient of it (van den Oord et al. 2017).
    """
    return jnp.sum((encoded - jax.lax.stop_gradient(vectors)) ** 2, axis=-1)


def perplexity(codes: Array, num_codes: int) -> Array:
    """How many codes are in use, exp of the entropy of their frequencies: between 1 and K."""
    frequency = jnp.bincount(codes.reshape(-1), length=num_codes) / codes.size
    return jnp.exp(jnp.sum(jax.scipy.special.entr(frequency)))


def moving_average_surrogate(
    key: Key,
    sums: Array,
    counts: Array,
    encoded: Array,
    codes: Array,
    *,
    decay: float = 0.99,
    revive_below: float = 0.1,
) -> Array:
    r"""A term whose gradient step is the codebook's moving average (van den Oord et al. 2017).

    .. math:: n_k \leftarrow \gamma n_k + (1 - \gamma) \sum_t [z_t = k], \qquad
       m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_t [z_t = k]\, h_t

    is plain gradient descent at rate 1 − γ on this term, which is added to a loss and is worth
    nothing itself: give `sums` and `counts` `optax.sgd(1 - decay)`, by `optax.multi_transform`, and
    no clipping. So a codebook trains, is averaged and is saved as any parameter. A code that is
    used less than `revive_below` times a batch is put where a vector drawn from the batch is, with
    a count of one.

    Args:
      key: a typed key.
      sums: m, `[K, E]`.
      counts: n, `[K]`.
      encoded: h of a batch, `[N, E]`.
      codes: z of each, integers `[N]`.
      decay: γ.
      revive_below: the count under which a code is dead.

    Returns:
      Zero, with that gradient in `sums` and `counts` and none in anything else.
    """
    check_key(key)
    check_in_range("decay", decay, 0.0, 1.0, open_upper=True)
    num_codes, size = sums.shape
    check_shape("counts", counts, (num_codes,))
    check_shape("encoded", encoded, (*codes.shape, size))
    encoded = jax.lax.stop_gradient(encoded)
    batch_counts = jnp.bincount(codes, length=num_codes).astype(counts.dtype)
    batch_sums = jnp.zeros(sums.shape).at[codes].add(encoded)
    old_sums, old_counts = jax.lax.stop_gradient((sums, counts))
    new_counts = decay * old_counts + (1 - decay) * batch_counts
    new_sums = decay * old_sums + (1 - decay) * batch_sums
    is_dead = new_counts < revive_below
    places = jax.random.randint(key, (num_codes,), 0, encoded.shape[0])
    new_sums = jnp.where(is_dead[:, None], encoded[places], new_sums)
    new_counts = jnp.where(is_dead, 1.0, new_counts)
    slope_sums, slope_counts = old_sums - new_sums, old_counts - new_counts
    moved = jnp.sum((sums - old_sums) * slope_sums) + jnp.sum((counts - old_counts) * slope_counts)
    return moved / (1 - decay)
