"""Adam in the eigenbasis of Shampoo, for losses that Adam itself descends slowly."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.checks import check_count, check_in_range
from jaxgen.core.types import Array

Sides = dict[int, Array]
"""A square matrix for each axis of a parameter that is rotated."""


class ScaleBySoapState(NamedTuple):
    """What the transformation carries; all but `step` are trees over the parameters.

    Attributes:
      step: updates so far.
      mean: the gradient's moving average.
      square: that of its square, in the eigenbasis.
      covariance: for each rotated axis, the moving average of the gradient times its transpose.
      basis: the eigenvectors of each, as columns.
    """

    step: Array
    mean: optax.Params
    square: optax.Params
    covariance: optax.Params
    basis: optax.Params


def scale_by_soap(
    *,
    mean_decay: float = 0.9,
    square_decay: float = 0.99,
    refresh_every: int = 50,
    max_size: int = 256,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    r"""Adam's direction, found in the basis where the gradient's coordinates are uncorrelated.

    .. math:: L = \overline{G G^\top}, \quad R = \overline{G^\top G}, \quad
       G' = Q_L^\top G\, Q_R, \quad
       \Delta = Q_L \left( Q_L^\top \bar G\, Q_R \big/ \sqrt{\overline{G'^2}} \right) Q_R^\top

    with the eigenvectors :math:`Q_L` of L and :math:`Q_R` of R, and bars for moving averages. The
    eigenvectors follow by a step of orthogonal iteration every `refresh_every` updates. From "SOAP:
    Improving and Stabilizing Shampoo using Adam" (Vyas et al. 2024). Parameters that are no
    matrices, and axes that are too long, are left as they are; with neither it is Adam.

    Args:
      mean_decay: of the gradient's moving average.
      square_decay: of those of its square and of its covariances.
      refresh_every: updates between two refreshings of the eigenvectors.
      max_size: the longest axis to rotate; an update costs two products with a matrix of that size.
      epsilon: added to the root.

    Returns:
      The transformation, to be followed by `optax.scale_by_learning_rate`.
    """
    for name, decay in (("mean_decay", mean_decay), ("square_decay", square_decay)):
        check_in_range(name, decay, 0.0, 1.0, open_upper=True)
    check_count("refresh_every", refresh_every)
    check_count("max_size", max_size)

    def sides(leaf: Array) -> list[int]:
        return [i for i in range(2) if leaf.ndim == 2 and 1 < leaf.shape[i] <= max_size]

    def init(params: optax.Params) -> ScaleBySoapState:
        def square_of(make: Callable[[int], Array]) -> optax.Params:
            return jax.tree.map(lambda p: {i: make(p.shape[i]) for i in sides(p)}, params)

        return ScaleBySoapState(
            jnp.zeros((), jnp.int32),
            optax.tree.zeros_like(params),
            optax.tree.zeros_like(params),
            square_of(lambda size: jnp.zeros((size, size))),
            square_of(jnp.eye),
        )

    def update(
        updates: optax.Updates, state: ScaleBySoapState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleBySoapState]:
        del params
        step = state.step + 1
        is_due = (step % refresh_every == 0) | (step == 1)

        def update_leaf(
            gradient: Array, mean: Array, square: Array, covariance: Sides, basis: Sides
        ) -> tuple[Array, Array, Array, Sides, Sides]:
            outer = {i: _outer(gradient, i) for i in basis}
            covariance = optax.incremental_update(outer, covariance, 1 - square_decay)
            basis = jax.lax.cond(is_due, _refreshed, lambda _, basis: basis, covariance, basis)
            mean = optax.incremental_update(gradient, mean, 1 - mean_decay)
            square = optax.incremental_update(
                _to_basis(gradient, basis) ** 2, square, 1 - square_decay
            )
            root = jnp.sqrt(square / (1 - square_decay**step)) + epsilon
            direction = _to_basis(mean / (1 - mean_decay**step), basis) / root
            return _from_basis(direction, basis), mean, square, covariance, basis

        results = jax.tree.map(update_leaf, updates, *state[1:])
        directions, *parts = (
            jax.tree.map(lambda _, result, i=i: result[i], updates, results) for i in range(5)
        )
        return directions, ScaleBySoapState(step, *parts)

    return optax.GradientTransformation(init, update)


def _outer(x: Array, axis: int) -> Array:
    return x @ x.T if axis == 0 else x.T @ x


def _refreshed(covariance: Sides, basis: Sides) -> Sides:
    return {i: jnp.linalg.qr(covariance[i] @ basis[i])[0] for i in basis}


def _to_basis(x: Array, basis: Sides) -> Array:
    x = basis[0].T @ x if 0 in basis else x
    return x @ basis[1] if 1 in basis else x


def _from_basis(x: Array, basis: Sides) -> Array:
    x = basis[0] @ x if 0 in basis else x
    return x @ basis[1].T if 1 in basis else x
