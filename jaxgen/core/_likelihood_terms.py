"""Log-likelihood terms that are exact, stable and cheap to differentiate."""

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_symbols, nan_unless
from jaxgen.core._checks import check_float_array
from jaxgen.core._types import Array


@jax.custom_jvp
def _bernoulli(logits: Array, x: Array) -> Array:
    # x·l − softplus(l), with softplus(l) = max(l, 0) + log1p(exp(−|l|)).
    return x * logits - jnp.maximum(logits, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))


@_bernoulli.defjvp
def _bernoulli_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple:
    logits, x = primals
    logits_dot, x_dot = tangents
    # One sigmoid is the whole derivative; differentiating through the terms above costs three.
    return _bernoulli(logits, x), (x - jax.nn.sigmoid(logits)) * logits_dot + logits * x_dot


@jax.custom_jvp
def _log_sigmoid(log_odds: Array) -> Array:
    # A softmax over two symbols; unlike `_bernoulli` it takes ±inf, for a symbol that is forbidden.
    return jnp.minimum(log_odds, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(log_odds)))


@_log_sigmoid.defjvp
def _log_sigmoid_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple:
    (log_odds,), (log_odds_dot,) = primals, tangents
    return _log_sigmoid(log_odds), jax.nn.sigmoid(-log_odds) * log_odds_dot


def bernoulli_log_prob(logits: Array, x: Array) -> Array:
    r"""Return the log-probability of bits, elementwise, in nats.

    .. math:: \log p(x) = x \ell - \log(1 + e^{\ell})

    Args:
      logits: log-odds ℓ of a one, `[...]`, any finite value; not probabilities.
      x: zeros and ones, or gray levels in [0, 1] for the expected log-probability, same shape as
        `logits` after broadcasting.

    Returns:
      Nats, `[...]`. Float32 at least, whatever the dtype of `logits`.

    >>> import jax.numpy as jnp
    >>> float(bernoulli_log_prob(jnp.array(-200.0), jnp.array(1.0)))
    -200.0
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits, x = jnp.broadcast_arrays(logits.astype(dtype), jnp.asarray(x).astype(dtype))
    return _bernoulli(logits, x)


def categorical_log_prob(logits: Array, x: Array) -> Array:
    r"""Return the log-probability of symbols under a softmax over the last axis, in nats.

    .. math:: \log p(x) = \ell_x - \log \sum_v e^{\ell_v}

    Args:
      logits: unnormalized log-probabilities, `[..., V]`; −inf forbids a symbol.
      x: symbols in [0, V), integers of any dtype, `[...]`. A symbol outside gives NaN.

    Returns:
      Nats, `[...]`. Float32 at least, whatever the dtype of `logits`.
    """
    logits = jnp.asarray(logits)
    check_float_array("logits", logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_symbols = logits.shape[-1]
    x = as_symbols("x", x, num_symbols)
    inside = x >= 0
    if num_symbols == 2:
        log_odds = logits[..., 1] - logits[..., 0]
        signed = jnp.where(x == 1, log_odds, -log_odds)
        return nan_unless(inside, _log_sigmoid(signed))
    chosen = jnp.take_along_axis(logits, jnp.maximum(x, 0)[..., None], axis=-1, mode="clip")
    return nan_unless(inside, chosen[..., 0] - jax.nn.logsumexp(logits, axis=-1))
