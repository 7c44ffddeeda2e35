"""Gamma samples: one Marsaglia-Tsang pass over all of them, then a refill of the few rejected."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_key
from jaxgen.core._types import Array, Key
from jaxgen.samplers._refill import draw_with_refill
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._uniform import iid_uniforms, uniform_rows


def gamma(key: Key, concentration: Array | float, shape: tuple[int, ...] | None = None) -> Array:
    r"""Draw from a gamma distribution with unit rate, exactly.

    .. math:: p(x) = x^{\alpha - 1} e^{-x} / \Gamma(\alpha)

    Differentiable in `concentration` by implicit reparameterization,
    dx/dα = −∂F(x; α)/∂α / p(x; α) (Figurnov, Mohamed and Mnih 2018).

    Args:
      key: a typed key.
      concentration: α > 0, finite, which must broadcast to `shape`; anything else gives NaN.
      shape: shape of the result; by default that of `concentration`.

    Returns:
      Samples of shape `shape`, float32 at least. Where α is small (below about 0.1) many underflow
      to 0; `log_gamma` keeps them apart.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit `concentration`.

    >>> import jax
    >>> gamma(jax.random.key(0), 2.5, (3,)).shape
    (3,)
    """
    concentration, shape, boosts = _prepare(key, concentration, shape)
    x, log_boost = _draw(key, jax.lax.stop_gradient(concentration), shape, boosts)
    return _with_gradient(concentration, x * jnp.exp(log_boost))


def log_gamma(
    key: Key, concentration: Array | float, shape: tuple[int, ...] | None = None
) -> Array:
    """Draw the logarithm of a gamma sample, which a small concentration does not underflow.

    Differentiable in `concentration`, as `gamma` is; the same key gives the logarithm of its draw.

    Args:
      key: a typed key.
      concentration: α > 0, finite, which must broadcast to `shape`; anything else gives NaN.
      shape: shape of the result; by default that of `concentration`.

    Returns:
      log x of samples x, of shape `shape`, float32 at least.

    Raises:
      TypeError, ValueError: `key` is not one typed key, or `shape` does not fit `concentration`.
    """
    concentration, shape, boosts = _prepare(key, concentration, shape)
    x, log_boost = _draw(key, jax.lax.stop_gradient(concentration), shape, boosts)
    return _with_log_gradient(concentration, jnp.log(x) + log_boost)


def propose(concentration: Array | float, u_normal: Array, u_accept: Array) -> tuple[Array, Array]:
    r"""Turn uniforms into proposals and say which to keep (Marsaglia and Tsang 2000).

    With d = α − 1/3, a standard normal z and v = (1 + z / √(9d))³, the proposal d·v is kept when
    log u < z²/2 + d (1 − v + log v). For α ≥ 1 at least 95 % are kept.

    Args:
      concentration: α ≥ 1, broadcast against the uniforms.
      u_normal: uniforms in (0, 1), `[...]`, from which z = Φ⁻¹(u) is made.
      u_accept: uniforms in (0, 1) for the test, `[...]`.

    Returns:
      The proposals, `[...]`, and whether each is accepted, `[...]`. NaN is accepted, so that bad
      parameters show in the result.
    """
    d = concentration - 1 / 3
    z = math.sqrt(2) * jax.lax.erf_inv(2 * u_normal - 1)
    root = 1 + z * jax.lax.rsqrt(9 * d)
    v = root**3
    bound = 0.5 * z**2 + d * (1 - v + jnp.log(jnp.where(root > 0, v, 1)))
    accepted = (root > 0) & (jnp.log(u_accept) < bound)
    return d * v, accepted | jnp.isnan(root)


def _prepare(
    key: Key, concentration: Array | float, shape: tuple[int, ...] | None
) -> tuple[Array, tuple[int, ...], bool]:
    """Check arguments; return α with the rank of the draw, its shape, and whether α < 1 may come.

    Python numbers and NumPy arrays can rule that out.
    """
    check_key(key)
    boosts = isinstance(concentration, jax.Array) or not np.all(np.asarray(concentration) >= 1)
    concentration = jnp.asarray(concentration)
    concentration = concentration.astype(jnp.promote_types(concentration.dtype, jnp.float32))
    shape = result_shape(shape, {"concentration": concentration.shape})
    missing = len(shape) - concentration.ndim
    concentration = concentration.reshape((1,) * missing + concentration.shape)
    is_valid = (concentration > 0) & (concentration < jnp.inf)  # ∞ would never be accepted
    return nan_unless(is_valid, concentration), shape, boosts


@functools.partial(jax.jit, static_argnames=("shape", "boosts"))
def _draw(
    key: Key, concentration: Array, shape: tuple[int, ...], boosts: bool
) -> tuple[Array, Array]:
    """Draw for α, or α + 1 where α < 1, with log u / α, the boost that brings it down to α."""
    num_samples, dtype = math.prod(shape), concentration.dtype
    if num_samples == 0:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    main_key, boost_key = jax.random.split(key)
    is_small = concentration < 1
    enlarged = jnp.where(is_small, concentration + 1, concentration)
    if enlarged.size == 1:
        enlarged = enlarged.reshape(())
    else:
        enlarged = jnp.broadcast_to(enlarged, shape).ravel()
    x = draw_with_refill(main_key, _propose_with_key, enlarged, num_samples).reshape(shape)
    if not boosts:
        return x.astype(dtype), jnp.zeros((), dtype)
    u = iid_uniforms(boost_key, num_samples).reshape(shape)
    log_boost = jnp.where(jnp.broadcast_to(is_small, shape), jnp.log(u) / concentration, 0)
    return x.astype(dtype), log_boost.astype(dtype)


def _propose_with_key(
    key: Key, concentration: Array | float, num_samples: int
) -> tuple[Array, Array]:
    u = uniform_rows(key, 2, num_samples)
    return propose(concentration, u[0], u[1])


@jax.custom_jvp
def _with_gradient(concentration: Array | float, x: Array) -> Array:
    return x


@_with_gradient.defjvp
def _gradient(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (concentration, x), (concentration_dot, _) = primals, tangents
    log_x = jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
    return x, x * _log_slope(concentration, log_x) * concentration_dot


@jax.custom_jvp
def _with_log_gradient(concentration: Array | float, log_x: Array) -> Array:
    return log_x


@_with_log_gradient.defjvp
def _log_gradient(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (concentration, log_x), (concentration_dot, _) = primals, tangents
    return log_x, _log_slope(concentration, log_x) * concentration_dot


def _log_slope(concentration: Array | float, log_x: Array) -> Array:
    """Return the derivative d log x / dα at a fixed u = F(x; α).

    Near zero F(x; α) ≈ x^α / Γ(α + 1), which gives (ψ(α + 1) − log x) / α without the quotient of
    two numbers that underflow.
    """
    concentration = jnp.broadcast_to(concentration, log_x.shape)
    near_zero = log_x < math.log(jnp.finfo(log_x.dtype).eps)
    x = jnp.exp(jnp.where(near_zero, 0, log_x))
    regular = jax.lax.random_gamma_grad(concentration, x) / x
    limit = (jax.lax.digamma(concentration + 1) - log_x) / concentration
    return jnp.where(near_zero, limit, regular)
