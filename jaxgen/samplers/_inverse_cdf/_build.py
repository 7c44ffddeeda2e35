"""Sample any one-dimensional density from its log-density: numerical inversion of its CDF."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core._checks import check_float_array
from jaxgen.core._types import Array, LogProbFn, Params
from jaxgen.samplers._inverse_cdf._cells import Shape, build_cells, measure
from jaxgen.samplers._inverse_cdf._coordinate import Coordinate, from_support, log_density_fn
from jaxgen.samplers._inverse_cdf._modes import Location, Search, locate
from jaxgen.samplers._inverse_cdf._panels import Integral, integrate, refine
from jaxgen.samplers._inverse_cdf._table import InverseCDF


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


def inverse_cdf(
    log_prob_fn: LogProbFn,
    params: Params,
    *,
    support: tuple[float, float],
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

    Derflinger, Hörmann & Leydold 2010, "Random variate generation by numerical inversion when only
    the density is known"; implicit gradients: Figurnov, Mohamed & Mnih 2018.

    Args:
      log_prob_fn: `(params, x) -> scalar`, the log-density in nats up to a constant; −inf where
        there is none.
      params: its parameters, a pytree.
      support: the ends of the support, numbers; either may be infinite. The density may be
        unbounded at a finite end.
      max_u_error: the u-error above which building is refused. By default that is 1.5e-7 in float32
        and 1e-12 in float64, on top of 2.5 times the u-error of correctly rounded quantiles.

    Returns:
      An `InverseCDF`, with methods `sample`, `quantile`, `cdf`, `log_prob` and others.

    Raises:
      TypeError: the log-density is not a real floating-point number.
      ValueError: bad support; a log-density that is not a scalar; and, with concrete parameters, a
        NaN, a support without mass, infinite mass, or a u-error above `max_u_error`.

    >>> import jax
    >>> laplace = inverse_cdf(lambda b, x: -abs(x / b), 2.0, support=(-jnp.inf, jnp.inf))
    >>> print(f"{float(laplace.quantile(0.75)):.5f}")  # 2 log 2
    1.38629
    >>> laplace.sample(jax.random.key(0), (3,)).shape
    (3,)
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
    table: InverseCDF
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
    cells, tests, num_levels = build_cells(integral, coordinate, shape, dtype, is_eager)
    u_error, excess = measure(cells, tests, integral, coordinate, shape, num_levels)
    u_error = jnp.where(location.has_nan, jnp.nan, u_error)
    table = InverseCDF(
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
    """Find the mass and integrate it: gradients take the place as fixed, and the integral not."""
    held = log_density_fn(log_prob_fn, lax.stop_gradient(params))
    location = locate(held, coordinate, effort.search)
    edges = refine(held, location, effort.num_nodes, effort.num_rounds)
    log_density = log_density_fn(log_prob_fn, params)
    integral = integrate(log_density, location, edges, effort.num_nodes)
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


def _check_log_prob(log_prob_fn: LogProbFn, params: Params, dtype: str) -> None:
    result = jax.eval_shape(log_prob_fn, params, jax.ShapeDtypeStruct((), dtype))
    shape = getattr(result, "shape", None)
    if shape != ():
        raise ValueError(f"log_prob_fn must return a scalar for a scalar x, got shape {shape}")
    check_float_array("log_prob_fn(params, x)", result)


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
