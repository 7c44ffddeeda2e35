"""Rejection sampling for log-concave densities: the envelope builds itself.

A function that is concave lies below its tangents. So where T(f) is concave, with T the logarithm
or the wider T(f) = −1/√f, a fixed number of tangents gives an envelope of f whose pieces have
inverse CDFs in closed form (Gilks and Wild 1992; Hörmann 1995, transformed density rejection).
Tangents are placed where the envelope itself has equal mass between them, so nothing is tuned, the
hull has a fixed size, and all of it compiles and maps over parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import varying_with
from jaxgen.core._checks import check_count, check_one_of
from jaxgen.core._types import Array, Key, LogProbFn, Params
from jaxgen.samplers._log_prob_fn import check_log_prob_fn, scalar_log_prob
from jaxgen.samplers._rejection import Proposal, RejectionSamples, rejection


class Envelope(NamedTuple):
    """Tangents of T(f / f(mode)) at K increasing points, and the pieces between their crossings.

    Attributes:
      points: where the tangents touch, `[K]`.
      values: T(f / f(mode)) there, `[K]`.
      slopes: its derivative there, `[K]`.
      edges: the ends of the support with the crossings of neighboring tangents, `[K + 1]`.
      cumulative: mass under the pieces up to each edge but the first, `[K]`; the last is the total.
    """

    points: Array
    values: Array
    slopes: Array
    edges: Array
    cumulative: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hull:
    """A T-concave density under an envelope of tangents; made by `adaptive_rejection`.

    It is a pytree: pass it to compiled functions, and map over many of them at once.

    Attributes:
      envelope: the tangents and their pieces.
      log_bound: log of the mass under the envelope, in the scale of `log_prob_fn` (nats), a scalar.
      is_concave: what is known of the shape, a scalar bool: no density was found above the hull at
        about 4 points to each tangent; beyond one nat below the mode T(f) falls ever on at 2,048
        points to either side, out to 1e13 widths; everything is finite, and rounding is small
        enough for all that to be told. So another mode is found at any distance if its slope
        reaches halfway here; a spike narrower than the gaps between those points is not.
      params: the parameters of the density.
      log_prob_fn: the unnormalized log-density (static).
      transform: the name of T (static).
    """

    envelope: Envelope
    log_bound: Array
    is_concave: Array
    params: Params
    log_prob_fn: LogProbFn = dataclasses.field(metadata={"static": True})
    transform: str = dataclasses.field(metadata={"static": True})

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> RejectionSamples:
        """Draw independently from the density, exactly, by rejection.

        Args:
          key: a typed key.
          shape: of the draws.

        Returns:
          `RejectionSamples`; `bound_exceeded` is true also where `is_concave` is false. Its
          differentiation raises.

        Raises:
          TypeError: `key` is not a typed key.
          ValueError: `key` is an array of keys.
        """
        drawn = rejection(
            key, self.log_prob_fn, self.params, self.proposal(), self.log_bound, shape
        )
        return drawn._replace(bound_exceeded=drawn.bound_exceeded | ~self.is_concave)

    def proposal(self) -> Proposal:
        """Return the envelope as a proposal of two uniforms, for `rejection` with `log_bound`."""
        chosen = _TRANSFORMS[self.transform]

        def quantile(envelope: Envelope, u: Array) -> Array:
            return _quantile(chosen, envelope, u[0], u[1])

        def log_prob(envelope: Envelope, x: Array) -> Array:
            lowest = jnp.min(envelope.values + envelope.slopes * (x - envelope.points))
            return chosen.log_height(lowest) - jnp.log(envelope.cumulative[-1])

        return Proposal(self.envelope, quantile, log_prob, 2)


class _Transform(NamedTuple):
    """Functions of T, with h a tangent's value, r ≥ 0 its fall rate and d the length of a piece.

    Attributes:
      tangent: `(log f, (log f)') -> (T(f), T(f)')`.
      log_height: `(h) -> log T⁻¹(h)`.
      mass: `(h, r, d) -> ∫_0^d T⁻¹(h − r s) ds`.
      distance: `(v, h, r, d) -> y`, the point that has the share v of that mass before it.
    """

    tangent: Callable[[Array, Array], tuple[Array, Array]]
    log_height: Callable[[Array], Array]
    mass: Callable[[Array, Array, Array], Array]
    distance: Callable[[Array, Array, Array, Array], Array]


def _exponential_mass(h: Array, r: Array, d: Array) -> Array:
    fall = jnp.maximum(r * d, 1e-20)  # at zero the quotient is 0/0, and 1 just beside it
    return jnp.exp(h) * jnp.where(jnp.isinf(d), 1 / r, -jnp.expm1(-fall) / fall * d)


def _exponential_distance(v: Array, h: Array, r: Array, d: Array) -> Array:
    fall = jnp.maximum(r * d, 1e-20)
    share = -jnp.log1p(v * jnp.expm1(-fall))
    return jnp.where(jnp.isinf(d), share / r, share / fall * d)


def _inverse_square_mass(h: Array, r: Array, d: Array) -> Array:
    return jnp.where(jnp.isinf(d), -1 / (r * h), d / (h * (h - r * d)))


def _inverse_square_distance(v: Array, h: Array, r: Array, d: Array) -> Array:
    mass = v * _inverse_square_mass(h, r, d)
    return mass * h**2 / (1 + mass * r * h)


_TRANSFORMS = {
    "log": _Transform(
        lambda value, slope: (value, slope),
        lambda h: h,
        _exponential_mass,
        _exponential_distance,
    ),
    "inverse_sqrt": _Transform(
        lambda value, slope: (-jnp.exp(-value / 2), 0.5 * slope * jnp.exp(-value / 2)),
        lambda h: -2 * jnp.log(jnp.maximum(-h, 0)),
        _inverse_square_mass,
        _inverse_square_distance,
    ),
}


def adaptive_rejection(
    log_prob_fn: LogProbFn,
    params: Params,
    *,
    support: tuple[float, float] = (-jnp.inf, jnp.inf),
    start: float | None = None,
    num_points: int = 32,
    transform: str = "log",
) -> Hull:
    """Build the hull of a T-concave density, from which it is sampled exactly.

    Bisection on the sign of the derivative finds the mode and then, on each side, where the
    density falls by one nat; tangents there give a first hull, whose quantiles place the rest.

    Args:
      log_prob_fn: `(params, x) -> scalar`, differentiable in x, up to a constant.
      params: parameters of the density.
      support: ends of the support; either may be infinite.
      start: a point of the support where the density is positive and differentiable; by default
        0, the middle of a finite support, or one unit inside its finite end.
      num_points: K − 3, at least 4; acceptance is about 1 − 5 / K².
      transform: "log" for log-concave densities, or "inverse_sqrt" for T(f) = −1/√f, which serves
        all of those and heavier tails down to Cauchy's.

    Returns:
      `Hull`, with methods `sample` and `proposal`.

    Raises:
      ValueError: the density is found not to be T-concave (outside a trace; inside,
        `Hull.is_concave` says so); an argument is out of range.

    >>> import jax
    >>> drawn = adaptive_rejection(lambda _, x: -(x**4), None).sample(jax.random.key(0), (1000,))
    >>> bool(drawn.bound_exceeded), bool(drawn.acceptance_rate > 0.95)
    (False, True)
    """
    check_count("num_points", num_points, minimum=4)
    check_one_of("transform", transform, tuple(_TRANSFORMS))
    check_log_prob_fn(log_prob_fn, params)
    dtype = jnp.result_type(float)
    lower, upper = (jnp.asarray(end, dtype) for end in support)
    anchor = _default_start(lower, upper) if start is None else jnp.asarray(start, dtype)
    envelope, log_bound, is_concave = _build(
        log_prob_fn, jax.lax.stop_gradient(params), lower, upper, anchor, num_points, transform
    )
    if not isinstance(is_concave, jax.core.Tracer) and not is_concave:
        raise ValueError(
            f"log_prob_fn must be concave under transform={transform!r} and positive and finite "
            "around its mode, but a point was found above its tangents, or no more falling away "
            "from the mode, or its values are too large for their rounding to tell; use "
            "inverse_cdf or a proposal of your own with rejection"
        )
    return Hull(envelope, log_bound, is_concave, params, log_prob_fn, transform)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _build(
    log_prob_fn: LogProbFn,
    params: Params,
    lower: Array,
    upper: Array,
    start: Array,
    num_points: int,
    transform: str,
) -> tuple[Envelope, Array, Array]:
    """Return the envelope, the log of its mass in the scale of the density, and `is_concave`."""
    chosen = _TRANSFORMS[transform]
    log_prob_fn = functools.partial(scalar_log_prob, log_prob_fn)
    value_and_slope = jax.value_and_grad(lambda x: log_prob_fn(params, x))
    # Densities with log x or log (1 − x) in them are not defined at the ends themselves.
    lower, upper = lower + _margin(lower), upper - _margin(upper)
    mode = start
    for _ in range(2):  # the second search, from the first's result, has its full precision
        mode = _find_mode(value_and_slope, mode, lower, upper)
    peak = log_prob_fn(params, mode)

    def tangents(points: Array) -> Envelope:
        value, slope = jax.vmap(value_and_slope)(points)
        return _envelope(chosen, points, *chosen.tangent(value - peak, slope), lower, upper)

    ends = (lower, upper)
    near, far = (
        [_fallen(log_prob_fn, params, mode, end, nats) for end in ends] for nats in (1, 60)
    )
    # Always among them, so that no hull is flat to an end: a flat top can hold all of the others.
    kept = jnp.stack([mode, *near])
    envelope = tangents(jnp.sort(jnp.concatenate([kept, (mode + jnp.stack(near)) / 2])))
    shares = _middles(num_points, mode.dtype)
    for _ in range(2):
        # Farther out T(f) overflows.
        points = jnp.clip(_split_quantile(chosen, envelope, shares), *far)
        envelope = tangents(jnp.sort(jnp.concatenate([points, kept])))
    tails = 0.5 ** jnp.arange(6, jnp.finfo(mode.dtype).nmant, dtype=mode.dtype)
    inner = _middles(4 * num_points, mode.dtype)
    probes = _split_quantile(chosen, envelope, jnp.concatenate([inner, tails, 1 - tails]))
    found = jax.vmap(log_prob_fn, (None, 0))(params, probes) - peak
    is_concave = _below_tangents(chosen, envelope, probes, found, jnp.abs(peak))
    for reach, end in zip(near, ends, strict=True):
        is_concave &= _keeps_falling(chosen, value_and_slope, mode, reach, end)
    return envelope, jnp.log(envelope.cumulative[-1]) + peak, is_concave


def _middles(num: int, dtype: jnp.dtype) -> Array:
    """Return the middles of equal parts of the unit interval."""
    return (jnp.arange(num, dtype=dtype) + 0.5) / num


def _default_start(lower: Array, upper: Array) -> Array:
    left, right = jnp.isinf(lower), jnp.isinf(upper)
    inside = jnp.where(left, upper - 1, lower + 1)
    return jnp.where(left & right, 0.0, jnp.where(left | right, inside, (lower + upper) / 2))


def _margin(end: Array) -> Array:
    relative = 2 * jnp.finfo(end.dtype).eps * jnp.abs(end)
    return jnp.where(jnp.isinf(end), 0, jnp.maximum(relative, 1e-30))


def _span(share: Array, dtype: jnp.dtype) -> Array:
    """Return distances from 1e-12 to 1e15, geometrically spread over shares from 0 to 1."""
    return 1e-12 * jnp.expm1(62.0 * jnp.asarray(share, dtype))


def _bisect(is_beyond: Callable[[Array], Array], lower: Array, upper: Array) -> Array:
    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = (ends[0] + ends[1]) / 2
        beyond = is_beyond(middle)
        return (jnp.where(beyond, ends[0], middle), jnp.where(beyond, middle, ends[1])), None

    start = varying_with((lower, upper), jax.eval_shape(is_beyond, lower))
    ends, _ = jax.lax.scan(halve, start, length=50)
    return ends[0]


def _find_mode(
    value_and_slope: Callable[[Array], tuple[Array, Array]],
    start: Array,
    lower: Array,
    upper: Array,
) -> Array:
    def point(share: Array) -> Array:
        return start + jnp.sign(share) * _span(jnp.abs(share), start.dtype)

    def is_beyond(share: Array) -> Array:
        x = point(share)
        slope = value_and_slope(jnp.clip(x, lower, upper))[1]
        # Where a derivative underflows or is NaN, far out, the mode is taken to be nearer.
        falls = (slope < 0) | (~(slope > 0) & (share > 0))
        return (x >= upper) | ((x > lower) & falls)

    one = jnp.ones((), start.dtype)
    return jnp.clip(point(_bisect(is_beyond, -one, one)), lower, upper)


def _fallen(log_prob_fn: LogProbFn, params: Params, mode: Array, end: Array, nats: float) -> Array:
    """Find the point between the mode and an end where the density has fallen by so many nats."""
    side = jnp.sign(end - mode)
    peak = log_prob_fn(params, mode)

    def is_beyond(share: Array) -> Array:
        x = mode + side * _span(share, mode.dtype)
        return ((end - x) * side <= 0) | ~(log_prob_fn(params, x) > peak - nats)

    one = jnp.ones((), mode.dtype)
    return mode + side * _span(_bisect(is_beyond, 0 * one, one), mode.dtype)


def _keeps_falling(
    chosen: _Transform,
    value_and_slope: Callable[[Array], tuple[Array, Array]],
    mode: Array,
    reach: Array,
    end: Array,
) -> Array:
    """Tell whether T(f) falls beyond `reach` about as fast, at least, as on average up to it.

    A concave function does. Another mode has a slope toward it on half of the way there.
    """
    side, width = jnp.sign(end - mode), jnp.abs(reach - mode)
    peak = value_and_slope(mode)[0]
    x = mode + side * width * jnp.exp(jnp.linspace(0, 30, 2048, dtype=mode.dtype))
    is_inside = (end - x) * side > 0
    values, slopes = jax.vmap(value_and_slope)(jnp.where(is_inside, x, reach))
    values = values - peak
    falls = -side * chosen.tangent(values, slopes)[1]
    drop = chosen.tangent(jnp.zeros_like(peak), peak)[0] - chosen.tangent(values[0], peak)[0]
    falls_on = jnp.where(jnp.isfinite(falls), falls >= 0.5 * drop / width, jnp.sign(slopes) != side)
    underflows = (values < -60) & (slopes == 0)
    is_empty = values == -jnp.inf
    comes_back = (jax.lax.cummax(is_empty.astype(jnp.int32)) > 0) & ~is_empty
    return jnp.all(~is_inside | ((falls_on | underflows | is_empty) & ~comes_back))


def _envelope(
    chosen: _Transform, points: Array, values: Array, slopes: Array, lower: Array, upper: Array
) -> Envelope:
    gaps, bends = jnp.diff(points), slopes[:-1] - slopes[1:]
    crossing = (jnp.diff(values) - slopes[1:] * gaps) / jnp.where(bends > 0, bends, 1)
    crossing = jnp.where(bends > 0, jnp.clip(crossing, 0, gaps), gaps / 2)
    edges = jnp.concatenate([lower[None], points[:-1] + crossing, upper[None]])
    envelope = Envelope(points, values, slopes, edges, values)
    _, height, fall, length = _piece(envelope, jnp.arange(points.size))
    masses = jnp.where(length > 0, chosen.mass(height, fall, length), 0)
    return envelope._replace(cumulative=jnp.cumsum(masses))


def _piece(envelope: Envelope, index: Array) -> tuple[Array, Array, Array, Array]:
    """Return a piece from its higher end: that end, the tangent there, its fall, the length."""
    slope, left, right = envelope.slopes[index], envelope.edges[index], envelope.edges[index + 1]
    top = jnp.where(slope > 0, right, left)
    height = envelope.values[index] + slope * (top - envelope.points[index])
    return top, height, jnp.abs(slope), right - left


def _quantile(chosen: _Transform, envelope: Envelope, u_piece: Array, u_inside: Array) -> Array:
    """Turn uniforms into the envelope's draw: one picks the piece, another the point in it."""
    target = u_piece * envelope.cumulative[-1]
    index = jnp.minimum(jnp.sum(envelope.cumulative <= target), envelope.points.size - 1)
    top, height, fall, length = _piece(envelope, index)
    away = chosen.distance(u_inside, height, fall, length)
    x = top - jnp.where(envelope.slopes[index] > 0, away, -away)
    return jnp.clip(x, envelope.edges[0], envelope.edges[-1])


def _split_quantile(chosen: _Transform, envelope: Envelope, u: Array) -> Array:
    """Return the envelope's quantiles at shares `[N]`, increasing, from one uniform each."""

    def one(share: Array) -> Array:
        target = share * envelope.cumulative[-1]
        index = jnp.minimum(jnp.sum(envelope.cumulative <= target), envelope.points.size - 1)
        before = jnp.where(index > 0, envelope.cumulative[jnp.maximum(index - 1, 0)], 0)
        inside = (target - before) / (envelope.cumulative[index] - before)
        inside = jnp.where(envelope.slopes[index] > 0, 1 - inside, inside)
        smallest = jnp.finfo(u.dtype).epsneg
        return _quantile(chosen, envelope, share, jnp.clip(inside, smallest, 1 - smallest))

    return jax.vmap(one)(u)


def _below_tangents(
    chosen: _Transform, envelope: Envelope, x: Array, log_density: Array, offset: Array
) -> Array:
    """Tell whether densities at x, and each tangent's own point, lie below all tangents.

    Rounding is allowed for; where it could hide a nat, nothing can be told.
    """
    x = jnp.concatenate([x, envelope.points])
    log_density = jnp.concatenate([log_density, chosen.log_height(envelope.values)])
    rises = envelope.slopes[:, None] * (x[None, :] - envelope.points[:, None])
    tangents = envelope.values[:, None] + rises
    height = chosen.log_height(jnp.min(tangents, axis=0))
    lowest = jnp.argmin(tangents, axis=0)
    rise = jnp.abs(rises[lowest, jnp.arange(x.size)])
    unit = 64 * jnp.finfo(x.dtype).eps
    rounding = unit * (1 + jnp.abs(height) + offset + rise)
    total = envelope.cumulative[-1]
    is_finite = jnp.all(jnp.isfinite(envelope.edges[1:-1])) & jnp.isfinite(total) & (total > 0)
    is_told = unit * offset < 1
    return is_finite & is_told & jnp.all(log_density <= height + rounding)
