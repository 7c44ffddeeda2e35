"""Sample any one-dimensional density from its log-density: numerical inversion of its CDF."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxgen.core._types import Array, LogProbFn, Params
from jaxgen.samplers._inverse_cdf._arrays import hold
from jaxgen.samplers._inverse_cdf._cells import Shape, build_cells, measure
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, from_support, log_density_fn
from jaxgen.samplers._inverse_cdf._modes import Location, Search, locate
from jaxgen.samplers._inverse_cdf._panels import Integral, integrate, refine
from jaxgen.samplers._inverse_cdf._table import InverseCDF
from jaxgen.samplers._log_prob_fn import check_log_prob_fn


class _Effort(NamedTuple):
    # How hard to look for the mass and to integrate it; static.
    search: Search
    num_nodes: int  # of a panel
    num_rounds: int  # of cutting panels


_EAGER = _Effort(Search(4096, 2**16, 16, 13, 48, 8, 512, 62.0), num_nodes=16, num_rounds=48)
_TRACED_WIDE = _Effort(Search(1025, 512, 8, 12, 48, 4, 192, 62.0), num_nodes=16, num_rounds=24)
_TRACED = _Effort(Search(513, 512, 4, 7, 22, 2, 96, 36.0), num_nodes=9, num_rounds=12)
_PLANS = {  # by the dtype of the table, and whether it is built eagerly
    ("float32", True): (_EAGER, Shape(64, 4, 3, 3, 24)),
    ("float64", True): (_EAGER, Shape(64, 5, 5, 6, 24)),
    ("float32", False): (_TRACED, Shape(34, 3, 4, 2, 2)),
    ("float64", False): (_TRACED_WIDE, Shape(64, 5, 5, 2, 8)),
}
_MAX_U_ERROR = {"float32": 1.5e-7, "float64": 1e-12}


def _plan(dtype: str, is_eager: bool, num_named: int) -> tuple[_Effort, Shape]:
    """Return the sizes, with room for what happens at every point that is named."""
    effort, shape = _PLANS[dtype, is_eager]
    search = effort.search
    search = search._replace(num_panels=search.num_panels + 4 * num_named)
    return effort._replace(search=search), shape._replace(num_parents=shape.num_parents + num_named)


def inverse_cdf(
    log_prob_fn: LogProbFn,
    params: Params,
    *,
    support: tuple[float, float],
    points: ArrayLike | Sequence[float] = (),
    max_u_error: float | None = None,
) -> InverseCDF:
    r"""Tabulate the quantile function of any one-dimensional density, known up to a constant.

    If U is uniform, x(U) with F(x(u)) = u has the density p = F′. Building finds where the mass of
    the density is, integrates it, inverts the integral and stores the inverse as polynomial cells;
    a draw then costs a few table look-ups.

    .. math:: x(u) = F^{-1}(u), \qquad F(x) = \frac{1}{Z} \int_{-\infty}^x \tilde p(y)\,dy

    Called with concrete parameters it computes in float64 and stores in the default dtype. Called
    with traced ones (inside `jax.jit`, `jax.vmap` or `jax.grad` with respect to them) it computes
    in the default dtype with fixed shapes, and whatever goes wrong shows in `u_error`. The table,
    and so every sample, is differentiable in `params` (first derivatives), for densities that are
    continuous where they move: an edge inside the support, where the density stops abruptly, gives
    a gradient of NaN, but a finite jump whose place depends on `params` cannot be told from a steep
    slope, and the motion of the jump is missing from the gradient.

    What it costs. With concrete parameters only `log_prob_fn` is compiled, once for all `params`.
    With traced ones all of the building is part of the caller's program: it takes milliseconds to
    run and many seconds to compile, anew for each function. So build outside where parameters are
    known, hand tables to compiled functions, and let one named function stand for all densities of
    a kind; a lambda made anew is another function.

    What the search sees. Peaks are followed along their slopes, however narrow they are, if the
    log-density rises toward them from afar. Mass that nothing slopes toward (beyond flat or empty
    stretches) is certain to be seen where it is wider than 1/1000 of its distance from the highest
    mode, up to 1e7 widths of that mode away (1/10 under a trace); on a support with a finite end
    the distance is from the nearer such end. Narrower pieces, and spikes under a broad bump, can be
    missed, and no number in the result would tell: name them in `points`, as those of
    `scipy.integrate.quad`. Around a named point all scales are looked at.

    Derflinger, Hörmann & Leydold 2010, "Random variate generation by numerical inversion when only
    the density is known"; implicit gradients: Figurnov, Mohamed & Mnih 2018.

    Args:
      log_prob_fn: `(params, x) -> scalar`, the log-density in nats up to a constant; −inf where
        there is none.
      params: its parameters, a pytree.
      support: the ends of the support, numbers; either may be infinite. The density may be
        unbounded at a finite end.
      points: concrete numbers in the support, `[N]`: where the density jumps or has a kink, a pole
        or a narrow spike, and any place near a far piece of mass. All the edges of a histogram.
      max_u_error: the u-error above which building is refused. By default that is 1.5e-7 in float32
        and 1e-12 in float64, on top of 2.5 times the u-error of correctly rounded quantiles.

    Returns:
      An `InverseCDF`, with methods `sample`, `quantile`, `cdf`, `log_prob` and others.

    Raises:
      TypeError: `log_prob_fn` does not return a real floating-point number, cannot be hashed,
        closes over traced values, or takes its arguments in the other order.
      ValueError: bad support or points; a log-density that is not a scalar; and, with concrete
        parameters, a NaN, no mass found, infinite mass, or a u-error above `max_u_error`.

    >>> import jax
    >>> laplace = inverse_cdf(lambda b, x: -abs(x / b), 2.0, support=(-jnp.inf, jnp.inf))
    >>> print(f"{float(laplace.quantile(0.75)):.5f}")  # 2 log 2
    1.38629
    >>> laplace.sample(jax.random.key(0), (3,)).shape
    (3,)
    """
    ends = _check_support(support)
    named = _check_points(points, ends)
    dtype = jnp.result_type(float).name
    check_log_prob_fn(log_prob_fn, params)
    is_eager = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))
    if not is_eager:
        return _build(log_prob_fn, params, ends, named, dtype, is_eager).table
    with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
        with jax.enable_x64(True):
            wide = jax.tree.map(_widen, params)
            built = _build(log_prob_fn, wide, ends, named, dtype, is_eager)
        _refuse(built, _MAX_U_ERROR[dtype], max_u_error)
        return jax.tree.map(_narrow, built.table)


class _Built(NamedTuple):
    # A table, and what refusing it depends on.
    table: InverseCDF
    has_nan: Array
    has_mass: Array
    mass_error: Array  # of the integral, as a fraction; infinite when the mass is
    excess: Array  # the u-error beyond 2.5 times that of a correctly rounded quantile


def _build(
    log_prob_fn: LogProbFn,
    params: Params,
    ends: tuple[float, float],
    named: np.ndarray,
    dtype: str,
    is_eager: bool,
) -> _Built:
    effort, shape = _plan(dtype, is_eager, named.size)
    xp: Any = np if is_eager else jnp
    wide = np.float64 if is_eager else jnp.result_type(float)
    support = xp.asarray(ends, wide)
    is_finite = (bool(np.isfinite(ends[0])), bool(np.isfinite(ends[1])))
    coordinate = from_support(support, is_finite)
    if not is_eager:  # or the compiler, slowly, sorts the grids that follow from its constants
        coordinate = lax.optimization_barrier(coordinate)
    integrate_mass = _integrate if is_eager else _integrate_traced
    places = xp.asarray(named, wide)
    location, integral = integrate_mass(log_prob_fn, params, coordinate, places, effort)
    coordinate = location.coordinate
    cells, tests, num_levels = build_cells(integral, coordinate, shape, dtype)
    errors = measure(cells, tests, integral, coordinate, shape, num_levels)
    table = InverseCDF(
        support,
        coordinate,
        integral.tails,
        cells,
        params,
        integral.log_normalizer,
        xp.where(location.has_nan, xp.nan, errors.u_error),
        errors.x_error,
        log_prob_fn,
        shape,
        num_levels,
    )
    has_mass = location.peak > -xp.inf
    return _Built(table, location.has_nan, has_mass, integral.error, errors.excess)


def _integrate(
    log_prob_fn: LogProbFn, params: Params, coordinate: Coordinate, named: Array, effort: _Effort
) -> tuple[Location, Integral]:
    """Find the mass and integrate it: gradients take the place as fixed, and the integral not."""
    held = log_density_fn(log_prob_fn, hold(params))
    location = locate(held, coordinate, named, effort.search)
    edges = refine(held, location, effort.num_nodes, effort.num_rounds)
    log_density = log_density_fn(log_prob_fn, params)
    return location, integrate(log_density, location, edges, effort.num_nodes)


@partial(jax.jit, static_argnames=("log_prob_fn", "effort"))
def _integrate_traced(
    log_prob_fn: LogProbFn, params: Params, coordinate: Coordinate, named: Array, effort: _Effort
) -> tuple[Location, Integral]:
    location, integral = _integrate(log_prob_fn, params, coordinate, named, effort)
    return location, _forbid_gradient(integral, params, location.has_jump)


@jax.custom_jvp
def _forbid_gradient(integral: Integral, params: Params, where: Array) -> Integral:
    """Return the integral, its gradient NaN where a density ends abruptly inside its support."""
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


def _check_points(points: ArrayLike | Sequence[float], ends: tuple[float, float]) -> np.ndarray:
    try:
        named = np.unique(np.asarray(points, np.float64))  # increasing
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(f"points must be concrete numbers, got {points!r}") from error
    if not np.all(np.isfinite(named) & (ends[0] <= named) & (named <= ends[1])):
        raise ValueError(f"points must be finite and lie in the support {ends}, got {points!r}")
    return named


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
            "log_prob_fn gives -inf wherever it was looked at: no mass was found on the support; "
            "name a place near it in points"
        )
    if not (np.isfinite(built.mass_error) and np.isfinite(built.table.log_normalizer)):
        raise ValueError("log_prob_fn has infinite mass on the support")
    u_error = float(built.table.u_error)
    allowed = default if max_u_error is None else max_u_error
    if not (built.excess if max_u_error is None else u_error) <= allowed:
        raise ValueError(
            f"max_u_error is {allowed:.3g}, but the u-error reached is {u_error:.3g}; "
            "raise max_u_error, narrow the support, or name jumps and other steep places in points"
        )
