"""Control variates: subtract what is known in order to measure what is not."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_key, check_rank, check_shape
from jaxgen.core._types import Array, Estimate, Key


class Controlled(NamedTuple):
    """A mean estimated with control variates.

    Attributes:
      estimate: the mean, its standard error and the number of samples, each `[...]`.
      coefficients: the optimal coefficients found, `[C, ...]`.
      variance_ratio: variance left over variance without controls, `[...]`; one minus the squared
        multiple correlation.
    """

    estimate: Estimate
    coefficients: Array
    variance_ratio: Array


def control_variates(values: Array, controls: Array, control_means: Array) -> Controlled:
    r"""Estimate a mean with the coefficients that minimize its variance, found by least squares.

    .. math:: \hat\mu = \bar f - \beta^\top (\bar c - \mathbb E[c]), \qquad
       \beta = \operatorname{Cov}(c)^{-1} \operatorname{Cov}(c, f)

    The coefficients come from the same samples, so the bias is of order 1/n; the standard error
    counts the degrees of freedom they cost (Lavenberg & Welch 1981; Owen 2013, chapter 8).
    Controls that depend on each other linearly are allowed.

    Args:
      values: f of independent samples, `[n, ...]`.
      controls: functions of the same samples with known means, `[n, C]`.
      control_means: those means, `[C]`.

    Raises:
      ValueError: there are not at least C + 2 samples.

    >>> x = jax.random.normal(jax.random.key(0), (100,))
    >>> result = control_variates(2 + 3 * x, x[:, None], jnp.zeros(1))
    >>> round(float(result.estimate.value), 4), bool(result.variance_ratio < 1e-6)
    (2.0, True)
    """
    values, controls = as_reals("values", values), as_reals("controls", controls)
    check_rank("controls", controls, 2)
    num_samples, num_controls = controls.shape
    check_shape("control_means", control_means, (num_controls,))
    check_shape("values", values, (num_samples, *values.shape[1:]))
    check_count("the number of samples less that of controls", num_samples - num_controls, 2)
    centered = controls - jnp.mean(controls, axis=0, keepdims=True)
    deviations = values - jnp.mean(values, axis=0, keepdims=True)
    flat = deviations.reshape(num_samples, -1)
    # Scaled to unit length, so that the rank test of the solver treats every control alike.
    length = jnp.linalg.norm(centered, axis=0)
    length = jnp.where(length == 0, 1.0, length)
    solution = jnp.linalg.lstsq(centered / length[None], flat)[0] / length[:, None]
    residual = flat - centered @ solution
    coefficients = solution.reshape(num_controls, *values.shape[1:])
    shift = jnp.tensordot(jnp.mean(controls, axis=0) - control_means, coefficients, axes=1)
    left = jnp.sum(residual**2, axis=0).reshape(values.shape[1:])
    error = jnp.sqrt(left / (num_samples - num_controls - 1) / num_samples)
    estimate = Estimate(jnp.mean(values, axis=0) - shift, error, jnp.asarray(num_samples))
    return Controlled(estimate, coefficients, left / jnp.sum(deviations**2, axis=0))


class TaylorControl(NamedTuple):
    """A control variate made of a function's own expansion.

    Attributes:
      fn: the second-order expansion, a function of one sample `[D]`, giving a scalar.
      mean: its exact expectation, a scalar.
    """

    fn: Callable[[Array], Array]
    mean: Array


def taylor_control(f: Callable[[Array], Array], mean: Array, covariance: Array) -> TaylorControl:
    r"""Build the control variate that is `f` expanded to second order about the mean.

    .. math:: c(x) = f(\mu) + \nabla f(\mu)^\top (x - \mu)
          + \tfrac12 (x - \mu)^\top H (x - \mu), \qquad
       \mathbb E[c] = f(\mu) + \tfrac12 \operatorname{tr}(H \Sigma)

    The expectation is exact for every distribution with this mean and covariance
    (Paisley, Blei & Jordan 2012).

    Args:
      f: a twice differentiable function of one sample, `[D] -> scalar`.
      mean: μ, `[D]`.
      covariance: Σ, `[D, D]`.

    >>> control = taylor_control(lambda x: jnp.sum(x**2), jnp.ones(2), jnp.eye(2))
    >>> float(control.mean)
    4.0
    """
    mean = jnp.asarray(mean)
    check_rank("mean", mean, 1)
    check_shape("covariance", covariance, (mean.size, mean.size))
    value, slope = jax.value_and_grad(f)(mean)
    curvature = jax.hessian(f)(mean)

    def expansion(x: Array) -> Array:
        step = x - mean
        return value + slope @ step + step @ curvature @ step / 2

    return TaylorControl(expansion, value + jnp.sum(curvature * covariance) / 2)


def leave_one_out(values: Array) -> Array:
    r"""Give each sample the mean of all others: a baseline independent of it, `[K, ...]`.

    .. math:: b_k = \frac{1}{K - 1} \sum_{j \neq k} f_j

    Being independent of sample k, it may be subtracted from f_k in a score-function gradient
    without bias (Kool, van Hoof & Welling 2019; Mnih & Rezende 2016).

    Raises:
      ValueError: there are fewer than two samples.

    >>> leave_one_out(jnp.array([1.0, 2.0, 6.0])).tolist()
    [4.0, 3.5, 1.5]
    """
    values = as_reals("values", values)
    num_samples = values.shape[0] if values.ndim else 0
    check_count("the number of values", num_samples, 2)
    mean = jnp.mean(values, axis=0, keepdims=True)
    # Written by differences, so that a large common offset does not cancel.
    return mean + (mean - values) / (num_samples - 1)


LevelFn = Callable[[int, Key, int], Array]
"""`level_fn(level, key, num_samples) -> [num_samples, ...]`: corrections to the level below."""


def multilevel(key: Key, level_fn: LevelFn, num_samples: Sequence[int]) -> Estimate:
    r"""Estimate the mean of a costly quantity as a cheap mean and a telescoping sum of corrections.

    .. math:: \mathbb E[P_L] = \mathbb E[P_0] + \sum_{\ell=1}^L \mathbb E[P_\ell - P_{\ell-1}]

    Each level has samples of its own; on a level fine and coarse share theirs, so that few are
    needed where each is costly (Heinrich 2001; Giles 2008).

    Args:
      key: a typed key.
      level_fn: `(level, key, num_samples) -> [num_samples, ...]`: samples of P_0 for level 0, of
        P_ℓ − P_{ℓ−1} computed from the same randomness above.
      num_samples: samples on each level, each at least 2; `allocate_samples` finds the cheapest.

    Returns:
      An `Estimate` `[...]`; variances add over levels, `num_samples` is the total.
    """
    check_key(key)
    for level, count in enumerate(num_samples):
        check_count(f"num_samples[{level}]", count, 2)
    values = [
        as_reals("level_fn's value", level_fn(level, jax.random.fold_in(key, level), count))
        for level, count in enumerate(num_samples)
    ]
    mean = sum((jnp.mean(v, axis=0) for v in values), start=jnp.zeros(()))
    variance = sum((jnp.var(v, axis=0, ddof=1) / len(v) for v in values), start=jnp.zeros(()))
    return Estimate(mean, jnp.sqrt(variance), jnp.asarray(sum(num_samples)))


def allocate_samples(variances: Array, costs: Array, *, standard_error: float) -> Array:
    r"""Share samples over the levels of `multilevel` at the least cost for a standard error ε.

    .. math:: n_\ell = \left\lceil \varepsilon^{-2} \sqrt{V_\ell / C_\ell}
       \sum_m \sqrt{V_m C_m} \right\rceil

    Args:
      variances: V_ℓ of one sample on each level, `[L]`, from a pilot run.
      costs: C_ℓ of one sample, `[L]`, in any unit.
      standard_error: ε > 0.

    Returns:
      Counts as floats, `[L]`, at least 2.

    >>> allocate_samples(jnp.array([1.0, 0.01]), jnp.array([1.0, 4.0]), standard_error=0.5).tolist()
    [5.0, 2.0]
    """
    variances, costs = jnp.asarray(variances), jnp.asarray(costs)
    total = jnp.sum(jnp.sqrt(variances * costs))
    return jnp.maximum(jnp.ceil(jnp.sqrt(variances / costs) * total / standard_error**2), 2.0)
