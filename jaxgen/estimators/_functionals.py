"""The calculus of variations made runnable: numbers made of densities, and their derivatives.

A functional that is an expectation under its density, such as entropy, takes an `expectation_fn`:
`by_quadrature(rule)` in one and two dimensions, `by_monte_carlo(key, …)` above. One that is any
∫ L(x, p, p′) dx takes its integrand and a rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_key, check_shape
from jaxgen.core._quadrature import Rule
from jaxgen.core._types import Array, Estimate, Key
from jaxgen.estimators._monte_carlo import SampleFn, expectation

LogDensityFn = Callable[[Any], Array]
"""`log_p_fn(x) -> scalar`, nats, of one point, such as an array `[]` or `[D]`."""

ExpectationFn = Callable[[LogDensityFn, Callable[[Array], Array]], Estimate]
"""`expectation_fn(log_p_fn, h) -> Estimate` of ∫ p(x) h(x) dx."""

IntegrandFn = Callable[[Array, Array, Array], Array]
"""`L(x, p, dp) -> scalar` of a point, the density there and its gradient (of the shape of x)."""


def by_quadrature(rule: Rule) -> ExpectationFn:
    """Build an `expectation_fn` that integrates over a rule; its standard error is zero.

    The rule must reach as far as the density does: mass outside is missed. What is averaged is
    real: anything else raises `TypeError`.
    """
    nodes, weights = _as_arrays(rule)

    def average(log_p_fn: LogDensityFn, h: Callable[[Array], Array]) -> Estimate:
        def term(x: Array) -> Array:
            log_density = as_reals("log_p_fn(x)", log_p_fn(x))
            # Where p underflows, h is often infinite: their product is zero all the same.
            inside = jnp.exp(log_density) > 0
            height = as_reals("h(x)", h(x))
            return jnp.where(inside, jnp.exp(log_density) * jnp.where(inside, height, 0.0), 0.0)

        value = jnp.sum(weights * jax.vmap(term)(nodes))
        return Estimate(value, jnp.zeros_like(value), jnp.asarray(nodes.shape[0]))

    return average


def by_monte_carlo(key: Key, sample_fn: SampleFn, num_samples: int) -> ExpectationFn:
    """Build an `expectation_fn` that averages over draws `sample_fn(key, num_samples)` from p.

    The same draws serve every call, so a difference of two functionals shares its noise.
    """
    check_key(key)
    check_count("num_samples", num_samples, 2)

    def average(log_p_fn: LogDensityFn, h: Callable[[Array], Array]) -> Estimate:
        # A copy of the key: each call is meant to see the same draws.
        return expectation(jax.random.clone(key), sample_fn, h, num_samples)

    return average


def entropy(expectation_fn: ExpectationFn, log_p_fn: LogDensityFn) -> Estimate:
    r"""Average −log p: the differential entropy, in nats.

    .. math:: H[p] = -\int p \log p \, dx

    >>> from jaxgen.core._quadrature import gauss_legendre
    >>> average = by_quadrature(gauss_legendre(0.0, 2.0, 8))
    >>> round(float(entropy(average, lambda x: jnp.log(x / 2)).value), 3)
    0.5
    """
    return expectation_fn(log_p_fn, lambda x: -log_p_fn(x))


def cross_entropy(
    expectation_fn: ExpectationFn, log_p_fn: LogDensityFn, log_q_fn: LogDensityFn
) -> Estimate:
    r"""Average −log q under p: the cross-entropy :math:`-\int p \log q \, dx`, in nats."""
    return expectation_fn(log_p_fn, lambda x: -log_q_fn(x))


def kl_divergence(
    expectation_fn: ExpectationFn, log_p_fn: LogDensityFn, log_q_fn: LogDensityFn
) -> Estimate:
    r"""Average log p − log q under p: the Kullback-Leibler divergence KL(p‖q), in nats.

    .. math:: \mathrm{KL}(p \| q) = \int p \log \frac{p}{q} \, dx
    """
    return expectation_fn(log_p_fn, lambda x: log_p_fn(x) - log_q_fn(x))


def mutual_information(
    expectation_fn: ExpectationFn, log_joint_fn: LogDensityFn, log_marginals_fn: LogDensityFn
) -> Estimate:
    r"""Average what a joint density says beyond its marginals: the mutual information, in nats.

    .. math:: I = \int p(x, y) \log \frac{p(x, y)}{p(x)\, p(y)} \, dx\, dy

    Args:
      expectation_fn: averages under the joint density.
      log_joint_fn: log p(x, y) of one point `[D]`.
      log_marginals_fn: log p(x) + log p(y) of the same point; `marginal_product` finds it in 2-D.
    """
    return kl_divergence(expectation_fn, log_joint_fn, log_marginals_fn)


def marginal_product(log_joint_fn: LogDensityFn, first: Rule, second: Rule) -> LogDensityFn:
    """Integrate a density of two coordinates to log p(x) + log p(y), a function of a point `[2]`.

    Args:
      log_joint_fn: log p(x, y), of a point `[2]`.
      first: a rule for x.
      second: a rule for y.
    """

    def log_marginal(point: Array, rule: Rule, axis: int) -> Array:
        nodes, weights = _as_arrays(rule)
        logs = jax.vmap(lambda node: log_joint_fn(point.at[axis].set(node)))(nodes)
        return jax.nn.logsumexp(logs, b=weights)

    return lambda point: log_marginal(point, second, 1) + log_marginal(point, first, 0)


def functional(
    integrand_fn: IntegrandFn, density_fn: Callable[[Array], Array], rule: Rule
) -> Array:
    r"""Integrate any :math:`F[p] = \int L(x, p(x), \nabla p(x)) \, dx` over a rule, a scalar.

    >>> from jaxgen.core._quadrature import gauss_legendre
    >>> fisher = lambda x, p, dp: dp**2 / p
    >>> density = lambda x: jnp.exp(-x**2 / 8) / jnp.sqrt(8 * jnp.pi)
    >>> round(float(functional(fisher, density, gauss_legendre(-16.0, 16.0, 40, 4))), 4)
    0.25
    """

    def term(x: Array) -> Array:
        return integrand_fn(x, *jax.value_and_grad(density_fn)(x))

    nodes, weights = _as_arrays(rule)
    return jnp.sum(weights * jax.vmap(term)(nodes))


def functional_estimate(
    key: Key,
    integrand_fn: IntegrandFn,
    density_fn: Callable[[Array], Array],
    sample_fn: SampleFn,
    num_samples: int,
) -> Estimate:
    r"""Estimate ∫ L(x, p, ∇p) dx from draws of p, in any number of dimensions.

    .. math:: F[p] = \mathbb E_p\!\left[\frac{L(x, p(x), \nabla p(x))}{p(x)}\right]

    The density itself must not underflow; functionals of log p are better served by `entropy` and
    its like, with `by_monte_carlo`.
    """

    def ratio(x: Array) -> Array:
        density, slope = jax.value_and_grad(density_fn)(x)
        return integrand_fn(x, density, slope) / density

    return expectation(key, sample_fn, ratio, num_samples)


def functional_derivative(
    integrand_fn: IntegrandFn, density_fn: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    r"""Differentiate a functional at a density: the Euler-Lagrange expression, a function of x.

    .. math:: \frac{\delta F}{\delta p}(x) = \frac{\partial L}{\partial p}
       - \nabla \cdot \frac{\partial L}{\partial \nabla p}

    Exact to rounding: every derivative is autodiff's. F changes by ∫ δF/δp(x) η(x) dx to first
    order when p changes by η, provided η vanishes at the ends (Gelfand & Fomin 1963).

    >>> negentropy = lambda x, p, dp: p * jnp.log(p)
    >>> derivative = functional_derivative(negentropy, lambda x: jnp.exp(-x))
    >>> float(derivative(jnp.array(3.0)))  # log p + 1
    -2.0
    """

    def at(x: Array) -> tuple[Array, Array]:
        density, slope = jax.value_and_grad(density_fn)(x)
        return jax.grad(integrand_fn, argnums=(1, 2))(x, density, slope)

    def derivative(x: Array) -> Array:
        in_density = at(x)[0]
        jacobian = jax.jacfwd(lambda x: at(x)[1])(x)
        divergence = jnp.trace(jacobian) if jnp.ndim(jacobian) == 2 else jacobian
        return in_density - divergence

    return derivative


class ConstrainedMinimum(NamedTuple):
    """A density that minimizes a functional under linear constraints.

    Attributes:
      density: p at the rule's nodes, `[N]`.
      multipliers: of the normalization and of each moment, `[M + 1]`.
      value: the functional there, a scalar.
      residual: the largest violation of a constraint or of stationarity, a scalar; judge by it
        whether the search converged.
    """

    density: Array
    multipliers: Array
    value: Array
    residual: Array


def minimize_functional(
    integrand_fn: Callable[[Array, Array], Array],
    statistics_fn: Callable[[Array], Array],
    moments: Array,
    rule: Rule,
    *,
    num_iterations: int = 50,
) -> ConstrainedMinimum:
    r"""Find the density that minimizes a convex functional and has the moments given.

    .. math:: \min_p \int L(x, p) \, dx \quad \text{with} \quad \int p\, dx = 1, \
       \int p\, T(x)\, dx = m

    Newton's method on the density's logarithm at every node and the multipliers together; from the
    uniform density, with steps halved until the error falls. With L = p log p these are the
    maximum-entropy densities (Jaynes 1957).

    Args:
      integrand_fn: `L(x, p) -> scalar`, strictly convex in p > 0.
      statistics_fn: `T(x) -> [M]`; M may be 0.
      moments: m, `[M]`, inside the convex hull of T.
      rule: nodes `[N]` or `[N, D]` that cover the support.
      num_iterations: Newton steps.

    >>> from jaxgen.core._quadrature import gauss_legendre
    >>> negentropy = lambda x, p: p * jnp.log(p)
    >>> rule = gauss_legendre(0.0, 1.0, 8)
    >>> best = minimize_functional(negentropy, lambda x: jnp.stack([x]), jnp.array([0.5]), rule)
    >>> bool(jnp.max(jnp.abs(best.density - 1.0)) < 1e-4)
    True
    """
    nodes, weights = _as_arrays(rule)
    moments = jnp.asarray(moments)
    features = jax.vmap(lambda x: jnp.append(jnp.ones(()), statistics_fn(x)))(nodes)
    check_shape("moments", moments, (features.shape[1] - 1,))
    targets = jnp.append(jnp.ones(()), moments)
    slope_fn = jax.vmap(jax.grad(integrand_fn, argnums=1))

    def violations(state: tuple[Array, Array]) -> tuple[Array, Array]:
        log_p, multipliers = state
        density = jnp.exp(log_p)
        stationarity = slope_fn(nodes, density) + features @ multipliers
        return stationarity, (weights * density) @ features - targets

    def improve(state: tuple[Array, Array], _: None) -> tuple[Any, None]:
        elasticity = _elasticity(integrand_fn, nodes, jnp.exp(state[0]))
        give = weights * jnp.exp(state[0]) / elasticity
        change = _multiplier_step(*violations(state), features, give)
        log_move = -(violations(state)[0] + features @ change) / elasticity
        scales = 0.5 ** jnp.arange(12.0)

        def moved(scale: Array) -> tuple[Array, Array]:
            return state[0] + scale * log_move, state[1] + scale * change

        errors = jax.vmap(lambda scale: _size(violations(moved(scale)), weights))(scales)
        best = scales[jnp.nanargmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))]
        better = jnp.nanmin(errors) < _size(violations(state), weights)
        return moved(jnp.where(better, best, 0.0)), None

    start = jnp.full(nodes.shape[0], -jnp.log(jnp.sum(weights))), jnp.zeros(targets.shape)
    (log_p, multipliers), _ = jax.lax.scan(improve, start, length=num_iterations)
    stationarity, excess = violations((log_p, multipliers))
    value = jnp.sum(weights * jax.vmap(integrand_fn)(nodes, jnp.exp(log_p)))
    residual = jnp.maximum(jnp.max(jnp.abs(stationarity)), jnp.max(jnp.abs(excess)))
    return ConstrainedMinimum(jnp.exp(log_p), multipliers, value, residual)


def _elasticity(integrand_fn: Callable, nodes: Array, density: Array) -> Array:
    # L'' holds 1/p², which overflows long before p vanishes; p L'' changes slowly, so where p is
    # negligible it is taken at a small but safe density.
    safe = jnp.maximum(density, 100 * jnp.sqrt(jnp.finfo(density.dtype).tiny))
    return safe * jax.vmap(jax.grad(jax.grad(integrand_fn, argnums=1), argnums=1))(nodes, safe)


def _multiplier_step(stationarity: Array, excess: Array, features: Array, give: Array) -> Array:
    # The Hessian is diagonal in the density, so it is eliminated. By QR, since the normal
    # equations of moments as unlike as 1 and x² cost float32 all its digits.
    triangle = jnp.linalg.qr(features * jnp.sqrt(give)[:, None], mode="r")
    gradient = excess - (give * stationarity) @ features
    half = jax.scipy.linalg.solve_triangular(triangle, gradient, trans="T")
    return jax.scipy.linalg.solve_triangular(triangle, half)


def _as_arrays(rule: Rule) -> tuple[Array, Array]:
    # With the dtype spelled out: rules are float64, whatever the default is.
    dtype = jnp.result_type(float)
    return jnp.asarray(rule.nodes, dtype), jnp.asarray(rule.weights, dtype)


def _size(violations: tuple[Array, Array], weights: Array) -> Array:
    stationarity, excess = violations
    return jnp.sum(weights * stationarity**2) / jnp.sum(weights) + jnp.sum(excess**2)
