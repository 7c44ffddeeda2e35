"""Rejection sampling: exact draws from an unnormalised density under a scaled proposal.

With log f the target, log g the proposal and log f(x) − log g(x) ≤ log M everywhere, a proposal x
is kept when log u ≤ log f(x) − log g(x) − log M; what is kept follows f (von Neumann 1951).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.checks import check_count, check_in_range, check_key
from jaxgen.core.types import Array, Key, LogProbFn, Params
from jaxgen.samplers import uniform

_CHUNK_SIZE = 2**14  # proposals made at once: few enough to stay in a core's cache


class Proposal(NamedTuple):
    """A distribution that proposes points, as a map from uniforms.

    Attributes:
      params: pytree of arrays that both functions take first.
      transform_fn: `(params, u [num_uniforms]) -> x`, one point from uniforms in (0, 1).
      log_prob_fn: `(params, x) -> scalar`, its log-density in nats.
      num_uniforms: how many uniforms one point takes.
    """

    params: Params
    transform_fn: Callable[[Params, Array], Array]
    log_prob_fn: LogProbFn
    num_uniforms: int = 1


class RejectionSamples(NamedTuple):
    """Draws with what there is to know about them.

    Attributes:
      samples: `[*shape, ...]`; NaN (0 for integers) where none was accepted in time.
      accepted: whether each slot was filled, bool `[*shape]`; all true unless proposals ran out.
      acceptance_rate: accepted over proposed, a scalar.
      bound_exceeded: whether some proposal had log f − log g above the bound, or NaN: the samples
        are then biased. A scalar bool.
    """

    samples: Array
    accepted: Array
    acceptance_rate: Array
    bound_exceeded: Array


class RejectionEstimate(NamedTuple):
    """A Monte Carlo average over accepted draws.

    Attributes:
      value: the average, a scalar; its gradient is an unbiased estimate too.
      standard_error: of `value`, a scalar.
      num_samples: how many draws were accepted, a scalar.
      acceptance_rate: accepted over proposed, a scalar.
      bound_exceeded: as in `RejectionSamples`.
    """

    value: Array
    standard_error: Array
    num_samples: Array
    acceptance_rate: Array
    bound_exceeded: Array


class LogBound(NamedTuple):
    """The bound found, and how sure it is.

    Attributes:
      log_bound: largest log f − log g found, plus the margin (nats), a scalar.
      largest_log_ratio: largest log f − log g found (nats), a scalar; NaN if any was.
      uniforms: where it was found, `[num_uniforms]`.
      at_edge: whether that is at the edge of the unit cube, where the ratio may still be rising
        towards the end of the support: the supremum may be infinite. A scalar bool.
      exceeding_mass: with 95 % confidence, at most this much of the proposal's mass lies where
        the bound is exceeded (Wilks 1941), a scalar.
    """

    log_bound: Array
    largest_log_ratio: Array
    uniforms: Array
    at_edge: Array
    exceeding_mass: Array


def accept(
    log_prob_fn: LogProbFn, params: Params, proposal: Proposal, log_bound: Array | float, u: Array
) -> tuple[Array, Array, Array]:
    """Turn uniforms into one proposal each and test it: the deterministic core.

    Args:
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: where points come from.
      log_bound: log M (nats), a scalar.
      u: uniforms in (0, 1), `[N, num_uniforms + 1]`; the last column is for the test.

    Returns:
      The proposals `[N, ...]`, whether each is accepted `[N]`, and whether each exceeds the bound
      by more than rounding explains, or is NaN `[N]`.
    """
    x = jax.vmap(proposal.transform_fn, (None, 0))(proposal.params, u[:, :-1])
    log_target, log_proposal = _log_densities(log_prob_fn, params, proposal, x)
    excess = _log_ratio(log_target, log_proposal) - log_bound
    size = 1 + jnp.abs(log_target) + jnp.abs(log_proposal) + jnp.abs(log_bound)
    rounding = jnp.where(jnp.isfinite(size), 8 * jnp.finfo(size.dtype).eps * size, 0)
    return x, jnp.log(u[:, -1]) <= excess, ~(excess <= rounding)


def sample(
    key: Key,
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal,
    log_bound: Array | float,
    shape: tuple[int, ...] = (),
    *,
    max_proposals_per_sample: int = 1000,
) -> RejectionSamples:
    """Draw exactly from an unnormalised density by rejection, many proposals at a time.

    Proposals are made in chunks and the accepted gathered at the front of what is still to fill,
    so the cost is that of about 1 / acceptance_rate vectorised proposals a sample.

    Args:
      key: a typed key.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: where points come from.
      log_bound: log M (nats), at least the supremum of log f − log g; see `log_bound`.
      shape: shape of independent draws.
      max_proposals_per_sample: gives up after this many times the number of samples.

    Returns:
      `RejectionSamples`. Differentiating it raises: use `expectation`.

    Raises:
      TypeError, ValueError: `key` is not one typed key; a count is not a positive integer.
    """
    check_key(key)
    params, moving = jax.lax.stop_gradient(params), (params, proposal.params, log_bound)
    proposal = proposal._replace(params=jax.lax.stop_gradient(proposal.params))
    log_bound = jax.lax.stop_gradient(log_bound)
    num_samples = math.prod(shape)

    def propose(u: Array) -> tuple[Array, Array, Array]:
        return accept(log_prob_fn, params, proposal, log_bound, u)

    drawn = _fill(key, propose, num_samples, proposal.num_uniforms, max_proposals_per_sample)
    samples = drawn.samples.reshape(shape + drawn.samples.shape[1:])
    return drawn._replace(
        samples=_refuse_gradient(samples, moving), accepted=drawn.accepted.reshape(shape)
    )


def expectation(
    key: Key,
    value_fn: Callable[[Params, Array], Array],
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal,
    log_bound: Array | float,
    num_samples: int,
    *,
    max_proposals_per_sample: int = 1000,
) -> RejectionEstimate:
    r"""Estimate an expectation so that its gradient in the parameters is unbiased too.

    With x = h(u; θ) the proposal's map, accepted u have the density π(u; θ) ∝ f(h) / g(h), and

    .. math:: \nabla E_f[v] = E_\pi[\nabla v(h(u; θ))]
       + \mathrm{Cov}_\pi(v, \nabla \log \tfrac{f}{g}(h(u; θ)))

    (Naesseth, Ruiz, Linderman and Blei 2017). The first term alone is biased; the second is small
    when the proposal follows the target as θ moves. The covariance needs no normaliser of f.

    Args:
      key: a typed key.
      value_fn: `(params, x) -> scalar`, what to average.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: where points come from; its parameters may depend on `params`.
      log_bound: log M (nats), at least the supremum of log f − log g.
      num_samples: draws to average over, at least 2.
      max_proposals_per_sample: gives up after this many times the number of samples.

    Returns:
      `RejectionEstimate`.

    Raises:
      TypeError, ValueError: `key` is not one typed key; a count is out of range.
    """
    check_key(key)
    check_count("num_samples", num_samples, minimum=2)
    fixed = jax.lax.stop_gradient((params, proposal.params, log_bound))

    def propose(u: Array) -> tuple[Array, Array, Array]:
        still = proposal._replace(params=fixed[1])
        return u[:, :-1], *accept(log_prob_fn, fixed[0], still, fixed[2], u)[1:]

    drawn = _fill(key, propose, num_samples, proposal.num_uniforms, max_proposals_per_sample)
    u = jnp.where(drawn.accepted[:, None], drawn.samples, 0.5)
    x = jax.vmap(proposal.transform_fn, (None, 0))(proposal.params, u)
    values = jax.vmap(value_fn, (None, 0))(params, x)
    log_ratio = _log_ratio(*_log_densities(log_prob_fn, params, proposal, x))
    mean, variance, covariance = _moments(values, log_ratio, drawn.accepted)
    count = jnp.sum(drawn.accepted)
    return RejectionEstimate(
        mean + covariance,
        jnp.sqrt(variance / count),
        count,
        drawn.acceptance_rate,
        drawn.bound_exceeded,
    )


def log_bound(
    key: Key,
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal,
    *,
    num_samples: int = 2**14,
    margin: float = 1e-3,
) -> LogBound:
    """Find the supremum of log f − log g over the proposal's support, and say how sure it is.

    It takes the largest ratio over independent proposals, then closes in on the best eight of them
    in boxes of uniforms that shrink by half each round. No finite search can promise a supremum:
    the proposals alone bound how much mass may exceed it, and `at_edge` warns of a ratio that
    grows towards the end of the support.

    Args:
      key: a typed key.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: where points come from.
      num_samples: independent proposals to look at, at least 8.
      margin: nats added to the largest ratio found; costs as much acceptance.

    Returns:
      `LogBound`.

    Raises:
      TypeError, ValueError: `key` is not one typed key; an argument is out of range.
    """
    check_key(key)
    check_count("num_samples", num_samples, minimum=8)
    check_in_range("margin", margin, 0, math.inf)
    first_key, search_key = jax.random.split(key)

    def log_ratio_fn(u: Array) -> Array:
        x = jax.vmap(proposal.transform_fn, (None, 0))(proposal.params, u)
        return _log_ratio(*_log_densities(log_prob_fn, params, proposal, x))

    u = uniform.iid(first_key, num_samples, proposal.num_uniforms)
    log_ratio = log_ratio_fn(u)
    starts = u[jax.lax.top_k(log_ratio, 8)[1]]
    width = 4.0 * num_samples ** (-1 / proposal.num_uniforms)
    best, found = jax.vmap(lambda k, start: _climb(k, log_ratio_fn, start, width))(
        jax.random.split(search_key, 8), starts
    )
    # NaN wins every maximum and argmax, so it shows.
    largest, best = jnp.maximum(jnp.max(log_ratio), jnp.max(found)), best[jnp.argmax(found)]
    at_edge = jnp.any((best <= 2 / num_samples) | (best >= 1 - 2 / num_samples))
    exceeding = jnp.asarray(-math.expm1(math.log(0.05) / num_samples), largest.dtype)
    return LogBound(largest + margin, largest, best, at_edge, exceeding)


def _log_densities(
    log_prob_fn: LogProbFn, params: Params, proposal: Proposal, x: Array
) -> tuple[Array, Array]:
    log_target = jax.vmap(log_prob_fn, (None, 0))(params, x)
    return log_target, jax.vmap(proposal.log_prob_fn, (None, 0))(proposal.params, x)


def _log_ratio(log_target: Array, log_proposal: Array) -> Array:
    # A point outside the target is rejected even where rounding put it outside the proposal too.
    outside = jnp.isneginf(log_target)
    return jnp.where(outside, -jnp.inf, jnp.where(outside, 0, log_target) - log_proposal)


def _fill(
    key: Key,
    propose: Callable[[Array], tuple[Array, Array, Array]],
    num_samples: int,
    num_uniforms: int,
    max_proposals_per_sample: int,
) -> RejectionSamples:
    """Propose chunk after chunk, writing the accepted behind one another, until all is filled."""
    check_count("the number of samples", num_samples)
    check_count("max_proposals_per_sample", max_proposals_per_sample)
    chunk = min(max(num_samples, 64), _CHUNK_SIZE)
    max_rounds = -(-num_samples * max_proposals_per_sample // chunk)
    empty = jax.eval_shape(propose, jnp.zeros((1, num_uniforms + 1)))[0]
    blank = jnp.nan if jnp.issubdtype(empty.dtype, jnp.inexact) else 0
    samples = jnp.full((num_samples, *empty.shape[1:]), blank, empty.dtype)

    def unfinished(state: tuple) -> Array:
        _, count, _, round_index = state
        return (count < num_samples) & (round_index < max_rounds)

    def propose_chunk(state: tuple) -> tuple:
        samples, count, exceeded, round_index = state
        u = _uniforms(jax.random.fold_in(key, round_index), chunk, num_uniforms)
        x, accepted, too_high = propose(u)
        ranks = count + jnp.cumsum(accepted, dtype=jnp.int32)
        slots = jnp.where(accepted, ranks - 1, num_samples)
        samples = samples.at[slots].set(x, mode="drop")
        return samples, ranks[-1], exceeded | jnp.any(too_high), round_index + 1

    start = (samples, jnp.int32(0), jnp.bool_(False), jnp.int32(0))
    samples, count, exceeded, num_rounds = jax.lax.while_loop(unfinished, propose_chunk, start)
    rate = count / (num_rounds * jnp.asarray(chunk, jnp.result_type(float)))
    return RejectionSamples(samples, jnp.arange(num_samples) < count, rate, exceeded)


def _uniforms(key: Key, num_samples: int, num_uniforms: int) -> Array:
    """Uniforms for proposals, and in the last column one for the test, fine for small ratios."""
    proposal_key, test_key = jax.random.split(key)
    # Drawn column by column: rows of few numbers would keep the processor from vectorising.
    u = uniform.iid(proposal_key, num_samples * num_uniforms).reshape(num_uniforms, num_samples)
    return jnp.concatenate([u, uniform.dense_near_zero(test_key, (1, num_samples))]).T


def _moments(values: Array, log_ratio: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Mean and variance over the mask, and a zero whose gradient is Cov(values, ∇ log ratio)."""
    count = jnp.sum(mask)
    mean = jnp.sum(jnp.where(mask, values, 0)) / count
    deviations = jax.lax.stop_gradient(jnp.where(mask, values - mean, 0))
    variance = jnp.sum(deviations**2) / (count - 1)
    zeros = jnp.where(mask, log_ratio - jax.lax.stop_gradient(log_ratio), 0)
    return mean, variance, jnp.sum(deviations * zeros) / (count - 1)


def _climb(
    key: Key, log_ratio_fn: Callable[[Array], Array], start: Array, width: float
) -> tuple[Array, Array]:
    """Random search in shrinking boxes around the best uniforms so far."""
    smallest = jnp.finfo(start.dtype).epsneg

    def search(best: Array, round_index: Array) -> tuple[Array, None]:
        offsets = 2 * uniform.iid(jax.random.fold_in(key, round_index), 32, start.size) - 1
        around = best[None] + width * 0.5**round_index * offsets
        candidates = jnp.concatenate([best[None], jnp.clip(around, smallest, 1 - smallest)])
        return candidates[jnp.argmax(log_ratio_fn(candidates))], None

    best = jax.lax.scan(search, start, jnp.arange(20))[0]
    return best, log_ratio_fn(best[None])[0]


@jax.custom_jvp
def _refuse_gradient(samples: Array, moving: Any) -> Array:
    return samples


@_refuse_gradient.defjvp
def _raise(primals: tuple, tangents: tuple) -> tuple:
    raise TypeError(
        "rejection.sample has no gradient: which proposals are accepted depends on the parameters; "
        "use rejection.expectation, which adds the correction, or stop_gradient"
    )
