"""Terms and updates that train a codebook: copied gradients, commitment, moving averages."""

import jax
import jax.numpy as jnp

from jaxgen.core._checks import check_in_range, check_key, check_shape
from jaxgen.core._types import Array, Key


def copy_gradient(encoded: Array, vectors: Array) -> Array:
    """Return `vectors`, whose gradient is copied to `encoded` as if nothing had been rounded.

    Args:
      encoded: h, `[..., E]`.
      vectors: the chosen code's vector of each, `[..., E]`.
    """
    return encoded + jax.lax.stop_gradient(vectors - encoded)


def commitment(encoded: Array, vectors: Array) -> Array:
    r"""Return what an encoder pays for its distance from the codes, `[...]`.

    .. math:: \lVert h - \mathrm{sg}[e] \rVert^2

    Summed over the size of a vector; the vectors get no gradient of it (van den Oord et al. 2017).
    """
    return jnp.sum((encoded - jax.lax.stop_gradient(vectors)) ** 2, axis=-1)


def code_usage(codes: Array, num_codes: int) -> Array:
    """Return how many codes are in use, exp of the entropy of their frequencies: 1 to K.

    Args:
      codes: integers in [0, K), any shape.
      num_codes: K.
    """
    frequency = jnp.bincount(codes.reshape(-1), length=num_codes) / codes.size
    return jnp.exp(jnp.sum(jax.scipy.special.entr(frequency)))


def moving_average_codebook(
    key: Key,
    sums: Array,
    counts: Array,
    encoded: Array,
    codes: Array,
    *,
    decay: float = 0.99,
    revive_below: float = 0.1,
) -> tuple[Array, Array]:
    r"""Update the moving averages behind a codebook by one batch (van den Oord et al. 2017).

    .. math:: n_k \leftarrow \gamma n_k + (1 - \gamma) \sum_t [z_t = k], \qquad
       m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_t [z_t = k]\, h_t

    The vector of a code is m_k / n_k. A code that is used less than `revive_below` times a batch is
    put where a vector drawn from the batch is, with a count of one. No gradient is involved: in a
    training this is what `after_step_fn` of `jaxgen.training.fit` does.

    Args:
      key: a typed key.
      sums: m, `[K, E]`.
      counts: n, `[K]`.
      encoded: h of a batch, `[N, E]`.
      codes: z of each, integers `[N]`.
      decay: γ.
      revive_below: the count under which a code is dead.

    Returns:
      The new sums and counts.
    """
    check_key(key)
    check_in_range("decay", decay, 0.0, 1.0, open_upper=True)
    num_codes, size = sums.shape
    check_shape("counts", counts, (num_codes,))
    check_shape("encoded", encoded, (*codes.shape, size))
    batch_counts = jnp.bincount(codes, length=num_codes).astype(counts.dtype)
    batch_sums = jnp.zeros(sums.shape).at[codes].add(encoded)
    new_counts = decay * counts + (1 - decay) * batch_counts
    new_sums = decay * sums + (1 - decay) * batch_sums
    is_dead = new_counts < revive_below
    places = jax.random.randint(key, (num_codes,), 0, encoded.shape[0])
    new_sums = jnp.where(is_dead[:, None], encoded[places], new_sums)
    return new_sums, jnp.where(is_dead, 1.0, new_counts)
