"""Von Mises samples: one pass of Best and Fisher's rejection, then a refill of the rejected."""

import math

import jax
import jax.numpy as jnp

from jaxgen.core import _quadrature as quadrature
from jaxgen.core._arrays import nan_unless
from jaxgen.core._bessel import mean_versine
from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._refill import draw_with_refill
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._uniform import uniform_rows

_RULE = quadrature.gauss_legendre(0.0, 1.0, 24)
_MAX_CONCENTRATION = 1e36


def von_mises(
    key: Key, concentration: Array | float, shape: tuple[int, ...] | None = None
) -> Array:
    r"""Draw angles from a von Mises distribution around 0, exactly.

    .. math:: p(\theta) = \frac{e^{\kappa \cos \theta}}{2 \pi I_0(\kappa)}

    Add a mean direction to turn them. Differentiable in `concentration` by implicit
    reparameterization, dθ/dκ = −∂F(θ; κ)/∂κ / p(θ; κ) (Figurnov, Mohamed and Mnih 2018).

    Args:
      key: a typed key.
      concentration: κ in [0, 1e36], which must broadcast to `shape`; anything else gives NaN.
      shape: shape of the result; by default that of `concentration`.

    Returns:
      Angles in [−π, π] of shape `shape`, float32 at least; their distance from 0 keeps its digits
      however large κ is.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit `concentration`.

    >>> import jax
    >>> von_mises(jax.random.key(0), 2.0, (3,)).shape
    (3,)
    """
    check_key(key)
    concentration = jnp.asarray(concentration)
    shape = result_shape(shape, {"concentration": concentration.shape})
    dtype = jnp.promote_types(concentration.dtype, jnp.float32)
    concentration = jnp.broadcast_to(concentration.astype(dtype), shape)
    is_valid = (concentration >= 0) & (concentration <= _MAX_CONCENTRATION)
    concentration = nan_unless(is_valid, concentration)
    angle = _draw(key, jax.lax.stop_gradient(concentration).ravel()).reshape(shape)
    return _with_gradient(concentration, angle.astype(dtype))


def propose(concentration: Array, u: Array, u_accept: Array) -> tuple[Array, Array]:
    r"""Turn uniforms into proposals and say which to keep (Best and Fisher 1979).

    The proposal is wrapped Cauchy, tan(θ/2) = β tan(π (u − ½)), with a density in proportion to
    1 / (1 + δ m) for m = 1 − cos θ, β = (1 + 2δ)^−½ and δ = 2κ / (1 + 1 / (2κ + √(1 + 4κ²))). It is
    kept when log u ≤ log (1 + δ m) − κ m less the largest such value. All is a function of m, which
    keeps its digits where cos θ rounds to 1. At least 65 % are kept.

    Args:
      concentration: κ ≥ 0, broadcast against the uniforms.
      u: uniforms in (0, 1), `[...]`, for the proposal.
      u_accept: uniforms in (0, 1), `[...]`, for the test.

    Returns:
      Angles in [−π, π], `[...]`, and whether each is accepted, `[...]`. NaN is accepted, so that
      bad parameters show in the result.
    """
    ratio = (1 + 1 / (2 * concentration + jnp.hypot(1.0, 2 * concentration))) / 2  # κ / δ
    delta = concentration / ratio
    beta = jax.lax.rsqrt(1 + 2 * delta)
    side = u - 0.5
    opposite = beta * jnp.sin(math.pi * side)
    adjacent = jnp.sin(math.pi * (0.5 - jnp.abs(side)))  # cos(π side), exact to its last digit
    m = 2 * opposite**2 / (opposite**2 + adjacent**2)
    bound = jnp.log1p(delta * m) - concentration * m + (1 - ratio + jnp.log(ratio))
    accepted = ~(jnp.log(u_accept) > bound)  # NaN too
    return 2 * jnp.arctan2(opposite, adjacent), accepted


@jax.jit
def _draw(key: Key, concentration: Array) -> Array:
    if concentration.size == 0:
        return jnp.zeros_like(concentration)
    return draw_with_refill(key, _propose_with_key, concentration, concentration.size, 0.35)


def _propose_with_key(key: Key, concentration: Array, num_samples: int) -> tuple[Array, Array]:
    u = uniform_rows(key, 2, num_samples)
    return propose(concentration, u[0], u[1])


@jax.custom_jvp
def _with_gradient(concentration: Array, angle: Array) -> Array:
    return angle


@_with_gradient.defjvp
def _gradient(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (concentration, angle), (concentration_dot, _) = primals, tangents
    return angle, jnp.sign(angle) * _slope(concentration, jnp.abs(angle)) * concentration_dot


def _slope(concentration: Array, angle: Array) -> Array:
    """Return dθ/dκ at a fixed u = F(θ; κ) for θ in [0, π].

    It is −∫₀^θ (cos y − A) exp(κ (cos y − cos θ)) dy, where A = I₁(κ) / I₀(κ) is the mean of cos y.
    The integral over [0, π] is 0, so beyond cos θ = A the same from θ to π is taken, with the sign
    turned: the integrand keeps one sign over either, and nothing cancels.
    """
    m, spread = 2 * jnp.sin(angle / 2) ** 2, mean_versine(concentration)
    inner = m < spread
    # Far from θ the weight is below e^−50, so the nodes stay where it is not.
    reach = jnp.minimum(math.pi - angle, 10 * jax.lax.rsqrt(jnp.maximum(concentration, 1)))
    width = jnp.where(inner, -angle, reach)

    def add_node(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = node
        y = angle + width * place
        rise = 2 * jnp.sin((y + angle) / 2) * jnp.sin((y - angle) / 2)  # cos θ − cos y
        term = (spread - 2 * jnp.sin(y / 2) ** 2) * jnp.exp(-concentration * rise)
        return total + weight * term, None

    nodes = (jnp.asarray(_RULE.nodes, angle.dtype), jnp.asarray(_RULE.weights, angle.dtype))
    return width * jax.lax.scan(add_node, jnp.zeros_like(angle), nodes)[0]
