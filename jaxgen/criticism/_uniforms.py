"""The model's map run backwards: data to uniforms, which are uniform if the model is right."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxgen.core._checks import check_count, check_integer_array, check_key, check_shape
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._types import Array, Key, Params


def rosenblatt(
    key: Key, model: AutoregressiveModel, params: Params, x: Array, *, context: Any = None
) -> Array:
    r"""Map data back to the uniforms that `quantile` could have made them from.

    .. math:: u_i = P(X_i < x_i \mid x_{<i}) + v_i\, P(X_i = x_i \mid x_{<i}),
      \qquad v_i \sim U(0, 1)

    Rosenblatt's transform (1952), randomized within the steps of discrete CDFs (Brockwell 2007).
    The u_i are uniform and independent if and only if the data come from the model.

    Args:
      key: a typed key.
      model: an autoregressive model over D coordinates.
      params: parameters of the model.
      x: data `[N, D]`.
      context: what the model is conditioned on, for each of N or for all.

    Returns:
      Uniforms, float32 `[N, D]`. `jaxgen.samplers.quantile` maps them to `x` again, up to
      uniforms within rounding of a step of a CDF.
    """
    check_key(key)
    return _rosenblatt(key, model, params, jnp.asarray(x), context)


@functools.partial(jax.jit, inline=True)
def _rosenblatt(
    key: Key, model: AutoregressiveModel, params: Params, x: Array, context: Any
) -> Array:
    outputs = model.outputs(params, x, context=context)
    return model.conditional_or_default.cdf(outputs, x, jax.random.uniform(key, x.shape))


@functools.partial(jax.jit, static_argnames="batch_size")
def _log_probs(
    model: AutoregressiveModel, params: Params, x: Array, context: Any, *, batch_size: int
) -> Array:
    def one(inputs: tuple[Array, Any]) -> Array:
        logits = model.logits(params, inputs[0], context=inputs[1])
        return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)

    return jax.lax.map(one, (x, context), batch_size=batch_size)


def conditional_log_probs(
    model: AutoregressiveModel,
    params: Params,
    x: Any,
    *,
    context: Any = None,
    batch_size: int = 100,
) -> np.ndarray:
    """Return the log-probability of every symbol of every conditional at data `[N, D]`.

    Args:
      model: an autoregressive model over D coordinates of V symbols.
      params: parameters of the model.
      x: data, integers `[N, D]`.
      context: what the model is conditioned on, arrays `[N, ...]`, or None.
      batch_size: data points in a pass.

    Returns:
      NumPy array, float32 `[N, D, V]`: choose N so that it fits in memory.
    """
    check_count("batch_size", batch_size)
    check_shape("x", x, (None, model.num_dims))
    check_integer_array("x", x)
    size = min(batch_size, max(len(x), 1))
    return np.asarray(_log_probs(model, params, jnp.asarray(x), context, batch_size=size))


@functools.partial(jax.jit, static_argnames="batch_size")
def _uniforms(
    keys: Array, model: AutoregressiveModel, params: Params, x: Array, context: Any, batch_size: int
) -> Array:
    def one(inputs: tuple[Array, Array, Any]) -> Array:
        return rosenblatt(inputs[0], model, params, inputs[1], context=inputs[2])

    return jax.lax.map(one, (keys, x, context), batch_size=batch_size)


def uniforms(
    key: Key, model: AutoregressiveModel, params: Params, x: Any, *, context: Any, batch_size: int
) -> np.ndarray:
    """Return `rosenblatt` of data `[N, D]`, of so many points in a pass."""
    keys = jax.random.split(key, len(x))
    return np.asarray(_uniforms(keys, model, params, jnp.asarray(x), context, batch_size))


class Uniformity(NamedTuple):
    """What uniforms look like: p-values of what should hold of them, all in [0, 1].

    Attributes:
      coordinate: of each coordinate's distribution, `[D]`.
      pair: of the correlation of each pair's normal scores, by Student's t, `[D, D]`; 1 on the
        diagonal.
      total: of the sum of a point's normal scores, scalar.
      spread: of the sum of their squares, scalar.
    """

    coordinate: np.ndarray
    pair: np.ndarray
    total: float
    spread: float


def uniformity(u: Any) -> Uniformity:
    r"""Test whether rows are independent uniforms, as those of a right model's `rosenblatt` are.

    Each coordinate by the worst of three: the largest distance between CDFs (Kolmogorov & Smirnov,
    with Stephens' (1970) correction for few points), the mean of normal scores
    :math:`\Phi^{-1}(u)`, and the sum of their squares, :math:`\chi^2_N`, which sees a wrong width.
    Each pair by the correlation of scores; and the rows by the sum of their scores, which is
    normal, and of the squares, which is :math:`\chi^2_D`. The p-values are each valid alone; take
    as many into account as are looked at.

    Args:
      u: uniforms, `[N, D]`, with N of at least 3.

    Returns:
      `Uniformity`.

    Raises:
      ValueError: fewer than 3 rows.
    """
    u = np.asarray(u, np.float64)
    check_shape("u", u, (None, None))
    check_count("the number of rows of u", len(u), minimum=3)
    num_dims = u.shape[1]
    scores = special.ndtri(np.clip(u, 1e-12, 1 - 1e-12))
    total = scores.sum(1) / np.sqrt(num_dims)
    spread = np.sum(scores**2, axis=1)
    return Uniformity(
        _coordinate_p_values(u, scores),
        _correlation_p_values(scores),
        float(_kolmogorov_smirnov(special.ndtr(total)[:, None])[0]),
        float(_kolmogorov_smirnov(special.chdtr(num_dims, spread)[:, None])[0]),
    )


def _coordinate_p_values(u: np.ndarray, scores: np.ndarray) -> np.ndarray:
    num_points = len(u)
    center = 2 * special.ndtr(-np.abs(scores.sum(axis=0)) / np.sqrt(num_points))
    squares = np.sum(scores**2, axis=0)
    tails = special.chdtr(num_points, squares), special.chdtrc(num_points, squares)
    worst = np.minimum(_kolmogorov_smirnov(u), np.minimum(center, 2 * np.minimum(*tails)))
    return np.minimum(3 * worst, 1.0)


def _kolmogorov_smirnov(u: np.ndarray) -> np.ndarray:
    """Return the p-value of each column against the uniform distribution."""
    num_points = len(u)
    ordered = np.sort(u, axis=0)
    ranks = np.arange(num_points)[:, None]
    distance = np.maximum(
        np.max((ranks + 1) / num_points - ordered, axis=0),
        np.max(ordered - ranks / num_points, axis=0),
    )
    root = np.sqrt(num_points)
    return np.asarray(special.kolmogorov(distance * (root + 0.12 + 0.11 / root)))


def _correlation_p_values(scores: np.ndarray) -> np.ndarray:
    num_points, num_dims = scores.shape
    centered = scores - scores.mean(axis=0)
    norms = np.maximum(np.linalg.norm(centered, axis=0), 1e-30)
    correlation = np.clip((centered / norms).T @ (centered / norms), -1.0, 1.0)
    with np.errstate(divide="ignore"):
        t = correlation * np.sqrt((num_points - 2) / (1 - correlation**2))
    p_value = 2 * special.stdtr(num_points - 2, -np.abs(t))
    return np.where(np.eye(num_dims, dtype=bool), 1.0, p_value)
