r"""Sample any one-dimensional density from its log-density: numerical inversion of its CDF.

If U is uniform, x(U) with F(x(u)) = u has the density p = F′. `build` finds where the mass of an
unnormalised density is, integrates it, inverts the integral and stores the inverse as polynomial
cells; `sample` then costs a few table look-ups a draw.

.. math:: x(u) = F^{-1}(u), \qquad F(x) = \frac{1}{Z} \int_{-\infty}^x \tilde p(y)\,dy

The table is two-sided. A draw is a tail (one random bit) and the mass v ∈ (0, ½] beyond the point
in that tail (all the other bits), so 1 − v is never formed and both tails keep their precision.

Derflinger, Hörmann & Leydold 2010, "Random variate generation by numerical inversion when only the
density is known"; implicit gradients: Figurnov, Mohamed & Mnih 2018.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxgen.core import checks
from jaxgen.core.types import Array, Key, LogProbFn, Params
from jaxgen.samplers import inverse_cdf_cells as cells_lib
from jaxgen.samplers.inverse_cdf_cells import Cells, Shape
from jaxgen.samplers.inverse_cdf_coordinate import (
    Coordinate,
    from_support,
    locate_offset,
    log_density_fn,
)
from jaxgen.samplers.inverse_cdf_locate import Location, Search, locate
from jaxgen.samplers.inverse_cdf_panels import Integral, Panels, integrate, mass_below, refine
from jaxgen.samplers.random_bits import stored_random_bits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """The quantile function of a density, ready to evaluate; made by `build`.

    Attributes:
      support: the ends of the support, `[2]`.
      coordinate: the map from the real line onto the support.
      tails: the integral from either end, for `cdf`; see `Panels`, with a leading axis of 2.
      cells: the quantile function of either tail; see `Cells`.
      params: the parameters of the density.
      log_normalizer: log ∫ exp(log_prob_fn), nats, a scalar.
      u_error: the largest `|F(x(v)) − v|` measured over every cell of both tails, plus the
        estimated error of F, a scalar. Measured on x as its offset from the anchor of its tail: an
        x close to an end that is not zero has the rounding of x on top.
        NaN or infinite when building failed.
      log_prob_fn: the unnormalised log-density (static).
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
    log_prob_fn: LogProbFn = dataclasses.field(metadata={"static": True})
    shape: Shape = dataclasses.field(metadata={"static": True})
    num_levels: int = dataclasses.field(metadata={"static": True})


class _Effort(NamedTuple):
    # How hard to look for the mass and to integrate it; static.
    search: Search
    num_nodes: int  # of a panel
    num_rounds: int  # of cutting panels


_EAGER = _Effort(Search(4096, 16, 13, 48, 8, 512, 62.0), num_nodes=16, num_rounds=48)
_TRACED_WIDE = _Effort(Search(1025, 8, 12, 48, 4, 192, 62.0), num_nodes=16, num_rounds=24)
_TRACED = _Effort(Search(513, 4, 7, 22, 2, 96, 36.0), num_nodes=9, num_rounds=12)
_PLANS = {  # by the dtype of the table, and whether it is built eagerly
    ("float32", True): (_EAGER, Shape(64, 4, 3, 3, 24)),
    ("float64", True): (_EAGER, Shape(64, 5, 5, 6, 24)),
    ("float32", False): (_TRACED, Shape(34, 3, 4, 2, 2)),
    ("float64", False): (_TRACED_WIDE, Shape(64, 5, 5, 2, 8)),
}
_MAX_U_ERROR = {"float32": 1.5e-7, "float64": 1e-12}


def build(
    log_prob_fn: LogProbFn,
    params: Params,
    *,
    support: tuple[float, float],
    max_u_error: float | None = None,
) -> Table:
    """Tabulate the quantile function of a density known up to a constant.

    Called with concrete parameters it computes in float64 and stores in the default dtype. Called
    with traced ones (inside `jax.jit`, `jax.vmap` or `jax.grad` with respect to them) it computes
    in the default dtype with fixed shapes, and whatever goes wrong shows in `u_error`. The table,
    and so every sample, is differentiable in `params` (first derivatives), for densities that are
    continuous where they move: an edge inside the support, where the density stops abruptly, gives
    a gradient of NaN, but a finite jump whose place depends on `params` cannot be told from a steep
    slope, and the motion of the jump is missing from the gradient.

    Args:
      log_prob_fn: `(params, x) -> scalar`, the log-density in nats up to a constant; −inf where
        there is none.
      params: its parameters, a pytree.
      support: the ends of the support, numbers; either may be infinite. The density may be
        unbounded at a finite end.
      max_u_error: the u-error above which building is refused. By default that is 1.5e-7 in float32
        and 1e-12 in float64, on top of 2.5 times the u-error of correctly rounded quantiles.

    Returns:
      A `Table`.

    Raises:
      TypeError: the log-density is not a real floating-point number.
      ValueError: bad support; a log-density that is not a scalar; and, with concrete parameters, a
        NaN, a support without mass, infinite mass, or a u-error above `max_u_error`.

    >>> import jax
    >>> whole_line = (-float("inf"), float("inf"))
    >>> table = build(lambda scale, x: -abs(x / scale), 2.0, support=whole_line)
    >>> print(f"{float(quantile(table, 0.75)):.5f}")  # 2 log 2
    1.38629
    """
    ends = _check_support(support)
    dtype = jnp.result_type(float).name
    _check_log_prob(log_prob_fn, params, dtype)
    is_eager = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))
    if not is_eager:
        return _build(log_prob_fn, params, ends, dtype, is_eager).table
    with jax.ensure_compile_time_eval():
        with jax.enable_x64(True):
            built = _build(log_prob_fn, jax.tree.map(_widen, params), ends, dtype, is_eager)
            built = jax.tree.map(np.asarray, built)
        _refuse(built, _MAX_U_ERROR[dtype], max_u_error)
        return jax.tree.map(_narrow, built.table)


class _Built(NamedTuple):
    # A table, and what refusing it depends on.
    table: Table
    has_nan: Array
    has_mass: Array
    mass_error: Array  # of the integral, as a fraction; infinite when the mass is
    excess: Array  # the u-error beyond 2.5 times that of a correctly rounded quantile


def _build(
    log_prob_fn: LogProbFn, params: Params, ends: tuple[float, float], dtype: str, is_eager: bool
) -> _Built:
    effort, shape = _PLANS[dtype, is_eager]
    wide = jnp.result_type(float)
    support = jnp.asarray(ends, wide)
    is_finite = (bool(np.isfinite(ends[0])), bool(np.isfinite(ends[1])))
    coordinate = from_support(support[0], support[1], is_finite)
    location, integral = _integrate(log_prob_fn, params, coordinate, effort)
    coordinate = location.coordinate
    cells, tests, num_levels = cells_lib.build_cells(integral, coordinate, shape, dtype, is_eager)
    u_error, excess = cells_lib.measure(cells, tests, integral, coordinate, shape, num_levels)
    u_error = jnp.where(location.has_nan, jnp.nan, u_error)
    table = Table(
        support,
        coordinate,
        integral.tails,
        cells,
        params,
        integral.log_normalizer,
        u_error,
        log_prob_fn,
        shape,
        num_levels,
    )
    has_mass = location.peak > -jnp.inf
    return _Built(table, location.has_nan, has_mass, integral.error, excess)


@partial(jax.jit, static_argnames=("log_prob_fn", "effort"))
def _integrate(
    log_prob_fn: LogProbFn, params: Params, coordinate: Coordinate, effort: _Effort
) -> tuple[Location, Integral]:
    """Where the mass is does not depend on `params` as far as gradients go; the integral does."""
    held = log_density_fn(log_prob_fn, lax.stop_gradient(params))
    location = locate(held, coordinate, effort.search)
    edges = refine(held, location, effort.num_nodes, effort.num_rounds)
    log_density = log_density_fn(log_prob_fn, params)
    integral = integrate(log_density, location, edges, effort.num_nodes)
    return location, _forbid_gradient(integral, params, location.has_jump)


@jax.custom_jvp
def _forbid_gradient(integral: Integral, params: Params, where: Array) -> Integral:
    """Where the density stops abruptly inside its support, a gradient misses the edge's motion."""
    return integral


@_forbid_gradient.defjvp
def _forbid_gradient_jvp(primals: tuple, tangents: tuple) -> tuple[Integral, Integral]:
    integral, _, where = primals
    moves = [t for t in jax.tree.leaves(tangents[1]) if t.dtype != jax.dtypes.float0]
    # An edge that moves leaves no other trace: comparing with a parameter has no derivative.
    poison = sum((jnp.sum(t) for t in moves), jnp.zeros(())) * jnp.where(where, jnp.nan, 0)
    return integral, jax.tree.map(lambda t: t + poison.astype(t.dtype), tangents[0])


def _check_support(support: tuple[float, float]) -> tuple[float, float]:
    try:
        lower, upper = (float(end) for end in support)
    except (TypeError, ValueError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(f"support must be two concrete numbers, got {support!r}") from error
    if not lower < upper or lower == np.inf or upper == -np.inf:
        raise ValueError(f"support must be (lower, upper) with lower < upper, got {support!r}")
    return lower, upper


def _check_log_prob(log_prob_fn: LogProbFn, params: Params, dtype: str) -> None:
    result = jax.eval_shape(log_prob_fn, params, jax.ShapeDtypeStruct((), dtype))
    shape = getattr(result, "shape", None)
    if shape != ():
        raise ValueError(f"log_prob_fn must return a scalar for a scalar x, got shape {shape}")
    checks.check_float_array("log_prob_fn(params, x)", result)


def _widen(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _narrow(leaf: Any) -> Array:
    leaf = np.asarray(leaf)
    return jnp.asarray(leaf, float if np.issubdtype(leaf.dtype, np.floating) else None)


def _refuse(built: _Built, default: float, max_u_error: float | None) -> None:
    """Raise ValueError when a table is not what was asked for."""
    if built.has_nan:
        raise ValueError("log_prob_fn is NaN on part of the support")
    if not built.has_mass:
        raise ValueError(
            "log_prob_fn gives -inf wherever it was looked at: no mass was found on the support"
        )
    if not (np.isfinite(built.mass_error) and np.isfinite(built.table.log_normalizer)):
        raise ValueError("log_prob_fn has infinite mass on the support")
    u_error = float(built.table.u_error)
    allowed = default if max_u_error is None else max_u_error
    if not (built.excess if max_u_error is None else u_error) <= allowed:
        raise ValueError(
            f"max_u_error is {allowed:.3g}, but the u-error reached is {u_error:.3g}; "
            "raise max_u_error, or narrow the support"
        )


def tail_quantile(table: Table, is_upper: ArrayLike, v: ArrayLike) -> Array:
    r"""The point beyond which a tail has mass v: F(x) = v, or 1 − F(x) = v in the upper tail.

    The two-sided core that `sample` drives; differentiable in `v` and in what made the table.

    Args:
      table: from `build`.
      is_upper: which tail, booleans `[...]`.
      v: mass in (0, ½], `[...]`; below 2^-65 (2^-35 in a traced float32 table) it counts as that.

    Returns:
      x, `[...]`, in the dtype of the table.
    """
    x = _evaluate(table, table.cells.center, is_upper, v)
    return jnp.clip(x, table.support[0], table.support[1])


def tail_offset(table: Table, is_upper: ArrayLike, v: ArrayLike) -> Array:
    """`tail_quantile` less `table.cells.anchors[is_upper]`, without rounding to x in between.

    The anchor is an end of the support where one is finite: near an end that is not zero, as for
    beta(½, ½) near 1, only the distance to it can express a quantile.
    """
    return _evaluate(table, table.cells.offset, is_upper, v)


def _evaluate(table: Table, center: Array, is_upper: ArrayLike, v: ArrayLike) -> Array:
    tail, mass = jnp.broadcast_arrays(jnp.asarray(is_upper), jnp.asarray(v))
    mass = mass.astype(center.dtype)
    return cells_lib.evaluate(table.cells, center, tail, mass, table.shape, table.num_levels)


def quantile(table: Table, u: ArrayLike) -> Array:
    """The quantile function x(u), `[...]`; the ends of the support at 0 and 1, NaN outside [0, 1].

    Floats have no resolution near u = 1: for the upper tail use `tail_quantile`.
    """
    u = jnp.asarray(u).astype(table.cells.center.dtype)
    is_upper = u > 0.5
    x = tail_quantile(table, is_upper, jnp.where(is_upper, 1 - u, u))
    x = jnp.where(u == 0, table.support[0], jnp.where(u == 1, table.support[1], x))
    return jnp.where((u >= 0) & (u <= 1), x, jnp.nan)


def sample(key: Key, table: Table, shape: tuple[int, ...] = ()) -> Array:
    """Independent draws, `shape`, one 32-bit word each in float32 and one 64-bit word in float64.

    >>> import jax
    >>> table = build(lambda _, x: -0.5 * x**2, None, support=(-jax.numpy.inf, jax.numpy.inf))
    >>> sample(jax.random.key(0), table, (3,)).shape
    (3,)
    """
    dtype = table.cells.center.dtype
    word = jnp.uint64 if dtype == jnp.float64 else jnp.uint32
    bits = stored_random_bits(key, shape, word)
    num_bits = jnp.iinfo(word).bits
    signed = jnp.int64 if dtype == jnp.float64 else jnp.int32
    rest = (bits & jnp.asarray(2 ** (num_bits - 1) - 1, word)).astype(signed).astype(dtype)
    v = rest * 2.0**-num_bits + 2.0 ** (-num_bits - 1)
    return tail_quantile(table, bits >> (num_bits - 1) != 0, v)


def tail_mass(table: Table, x: ArrayLike) -> tuple[Array, Array]:
    """Which tail x is in, and the mass v ≤ ½ beyond it: the inverse of `tail_quantile`, `[...]`."""
    x = jnp.asarray(x).astype(table.cells.center.dtype)
    inside = jnp.clip(x.ravel(), table.support[0], table.support[1])
    anchors = table.coordinate.anchors
    is_near_upper = jnp.abs(inside - anchors[1]) < jnp.abs(inside - anchors[0])
    offsets = inside - jnp.where(is_near_upper, anchors[1], anchors[0])
    z = locate_offset(table.coordinate, offsets, is_near_upper)
    lower, upper = (
        mass_below(jax.tree.map(lambda a, i=i: a[i], table.tails), s * z)[0]
        for i, s in ((0, 1), (1, -1))
    )
    is_upper = upper < lower
    return is_upper.reshape(x.shape), jnp.where(is_upper, upper, lower).reshape(x.shape)


def cdf(table: Table, x: ArrayLike) -> Array:
    """The distribution function F(x), `[...]`; near 1 see `tail_mass`."""
    is_upper, v = tail_mass(table, x)
    return jnp.where(is_upper, 1 - v, v)


def log_prob(table: Table, x: ArrayLike) -> Array:
    """The normalised log-density in nats, `[...]`; −inf outside the support."""
    x = jnp.asarray(x).astype(table.cells.center.dtype)
    inside = (x >= table.support[0]) & (x <= table.support[1])
    value = jax.vmap(lambda y: table.log_prob_fn(table.params, y))(x.ravel()).reshape(x.shape)
    return jnp.where(inside, value - table.log_normalizer, -jnp.inf)


def as_distribution(table: Table) -> Any:
    """The density as a `distrax.Distribution` over scalars, differentiable in its parameters."""
    import distrax  # brings TensorFlow Probability, seconds of import

    class InverseCDF(distrax.Distribution):
        """A density given by its table."""

        def _sample_n(self, key: Key, n: int) -> Array:
            return sample(key, table, (n,))

        def log_prob(self, value: Array) -> Array:
            return log_prob(table, value)

        def cdf(self, value: Array) -> Array:
            return cdf(table, value)

        @property
        def event_shape(self) -> tuple[int, ...]:
            return ()

        @property
        def batch_shape(self) -> tuple[int, ...]:
            return ()

    return InverseCDF()
