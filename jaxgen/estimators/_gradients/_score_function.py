"""The score-function gradient: it needs the density's derivative and nothing of f's."""

from collections.abc import Callable
from typing import Any

import jax

from jaxgen.core._checks import check_count, check_key, check_one_of
from jaxgen.core._types import Array, Estimate, Key, LogProbFn, Params
from jaxgen.estimators._control_variates import leave_one_out
from jaxgen.estimators._gradients._dependence import (
    check_differentiable,
    check_reached,
    moved_parameters,
    reached_parameters,
)
from jaxgen.estimators._monte_carlo import mean_of_independent

_LEAVE_ONE_OUT = "leave_one_out"


def score_function(
    key: Key,
    f: Callable[[Params, Any], Array],
    sample_fn: Callable[[Key, Params, int], Any],
    log_prob_fn: LogProbFn,
    params: Params,
    num_samples: int,
    *,
    baseline: Array | float | str = _LEAVE_ONE_OUT,
) -> Estimate:
    r"""Estimate the gradient of an expectation by weighing scores; unbiased for any x and any f.

    .. math:: \frac{1}{K} \sum_k (f(\theta, x_k) - b_k) \nabla_\theta \log p_\theta(x_k)
       + \nabla_\theta f(\theta, x_k)

    (Williams 1992; Mnih & Gregor 2014). With b_k the mean of the other samples' values it is the
    leave-one-out estimator of Kool, van Hoof & Welling (2019).

    Args:
      key: a typed key.
      f: `(params, x) -> scalar` for one sample.
      sample_fn: `(key, params, num_samples) -> x`, a pytree of `[num_samples, ...]`, discrete or
        continuous. Gradients do not flow through it.
      log_prob_fn: `(params, x) -> scalar`, nats, normalized, of the law that `sample_fn` draws.
      params: θ, a pytree of floating-point arrays.
      num_samples: K, all in memory at once.
      baseline: "leave_one_out", or a scalar that does not depend on the samples (0 for none).

    Returns:
      An `Estimate` of pytrees like `params`. Leave-one-out terms are weakly dependent: their
      standard error is right up to a factor 1 + O(1/K).

    Raises:
      ValueError: a parameter moves the samples but not their log-probability's derivative, or
        moves `f` by steps only; `baseline` is an unknown name; leave-one-out has one sample.
    """
    check_key(key)
    check_count("num_samples", num_samples, 2 if isinstance(baseline, str) else 1)
    if isinstance(baseline, str):
        check_one_of("baseline", baseline, (_LEAVE_ONE_OUT,))
    samples = jax.lax.stop_gradient(sample_fn(key, params, num_samples))
    one_sample = jax.tree.map(lambda leaf: leaf[0], samples)
    check_reached(
        "log_prob_fn",
        moved_parameters(lambda p: sample_fn(key, p, num_samples), params),
        reached_parameters(lambda p: log_prob_fn(p, one_sample), params),
    )
    check_differentiable("f", lambda p: f(p, one_sample), params)
    values, direct = jax.vmap(jax.value_and_grad(f), (None, 0))(params, samples)
    scores = jax.vmap(jax.grad(log_prob_fn), (None, 0))(params, samples)
    advantage = values - (leave_one_out(values) if isinstance(baseline, str) else baseline)

    def terms(score: Array, direct: Array) -> Array:
        return advantage.reshape(-1, *[1] * (score.ndim - 1)) * score + direct

    return mean_of_independent(jax.tree.map(terms, scores, direct))
