"""SOAP: Adam in the eigenbases of the gradient's second moments."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core._types import Array, Params

_REFRESH_EVERY = 10
"""Steps from one orthogonalization of the bases to the next."""
_DECAY = 0.95
"""Of all averages."""
_EPSILON = 1e-8
"""Added to the root of the mean square."""

Pair = tuple[Array | None, Array | None]
"""Something for the rows of a matrix and for its columns; None where there is no rotation."""


class SoapState(NamedTuple):
    """Per leaf, in the order of `jax.tree.leaves`.

    Attributes:
      step: steps taken.
      products: averages of G Gᵀ and GᵀG.
      bases: their eigenvectors, as columns, the largest eigenvalue first.
      mean: average of the gradient G.
      square: average of the square of the rotated gradient.
    """

    step: Array
    products: list[Pair]
    bases: list[Pair]
    mean: list[Array]
    square: list[Array]


def soap(
    learning_rate: optax.ScalarOrSchedule, *, max_size: int = 256
) -> optax.GradientTransformation:
    """Build SOAP, an Adam whose steps are taken in slowly turning bases (Vyas et al. 2024).

    With G the gradient of a matrix, and the eigenvectors Q_L of the average of G Gᵀ and Q_R of that
    of Gᵀ G, Adam's rule applies to Q_Lᵀ G Q_R and its step is rotated back; anything but a matrix
    gets Adam's step. The rotations make a step cost more than Adam's, so it is for losses that are
    costly themselves, such as those of many samples.

    Args:
      learning_rate: a number, or a function of the step.
      max_size: axes longer than this, such as the pixels, keep their own basis: eigenvectors take
        the cube of a size.

    Returns:
      An Optax transformation; chain gradient clipping before it.
    """
    rate_fn = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)

    def init(params: Params) -> SoapState:
        leaves = jax.tree.leaves(params)
        mean, square = ([jnp.zeros_like(p) for p in leaves] for _ in range(2))
        products = [_square_matrices(p, max_size, jnp.zeros) for p in leaves]
        bases = [_square_matrices(p, max_size, lambda shape: jnp.eye(shape[0])) for p in leaves]
        return SoapState(jnp.zeros((), jnp.int32), products, bases, mean, square)

    def update(
        gradient: Params, state: SoapState, params: Params | None = None
    ) -> tuple[Params, SoapState]:
        del params
        gradients, tree = jax.tree.flatten(gradient)
        step = state.step + 1

        def averaged(old: Array, new: Array) -> Array:
            return _DECAY * old + (1 - _DECAY) * new

        products = [
            jax.tree.map(averaged, old, _products(g, old))
            for g, old in zip(gradients, state.products, strict=True)
        ]
        bases = _refreshed(step, products, state.bases)
        mean = [averaged(m, g) for g, m in zip(gradients, state.mean, strict=True)]
        rotated = [_rotate(g, basis) for g, basis in zip(gradients, bases, strict=True)]
        square = [averaged(v, g**2) for g, v in zip(rotated, state.square, strict=True)]
        correction = 1 - _DECAY**step
        rate = rate_fn(state.step)

        def change(m: Array, v: Array, basis: Pair) -> Array:
            scaled = _rotate(m, basis) / correction / (jnp.sqrt(v / correction) + _EPSILON)
            return -rate * _rotate(scaled, jax.tree.map(jnp.transpose, basis))

        changes = list(map(change, mean, square, bases))
        return jax.tree.unflatten(tree, changes), SoapState(step, products, bases, mean, square)

    return optax.GradientTransformation(init, update)


def _square_matrices(p: Array, max_size: int, fill: Callable[[tuple[int, int]], Array]) -> Pair:
    if p.ndim != 2:
        return None, None
    rows, columns = (fill((size, size)) if size <= max_size else None for size in p.shape)
    return rows, columns


def _products(g: Array, like: Pair) -> Pair:
    rows, columns = like
    return None if rows is None else g @ g.T, None if columns is None else g.T @ g


def _rotate(g: Array, basis: Pair) -> Array:
    rows, columns = basis
    g = g if rows is None else rows.T @ g
    return g if columns is None else g @ columns


def _refreshed(step: Array, products: list[Pair], bases: list[Pair]) -> list[Pair]:
    """A step of orthogonal iteration now and then, after eigenvectors proper at the start."""

    def eigenvectors(product: Array, _: Array) -> Array:
        return jnp.linalg.eigh(product)[1][:, ::-1]

    def iterated(product: Array, basis: Array) -> Array:
        return jnp.linalg.qr(product @ basis)[0]

    def refresh() -> list[Pair]:
        return jax.lax.cond(
            step <= _REFRESH_EVERY,
            lambda: jax.tree.map(eigenvectors, products, bases),
            lambda: jax.tree.map(iterated, products, bases),
        )

    is_due = (step == 1) | (step % _REFRESH_EVERY == 0)
    return jax.lax.cond(is_due, refresh, lambda: bases)
