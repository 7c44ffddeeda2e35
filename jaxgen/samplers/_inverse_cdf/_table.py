"""The tabulated quantile function of a density, and what it answers.

A table is two-sided. A draw is a tail (one random bit) and the mass v ∈ (0, ½] beyond the point in
that tail (all the other bits), so 1 − v is never formed and both tails keep their precision.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless
from jaxgen.core._types import Array, Key, LogProbFn, Params
from jaxgen.samplers._inverse_cdf._cells import Cells, Shape, evaluate
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, locate_point
from jaxgen.samplers._inverse_cdf._expectation import (
    QuadratureEstimate,
    density_nodes,
    integrate_values,
)
from jaxgen.samplers._inverse_cdf._panels import Panels, mass_below
from jaxgen.samplers._log_prob_fn import scalar_log_prob
from jaxgen.samplers._random_bits import stored_random_bits

_MAX_X_ERROR = 0.01  # a step from one x to the next holds at most about twice that


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InverseCDF:
    r"""A one-dimensional density with its quantile function; made by `inverse_cdf`.

    .. math:: x(u) = F^{-1}(u), \qquad F(x) = \frac{1}{Z} \int_{-\infty}^x \tilde p(y)\,dy

    It is a pytree: pass it to compiled functions, and map over many of them at once with
    `jax.vmap(lambda table: table.quantile(u))(tables)`.

    Attributes:
      support: the ends of the support, `[2]`.
      coordinate: the map from the real line onto the support.
      tails: the integral from either end, for `cdf`; `Panels` with a leading axis of 2.
      cells: the quantile function of either tail.
      params: the parameters of the density.
      log_normalizer: log Z = log ∫ exp(log_prob_fn), nats, a scalar.
      u_error: the largest `|F(x(v)) − v|` measured over every cell of both tails, plus the
        estimated error of F, a scalar. Measured on x as its offset from the anchor of its tail.
        It certifies the mass that was found: `inverse_cdf` says what its search cannot see.
        NaN or infinite when building failed.
      x_error: the same measured on x itself, a scalar: its rounding counts, which is large where
        x is far from 0 for its scale, or next to an end that is not 0.
      log_prob_fn: the unnormalized log-density (static).
      shape: sizes of the cells (static).
      num_levels: how often cells are cut further (static).
    """

    support: Array
    coordinate: Coordinate
    tails: Panels
    cells: Cells
    params: Params
    log_normalizer: Array
    u_error: Array
    x_error: Array
    log_prob_fn: LogProbFn = dataclasses.field(metadata={"static": True})
    shape: Shape = dataclasses.field(metadata={"static": True})
    num_levels: int = dataclasses.field(metadata={"static": True})

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Draw independently: one 32-bit word a draw in float32, one 64-bit word in float64.

        Args:
          key: a typed key.
          shape: of the result.

        Returns:
          x, `shape`, differentiable in the parameters of the density.

        Raises:
          TypeError: `key` is not a typed key.
          ValueError: `key` is an array of keys, or `shape` holds 2³² numbers or more; x cannot
            hold the draws, as in `tail_quantile`.
        """
        return self.tail_quantile(*self.tail_uniforms(key, shape))

    def tail_uniforms(self, key: Key, shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Draw what `sample` turns into x: a tail, and the mass beyond x in it.

        `table.tail_offset(*table.tail_uniforms(key, shape))` are draws as distances from an
        anchor, right also where x itself has too few digits.

        Args:
          key: a typed key.
          shape: of the results.

        Returns:
          Whether each is in the upper tail, booleans `shape`, and v in (0, ½], `shape`: in float32
          the smallest is 2^-33, in float64 2^-65.

        Raises:
          TypeError: `key` is not a typed key.
          ValueError: `key` is an array of keys, or `shape` holds 2³² numbers or more.
        """
        dtype = self.cells.center.dtype
        word = jnp.uint64 if dtype == jnp.float64 else jnp.uint32
        bits = stored_random_bits(key, shape, word)
        num_bits = jnp.iinfo(word).bits
        signed = jnp.int64 if dtype == jnp.float64 else jnp.int32
        rest = (bits & jnp.asarray(2 ** (num_bits - 1) - 1, word)).astype(signed).astype(dtype)
        v = rest * 2.0**-num_bits + 2.0 ** (-num_bits - 1)
        return bits >> (num_bits - 1) != 0, v

    def quantile(self, u: ArrayLike) -> Array:
        """Return the quantiles x(u), differentiable in u and in what made the table.

        Floats have no resolution near u = 1: use `tail_quantile` for the upper tail.

        Args:
          u: probabilities, `[...]`.

        Returns:
          x, `[...]`; the ends of the support at 0 and 1, NaN outside [0, 1].
        """
        u = jnp.asarray(u).astype(self.cells.center.dtype)
        is_upper = u > 0.5
        x = self.tail_quantile(is_upper, jnp.where(is_upper, 1 - u, u))
        x = jnp.where(u == 0, self.support[0], jnp.where(u == 1, self.support[1], x))
        return nan_unless((u >= 0) & (u <= 1), x)

    def tail_quantile(self, is_upper: ArrayLike, v: ArrayLike) -> Array:
        """Return the point with mass v beyond it: F(x) = v, or 1 − F(x) = v in the upper tail.

        The two-sided core that `sample` drives; differentiable in v and in what made the table.

        Args:
          is_upper: which tail, booleans `[...]`.
          v: mass in (0, ½], `[...]`; below 2^-65 (2^-35 in a traced float32 table) it counts as
            that.

        Returns:
          x, `[...]`, in the dtype of the table; NaN where `x_error` is above 0.01.

        Raises:
          ValueError: `x_error` is above 0.01 (outside a trace): the values that x can take are so
            far apart that the draws are not of the density. `tail_offset` has no such limit.
        """
        if not isinstance(self.x_error, jax.core.Tracer):
            _check_resolution(self.x_error, self.cells.center.dtype)
        x = self._evaluate(self.cells.center, is_upper, v)
        x = jnp.clip(x, self.support[0], self.support[1])
        return nan_unless(self.x_error <= _MAX_X_ERROR, x)

    def tail_offset(self, is_upper: ArrayLike, v: ArrayLike) -> Array:
        """Return `tail_quantile` less `cells.anchors[is_upper]`, not rounded to x in between.

        The anchor is an end of the support where one is finite, and the middle of the highest mode
        on the whole line. Near an end that is not zero, as for beta(½, ½) near 1, or for a mode far
        from 0 for its scale, only the distance to it can express a quantile.

        Args:
          is_upper: which tail, booleans `[...]`.
          v: mass in (0, ½], `[...]`.

        Returns:
          The offset, `[...]`, in the dtype of the table.
        """
        return self._evaluate(self.cells.offset, is_upper, v)

    def cdf(self, x: ArrayLike) -> Array:
        """Return the distribution function F(x), `[...]`; near 1 `tail_mass` says more."""
        is_upper, v = self.tail_mass(x)
        return jnp.where(is_upper, 1 - v, v)

    def tail_mass(self, x: ArrayLike) -> tuple[Array, Array]:
        """Return which tail x is in and the mass v ≤ ½ beyond it: the inverse of `tail_quantile`.

        Args:
          x: points, `[...]`.

        Returns:
          Whether each is in the upper tail, booleans `[...]`, and v, `[...]`.
        """
        x = jnp.asarray(x).astype(self.cells.center.dtype)
        inside = jnp.clip(x.ravel(), self.support[0], self.support[1])
        z = locate_point(self.coordinate, inside)
        lower, upper = (
            mass_below(jax.tree.map(lambda a, i=i: a[i], self.tails), s * z)[0]
            for i, s in ((0, 1), (1, -1))
        )
        is_upper = upper < lower
        return is_upper.reshape(x.shape), jnp.where(is_upper, upper, lower).reshape(x.shape)

    def log_prob(self, x: ArrayLike) -> Array:
        """Return the normalized log-density in nats, `[...]`; −inf outside the support."""
        x = jnp.asarray(x).astype(self.cells.center.dtype)
        inside = (x >= self.support[0]) & (x <= self.support[1])
        log_prob = functools.partial(scalar_log_prob, self.log_prob_fn, self.params)
        value = jax.vmap(log_prob)(x.ravel()).reshape(x.shape)
        return jnp.where(inside, value - self.log_normalizer, -jnp.inf)

    def expectation(self, f: Callable[[Array], Array]) -> QuadratureEstimate:
        r"""Integrate a function against the density over the panels of the table.

        .. math:: E[f(x)] = \int f(x(z))\, g(z)\, dz

        Differentiable in the parameters of the density, and in what `f` closes over, with no
        randomness: where draws must cross a gap between modes to follow their parameters, the
        gradient of a sampled mean is unbiased but as noisy as the gap is deep, and this one is
        exact. Sampling is for functions of many draws, for kinks and jumps in `f`, and for models
        in which x is one of several variables.

        Args:
          f: `(x) -> [...]`, real numbers, smooth; where it is not, `error` says what that costs.

        Returns:
          `QuadratureEstimate`. Its error is infinite where f g does not fall toward an end of the
          support, as for the mean of a Cauchy, or is not finite.
        """
        panels = jax.tree.map(lambda leaf: leaf[0], self.tails)
        nodes = density_nodes(panels, self.coordinate, self.support)
        values = jax.vmap(f)(nodes.x.ravel())
        return integrate_values(nodes, values, self.u_error)

    def as_distribution(self) -> Any:
        """Return a `distrax.Distribution` over scalars, differentiable in its parameters."""
        return _distribution_class()(self)

    def _evaluate(self, center: Array, is_upper: ArrayLike, v: ArrayLike) -> Array:
        tail, mass = jnp.broadcast_arrays(jnp.asarray(is_upper), jnp.asarray(v))
        mass = mass.astype(center.dtype)
        return _evaluated(self.cells, center, tail, mass, self.shape, self.num_levels)


_evaluated = jax.jit(evaluate, static_argnums=(4, 5), inline=True)


def _check_resolution(x_error: ArrayLike, dtype: np.dtype) -> None:
    largest = np.max(np.asarray(x_error))
    if _MAX_X_ERROR < largest <= 1:
        raise ValueError(
            f"x in {dtype.name} cannot hold this density: numbers there are so far apart that "
            f"rounding moves {largest:.2g} of the mass. Let log_prob_fn take x less its location, "
            "enable 64-bit types, or take the distance from table.cells.anchors, by "
            "table.tail_offset(*table.tail_uniforms(key, shape))"
        )


@functools.cache
def _distribution_class() -> type:
    import distrax  # brings TensorFlow Probability, seconds of import

    class Tabulated(distrax.Distribution):
        # The table is an attribute, so that the distribution is a pytree of its arrays.
        def __init__(self, table: InverseCDF) -> None:
            self.table = table

        def _sample_n(self, key: Key, n: int) -> Array:
            return self.table.sample(key, (n,))

        def log_prob(self, value: Array) -> Array:
            return self.table.log_prob(value)

        def cdf(self, value: Array) -> Array:
            return self.table.cdf(value)

        @property
        def event_shape(self) -> tuple[int, ...]:
            return ()

        @property
        def batch_shape(self) -> tuple[int, ...]:
            return ()

    return Tabulated
