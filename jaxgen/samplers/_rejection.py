"""Rejection sampling: exact draws from an unnormalized density under a scaled proposal.

With log f the target, log g the proposal and log f(x) − log g(x) ≤ log M everywhere, a proposal x
is kept when log u ≤ log f(x) − log g(x) − log M; what is kept follows f (von Neumann 1951).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._arrays import varying_with
from jaxgen.core._checks import check_count, check_in_range, check_key, check_shape
from jaxgen.core._types import Array, Estimate, Key, LogProbFn, Params
from jaxgen.samplers._refill import groups_of
from jaxgen.samplers._uniform import dense_near_zero, iid_uniforms, uniform_rows

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
      accepted: whether each is a draw of the target, bool `[*shape]`; all true unless proposals ran
        out.
      acceptance_rate: accepted over proposed, a scalar; NaN where nothing was asked for.
      bound_exceeded: whether some point had log f − log g above the bound, or NaN: the samples are
        then biased. A scalar bool.
    """

    samples: Array
    accepted: Array
    acceptance_rate: Array
    bound_exceeded: Array


class RejectionEstimate(NamedTuple):
    """A Monte Carlo average over accepted draws.

    Attributes:
      estimate: the average and its standard error, of the structure of the values, and how many
        draws were accepted, a scalar; the gradient of its value is an unbiased estimate too.
      acceptance_rate: accepted over proposed, a scalar.
      bound_exceeded: whether some point had log f − log g above the bound, or NaN: the estimate is
        then biased. A scalar bool.
    """

    estimate: Estimate
    acceptance_rate: Array
    bound_exceeded: Array


class LogBound(NamedTuple):
    """The bound found, and how sure it is.

    Attributes:
      log_bound: largest log f − log g found, plus the margin (nats), a scalar.
      largest_log_ratio: largest log f − log g found (nats), a scalar; NaN if any was.
      uniforms: where it was found, `[num_uniforms]`.
      at_edge: whether that is at the edge of the unit cube, where the ratio may still be rising
        toward the end of the support: the supremum may be infinite. A scalar bool.
      exceeding_mass: with 95 % confidence, at most this much of the proposal's mass lies where
        the bound is exceeded (Wilks 1941), a scalar.
    """

    log_bound: Array
    largest_log_ratio: Array
    uniforms: Array
    at_edge: Array
    exceeding_mass: Array


def rejection_from_uniforms(
    log_prob_fn: LogProbFn, params: Params, proposal: Proposal, log_bound: Array | float, u: Array
) -> RejectionSamples:
    """Turn uniforms into one proposal each and test it: the deterministic core of `rejection`.

    Args:
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: the map from uniforms to points, with its density.
      log_bound: log M (nats), a scalar.
      u: uniforms in (0, 1), `[N, num_uniforms + 1]`; the last column is for the test.

    Returns:
      `RejectionSamples`, whose samples are all N proposals, those that were not accepted included.

    Raises:
      TypeError: `proposal` is not a `Proposal`.
      ValueError: `u` has another shape.

    >>> import jax
    >>> box = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)
    >>> u = jnp.array([[0.3, 0.2], [0.3, 0.4]])
    >>> rejection_from_uniforms(lambda _, x: jnp.log(x), None, box, 0.0, u).accepted.tolist()
    [True, False]
    """
    _check_map("rejection_from_uniforms", proposal)
    check_shape("u", u, (None, proposal.num_uniforms + 1))
    x = _transform(proposal, u[:, :-1])
    accepted, exceeded = _test(log_prob_fn, params, proposal, log_bound, x, u[:, -1])
    return RejectionSamples(x, accepted, jnp.mean(accepted, dtype=u.dtype), jnp.any(exceeded))


def rejection(
    key: Key,
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal | Any,
    log_bound: Array | float,
    shape: tuple[int, ...] = (),
    *,
    max_proposals_per_sample: int = 1000,
) -> RejectionSamples:
    r"""Draw exactly from an unnormalized density by rejection, many proposals at a time.

    .. math:: x \sim g, \quad \log u \le \log f(x) - \log g(x) - \log M \;\Rightarrow\; x \sim f

    Proposals are made in chunks and the accepted gathered at the front of what is still to fill,
    so the cost is that of about 1 / acceptance_rate vectorized proposals a sample.

    Args:
      key: a typed key.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: a `Proposal`, or one distribution (an empty batch shape) with
        `sample(seed=key, sample_shape=shape)` and `log_prob(x)`, such as distrax's.
      log_bound: log M (nats), at least the supremum of log f − log g; `rejection_log_bound`
        finds it.
      shape: shape of independent draws; it may hold none.
      max_proposals_per_sample: gives up after this many times the number of samples, and in any
        case after 2³² − 1 chunks of 64 to 16,384 proposals.

    Returns:
      `RejectionSamples`. Differentiating it raises: `rejection_expectation` has a gradient.

    Raises:
      TypeError: `key` is not a typed key; `proposal` is neither of the two.
      ValueError: `key` is an array of keys; a count is not positive; `proposal` is a batch of
        distributions; the proposals ran out (outside a trace; inside, `accepted` says so).

    >>> import jax
    >>> box = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)
    >>> drawn = rejection(jax.random.key(0), lambda _, x: jnp.log(x), None, box, 0.0, (1000,))
    >>> bool(drawn.accepted.all() & ~drawn.bound_exceeded)
    True
    """
    check_key(key)
    _check_proposal(proposal)
    moving = (params, proposal, log_bound)
    params, still, log_bound = _hold(moving)

    def propose(key: Key, num_proposals: int) -> tuple[Array, Array, Array]:
        x, u = _draw(key, still, num_proposals)
        return x, *_test(log_prob_fn, params, still, log_bound, x, u)

    drawn = _fill(key, propose, math.prod(shape), max_proposals_per_sample)
    _check_filled(drawn, max_proposals_per_sample)
    all_moving = _arrays(moving) + _closed_over(log_prob_fn, params, drawn.samples)
    samples = drawn.samples.reshape(shape + drawn.samples.shape[1:])
    return drawn._replace(
        samples=_refuse_gradient(samples, all_moving), accepted=drawn.accepted.reshape(shape)
    )


def rejection_expectation(
    key: Key,
    value_fn: Callable[[Params, Array], Any],
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal,
    log_bound: Array | float,
    *,
    num_samples: int,
    max_proposals_per_sample: int = 1000,
) -> RejectionEstimate:
    r"""Estimate an expectation so that its gradient in the parameters is unbiased too.

    With x = h(u; θ) the proposal's map, accepted u have the density π(u; θ) ∝ f(h) / g(h), and

    .. math:: \nabla E_f[v] = E_\pi[\nabla v(h(u; θ))]
       + \mathrm{Cov}_\pi(v, \nabla \log \tfrac{f}{g}(h(u; θ)))

    (Naesseth, Ruiz, Linderman and Blei 2017). The first term alone is biased; the second is small
    when the proposal follows the target as θ moves. The covariance needs no normalizer of f.

    Args:
      key: a typed key.
      value_fn: `(params, x) -> a scalar, an array or a pytree of arrays`, what to average.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: a `Proposal`, whose map h the gradient goes through; its parameters may depend on
        `params`.
      log_bound: log M (nats), at least the supremum of log f − log g.
      num_samples: draws to average over, at least 2.
      max_proposals_per_sample: gives up after this many times the number of samples.

    Returns:
      `RejectionEstimate`.

    Raises:
      TypeError: `key` is not a typed key; `proposal` is a distribution, which does not say how its
        points come from uniforms.
      ValueError: `key` is an array of keys; a count is out of range.
    """
    check_key(key)
    _check_map("rejection_expectation", proposal)
    check_count("num_samples", num_samples, minimum=2)
    fixed, still, bound = _hold((params, proposal, log_bound))

    def propose(key: Key, num_proposals: int) -> tuple[Array, Array, Array]:
        u = _uniforms(key, num_proposals, still.num_uniforms)
        x = _transform(still, u[:, :-1])
        return u[:, :-1], *_test(log_prob_fn, fixed, still, bound, x, u[:, -1])

    drawn = _fill(key, propose, num_samples, max_proposals_per_sample)
    x = _transform(proposal, jnp.where(drawn.accepted[:, None], drawn.samples, 0.5))
    values = jax.vmap(value_fn, (None, 0))(params, x)
    log_ratio = _log_ratio(*_log_densities(log_prob_fn, params, proposal, x))
    leaves, structure = jax.tree.flatten(values)
    averages = [_average(leaf, log_ratio, drawn.accepted) for leaf in leaves]
    mean, error = (jax.tree.unflatten(structure, part) for part in zip(*averages, strict=True))
    estimate = Estimate(mean, error, jnp.sum(drawn.accepted))
    return RejectionEstimate(estimate, drawn.acceptance_rate, drawn.bound_exceeded)


def rejection_log_bound(
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
    grows toward the end of the support.

    Args:
      key: a typed key.
      log_prob_fn: `(params, x) -> scalar`, the target's log-density up to a constant.
      params: parameters of the target.
      proposal: a `Proposal`, among whose uniforms the search goes.
      num_samples: independent proposals to look at, at least 8.
      margin: nats added to the largest ratio found; costs as much acceptance.

    Returns:
      `LogBound`.

    Raises:
      TypeError: `key` is not a typed key; `proposal` is a distribution, which does not say how its
        points come from uniforms.
      ValueError: `key` is an array of keys; an argument is out of range.
    """
    check_key(key)
    _check_map("rejection_log_bound", proposal)
    check_count("num_samples", num_samples, minimum=8)
    check_in_range("margin", margin, 0, math.inf)
    first_key, search_key = jax.random.split(key)

    def log_ratio_fn(u: Array) -> Array:
        x = _transform(proposal, u)
        return _log_ratio(*_log_densities(log_prob_fn, params, proposal, x))

    u = iid_uniforms(first_key, num_samples, proposal.num_uniforms)
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


def _check_proposal(proposal: Any) -> None:
    methods = (getattr(proposal, name, None) for name in ("sample", "log_prob"))
    if not isinstance(proposal, Proposal) and not all(callable(method) for method in methods):
        raise TypeError(
            "proposal must be a Proposal, or a distribution with methods sample and log_prob, got "
            f"{type(proposal).__name__}"
        )


def _check_map(caller: str, proposal: Any) -> None:
    if not isinstance(proposal, Proposal):
        raise TypeError(
            f"proposal of {caller} must be a Proposal, got {type(proposal).__name__}: a "
            "distribution does not say how its points come from uniforms; write it as "
            "Proposal(params, transform_fn, log_prob_fn, num_uniforms)"
        )


def _arrays(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


def _closed_over(log_prob_fn: LogProbFn, params: Params, samples: Array) -> list[Array]:
    """Return the traced values that a target reads besides its parameters."""
    x = jax.ShapeDtypeStruct(samples.shape[1:], samples.dtype)
    consts = jax.make_jaxpr(log_prob_fn)(params, x).consts
    return [value for value in consts if isinstance(value, jax.core.Tracer)]


def _hold(tree: Any) -> Any:
    """Stop gradients through the arrays of a pytree; functions and settings are left alone."""

    def hold(leaf: Any) -> Any:
        return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(hold, tree)


def _draw(key: Key, proposal: Proposal | Any, num_proposals: int) -> tuple[Array, Array]:
    """Draw proposals `[N, ...]`, and a uniform for the test of each, `[N]`."""
    if isinstance(proposal, Proposal):
        u = _uniforms(key, num_proposals, proposal.num_uniforms)
        return _transform(proposal, u[:, :-1]), u[:, -1]
    proposal_key, test_key = jax.random.split(key)
    x = proposal.sample(seed=proposal_key, sample_shape=(num_proposals,))
    return x, dense_near_zero(test_key, (num_proposals,))


def _transform(proposal: Proposal, u: Array) -> Array:
    return jax.vmap(proposal.transform_fn, (None, 0))(proposal.params, u)


def _test(
    log_prob_fn: LogProbFn,
    params: Params,
    proposal: Proposal | Any,
    log_bound: Array | float,
    x: Array,
    u: Array,
) -> tuple[Array, Array]:
    """Tell of each x whether it is accepted, and whether it exceeds the bound beyond rounding."""
    log_target, log_proposal = _log_densities(log_prob_fn, params, proposal, x)
    excess = _log_ratio(log_target, log_proposal) - log_bound
    size = 1 + jnp.abs(log_target) + jnp.abs(log_proposal) + jnp.abs(log_bound)
    rounding = jnp.where(jnp.isfinite(size), 8 * jnp.finfo(size.dtype).eps * size, 0)
    return jnp.log(u) <= excess, ~(excess <= rounding)


def _log_densities(
    log_prob_fn: LogProbFn, params: Params, proposal: Proposal | Any, x: Array
) -> tuple[Array, Array]:
    log_target = jnp.asarray(jax.vmap(log_prob_fn, (None, 0))(params, x), jnp.result_type(float))
    if isinstance(proposal, Proposal):
        return log_target, jax.vmap(proposal.log_prob_fn, (None, 0))(proposal.params, x)
    log_proposal = proposal.log_prob(x)
    if jnp.shape(log_proposal) != x.shape[:1]:
        raise ValueError(
            "proposal must be one distribution, with an empty batch shape, got batch shape "
            f"{jnp.shape(log_proposal)[1:]}; map over several with jax.vmap, or make their "
            "coordinates one point with an independent distribution"
        )
    return log_target, log_proposal


def _log_ratio(log_target: Array, log_proposal: Array) -> Array:
    # A point outside the target is rejected even where rounding put it outside the proposal too.
    outside = jnp.isneginf(log_target)
    return jnp.where(outside, -jnp.inf, jnp.where(outside, 0, log_target) - log_proposal)


def _fill(
    key: Key,
    propose: Callable[[Key, int], tuple[Array, Array, Array]],
    num_samples: int,
    max_proposals_per_sample: int,
) -> RejectionSamples:
    """Propose chunk after chunk, writing the accepted behind one another, until all is filled.

    Samples and chunks are divided into as many groups, and each group of samples is filled from
    its own part of a chunk.
    """
    check_count("max_proposals_per_sample", max_proposals_per_sample)
    chunk = min(max(num_samples, 64), _CHUNK_SIZE)
    groups = groups_of(num_samples)
    size = num_samples // groups
    max_rounds = min(-(-num_samples * max_proposals_per_sample // chunk), 2**32 - 1)
    proposed = jax.eval_shape(lambda key: propose(key, 1), key)
    empty = proposed[0]
    blank = jnp.nan if jnp.issubdtype(empty.dtype, jnp.inexact) else 0
    samples = jnp.full((groups, size, *empty.shape[1:]), blank, empty.dtype)

    def unfinished(state: tuple) -> Array:
        _, count, _, round_index = state
        return jnp.any(count < size) & (round_index < np.uint32(max_rounds))

    def propose_chunk(state: tuple) -> tuple:
        samples, count, exceeded, round_index = state
        x, accepted, too_high = propose(jax.random.fold_in(key, round_index), chunk)
        x, accepted = (a.reshape(groups, -1, *a.shape[1:]) for a in (x, accepted))
        ranks = count[:, None] + jnp.cumsum(accepted, axis=1, dtype=jnp.int32)
        slots = jnp.where(accepted, ranks - 1, size)
        samples = jax.vmap(lambda s, i, x: s.at[i].set(x, mode="drop"))(samples, slots, x)
        return samples, ranks[:, -1], exceeded | jnp.any(too_high), round_index + 1

    start = varying_with((samples, jnp.zeros(groups, jnp.int32), jnp.bool_(False)), proposed)
    start = (*start, jnp.uint32(0))
    samples, count, exceeded, num_rounds = jax.lax.while_loop(unfinished, propose_chunk, start)
    dtype = jnp.result_type(float)
    rate = jnp.sum(count, dtype=dtype) / (num_rounds * jnp.asarray(chunk, dtype))
    samples = samples.reshape(num_samples, *empty.shape[1:])
    is_filled = jnp.arange(size)[None] < count[:, None]
    return RejectionSamples(samples, is_filled.ravel(), rate, exceeded)


def _check_filled(drawn: RejectionSamples, max_proposals_per_sample: int) -> None:
    if isinstance(drawn.accepted, jax.core.Tracer) or drawn.accepted.all():
        return
    rate, num_samples = float(drawn.acceptance_rate), drawn.accepted.size
    wanted = f"about {2 / rate:.3g}, for the acceptance rate is {rate:.2g}" if rate else "more"
    raise ValueError(
        f"max_proposals_per_sample must be larger, got {max_proposals_per_sample}: only "
        f"{int(drawn.accepted.sum())} of {num_samples} samples were accepted; try {wanted}, or a "
        "proposal closer to the target"
    )


def _uniforms(key: Key, num_samples: int, num_uniforms: int) -> Array:
    """Draw uniforms for proposals, and in the last column one for the test, fine near zero."""
    proposal_key, test_key = jax.random.split(key)
    u = uniform_rows(proposal_key, num_uniforms, num_samples)
    return jnp.concatenate([u, dense_near_zero(test_key, (1, num_samples))]).T


def _average(values: Array, log_ratio: Array, mask: Array) -> tuple[Array, Array]:
    """Return the mean of `[N, ...]` over the mask, whose gradient has the covariance, and error."""
    count, shape = jnp.sum(mask), (-1, *(1,) * (values.ndim - 1))
    has = mask.reshape(shape)
    mean = jnp.sum(jnp.where(has, values, 0), axis=0) / count
    deviations = jax.lax.stop_gradient(jnp.where(has, values - mean[None], 0))
    variance = jnp.sum(deviations**2, axis=0) / (count - 1)
    zeros = jnp.where(mask, log_ratio - jax.lax.stop_gradient(log_ratio), 0)
    covariance = jnp.sum(deviations * zeros.reshape(shape), axis=0) / (count - 1)
    return mean + covariance, jnp.sqrt(variance / count)


def _climb(
    key: Key, log_ratio_fn: Callable[[Array], Array], start: Array, width: float
) -> tuple[Array, Array]:
    """Search at random, in shrinking boxes around the best uniforms so far."""
    smallest = jnp.finfo(start.dtype).epsneg

    def search(best: Array, round_index: Array) -> tuple[Array, None]:
        offsets = 2 * iid_uniforms(jax.random.fold_in(key, round_index), 32, start.size) - 1
        around = best[None] + width * 0.5**round_index * offsets
        candidates = jnp.concatenate([best[None], jnp.clip(around, smallest, 1 - smallest)])
        return candidates[jnp.argmax(log_ratio_fn(candidates))], None

    best = jax.lax.scan(search, start, jnp.arange(20))[0]
    return best, log_ratio_fn(best[None])[0]


@jax.custom_jvp
def _refuse_gradient(samples: Array, moving: list[Array]) -> Array:
    return samples


@_refuse_gradient.defjvp
def _raise(primals: tuple, tangents: tuple) -> tuple:
    raise TypeError(
        "rejection has no gradient: which proposals are accepted depends on the parameters; use "
        "rejection_expectation, which adds the correction, or stop_gradient"
    )
