"""Truncated normal samples: the inverse CDF, taken from the end that has the most mass."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._uniform import iid_uniforms

_NUM_STEPS = 4
_NUM_LEVELS = 15


def truncated_normal(
    key: Key,
    lower: Array | float,
    upper: Array | float,
    shape: tuple[int, ...] | None = None,
) -> Array:
    r"""Draw from a standard normal distribution given that it lies between two bounds.

    .. math:: p(x) = \varphi(x) / (\Phi(b) - \Phi(a)), \quad a \le x \le b

    For mean μ and scale σ, take bounds (a − μ) / σ and (b − μ) / σ, and μ + σ x. Differentiable in
    both bounds, by the inverse CDF.

    Args:
      key: a typed key.
      lower: a, which must broadcast to `shape`; −∞ for none.
      upper: b ≥ a, likewise; ∞ for none.
      shape: shape of the result; by default that of `lower` and `upper` broadcast together.

    Returns:
      Samples in [a, b] of shape `shape`, float32 at least; NaN where a > b or a bound is NaN.
      Right in any tail, as `truncated_normal_quantile` is.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit.

    >>> import jax
    >>> truncated_normal(jax.random.key(0), 8.0, float("inf"), (3,)).shape
    (3,)
    """
    check_key(key)
    shape = result_shape(shape, {"lower": jnp.shape(lower), "upper": jnp.shape(upper)})
    u = jnp.zeros(shape)
    if u.size:
        u = iid_uniforms(key, u.size).reshape(shape)
    return truncated_normal_quantile(lower, upper, u)


def truncated_normal_quantile(
    lower: Array | float, upper: Array | float, u: Array | float
) -> Array:
    r"""Return the inverse CDF of a standard normal between two bounds.

    .. math:: x = \Phi^{-1}\big((1 - u) \Phi(a) + u \Phi(b)\big)

    In a tail it is the distance s from the bound with more mass that is solved for, by Newton's
    method on −log of the mass beyond, s (t + s / 2) − log (M(t + s) / M(t)), with t how far the
    bound is from 0 and M Mills's ratio: no probability underflows. In float32 the error is below
    10⁻⁶, and in tails a rounding of x. Differentiable in all arguments.

    Args:
      lower: a, or −∞.
      upper: b ≥ a, or ∞; broadcast against `lower`.
      u: in [0, 1], broadcast against both.

    Returns:
      x in [a, b], float32 at least; NaN where a > b, u is outside [0, 1] or anything is NaN.
    """
    dtype = jnp.result_type(lower, upper, u, jnp.float32)
    arguments = (jnp.asarray(argument, dtype) for argument in (lower, upper, u))
    return _quantile(*jnp.broadcast_arrays(*arguments))


@jax.custom_jvp
def _quantile(lower: Array, upper: Array, u: Array) -> Array:
    return _quantile_and_slope(lower, upper, u)[0]


@_quantile.defjvp
def _gradient(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Differentiate Φ(x) = (1 − u) Φ(a) + u Φ(b)."""
    (lower, upper, u), (lower_dot, upper_dot, u_dot) = primals, tangents
    x, slope = _quantile_and_slope(lower, upper, u)
    to_lower = (1 - u) * jnp.exp((x - lower) * (x + lower) / 2)
    to_upper = u * jnp.exp((x - upper) * (x + upper) / 2)
    return x, to_lower * lower_dot + to_upper * upper_dot + slope * u_dot


@jax.jit
def _quantile_and_slope(lower: Array, upper: Array, u: Array) -> tuple[Array, Array]:
    """Return x and dx/du, from a bound at distance `near` along the side with less mass."""
    turned = lower > -upper
    near, far = jnp.where(turned, lower, -upper), jnp.where(turned, upper, -lower)
    width = upper - lower
    # Below this the exponential's error, about w² / 100, is less than that of rounding, ε / w.
    is_narrow = width < (100 * jnp.finfo(width.dtype).eps) ** (1 / 3)
    share = jnp.where(turned, u, 1 - u)  # of the mass, between the near bound and x
    rest = jnp.where(turned, 1 - u, u)
    narrow = _in_narrow(near, jnp.where(is_narrow, width, 0), share)
    tail = _in_tail(jnp.maximum(near, 0), width, share, rest)
    from_near, slope = jax.tree.map(lambda a, b: jnp.where(is_narrow, a, b), narrow, tail)
    center, center_slope = _in_center(near, far, share, rest)
    is_center = (near < 0) & ~is_narrow
    distance = jnp.where(is_center, center, near + jnp.clip(from_near, 0, width))
    slope = jnp.where(is_center, center_slope, slope)
    x = jnp.clip(jnp.where(turned, distance, -distance), lower, upper)
    x = jnp.where(u <= 0, lower, jnp.where(u >= 1, upper, x))
    is_valid = (width >= 0) & (u >= 0) & (u <= 1)
    return nan_unless(is_valid, x), slope


def _in_narrow(near: Array, width: Array, share: Array) -> tuple[Array, Array]:
    """Return s and ds/d(share) by an exponential of the rate at the middle, for w near 0."""
    decay = width * (near + width / 2)
    smallest = jnp.finfo(width.dtype).eps
    decay = jnp.where(jnp.abs(decay) < smallest, smallest, decay)
    mass = -jnp.expm1(-decay)
    place = -jnp.log1p(-share * mass) / decay
    return width * place, width * mass / decay * jnp.exp(decay * place)


def _in_tail(near: Array, width: Array, share: Array, rest: Array) -> tuple[Array, Array]:
    """Return s and ds/d(share) for an interval that begins at `near` ≥ 0."""
    mills = _mills_ratio(near)

    def depth(s: Array, mills_at_s: Array) -> Array:
        return s * (near + s / 2) - jnp.log(mills_at_s / mills)

    missing = jnp.exp(-depth(width, _mills_ratio(near + width)))
    target = -jnp.where(
        share < 0.5, jnp.log1p(-share * (1 - missing)), jnp.log(rest + share * missing)
    )
    s = 2 * target / (1 / mills + jnp.sqrt(1 / mills**2 + 2 * target))
    for _ in range(_NUM_STEPS):
        mills_at_s = _mills_ratio(near + s)
        s = jnp.maximum(s - (depth(s, mills_at_s) - target) * mills_at_s, 0)
    return s, (1 - missing) * mills * jnp.exp(s * (near + s / 2))


def _in_center(near: Array, far: Array, share: Array, rest: Array) -> tuple[Array, Array]:
    """Return a point of [near, far] and its slope by probabilities, for near < 0 < far."""
    below, above = jax.scipy.special.ndtr(near), jax.scipy.special.ndtr(-far)
    mass = 1 - below - above
    p, q = below + share * mass, above + rest * mass
    x = jnp.where(p < q, 1, -1) * jax.scipy.special.ndtri(jnp.minimum(p, q))
    return x, mass * math.sqrt(2 * math.pi) * jnp.exp(x**2 / 2)


def _mills_ratio(y: Array) -> Array:
    """Return (1 − Φ(y)) / φ(y) for y ≥ 0, by its continued fraction where y is large."""
    edge = 5.0 if y.dtype == jnp.float32 else 12.0
    small, large = jnp.minimum(y, edge), jnp.maximum(y, edge)
    scaled = math.sqrt(math.pi / 2) * jnp.exp(small**2 / 2)
    by_erfc = scaled * jax.lax.erfc(small * math.sqrt(0.5))
    z = 1 / large**2
    numerator, denominator = (jnp.polyval(jnp.asarray(c, y.dtype), z) for c in _FRACTION)
    return jnp.where(y < edge, by_erfc, numerator / denominator / large)


def _continued_fraction() -> tuple[np.ndarray, np.ndarray]:
    """Return M(y) y = P(1 / y²) / Q(1 / y²), from M(y) = 1 / (y + 1 / (y + 2 / (y + …)))."""
    later, now = np.array([1.0]), np.array([1.0])  # powers of 1 / y², the lowest first
    for level in range(_NUM_LEVELS, 0, -1):
        size = max(now.size, later.size + 1)
        shifted = np.pad(level * later, (1, size - later.size - 1))
        later, now = now, np.pad(now, (0, size - now.size)) + shifted
    return later[::-1], now[::-1]


_FRACTION = _continued_fraction()
