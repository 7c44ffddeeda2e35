"""Sampling by the chain rule: one inverse CDF for each coordinate, in order or all at once."""

import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core._arrays import varying_with
from jaxgen.core._categorical_quantile import categorical_quantile
from jaxgen.core._checks import check_count, check_in_range, check_key, check_rank, check_shape
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import AutoregressiveModel, check_model
from jaxgen.core._likelihood_terms import categorical_log_prob
from jaxgen.core._types import Array, Key, Params
from jaxgen.samplers._categorical_with_tails import tails_quantile
from jaxgen.samplers._random_bits import tail_uniforms
from jaxgen.samplers._uniform import open_uniforms

TransformFn = Callable[[Array], Array]
"""`transform_fn(logits [B, V]) -> logits [B, V]`, such as `keep_top_p` with its mass."""

PickFn = Callable[[Array, Any], Array]
"""`pick_fn(logits [..., V], u) -> symbols [...]`, from the uniforms that it wants for a symbol."""

_MOST_SYMBOLS = 256
"""Above, `sample` picks symbols with more digits than a float32 uniform has."""


class Draws(NamedTuple):
    """Data, with the log-probabilities that they were drawn with.

    Attributes:
      x: symbols, int32 `[B, D]`, or floats where not all coordinates are symbols of one alphabet;
        observed coordinates keep their values.
      log_probs: log p(x_i | x_<i) of the model in nats, float32 `[B, D]`, of drawn and observed
        coordinates alike; the sum over the last axis is log p(x).
      transformed_log_probs: the same after `transform_fn`: the probability that each symbol was
        drawn with, so exp(Σ log_probs − Σ transformed_log_probs) is its importance weight.
    """

    x: Array
    log_probs: Array
    transformed_log_probs: Array


class ParallelDraws(NamedTuple):
    """Data drawn by fixed-point iteration.

    Attributes:
      draws: `Draws`, those of the sequential sampler at the same uniforms.
      num_passes: evaluations of the model's outputs that it took, int32 scalar, at most D.
    """

    draws: Draws
    num_passes: Array


def quantile(
    model: AutoregressiveModel,
    params: Params,
    u: Array,
    *,
    context: Any = None,
    prompt: Array | None = None,
    observed: Array | None = None,
    is_observed: Array | None = None,
    transform_fn: TransformFn | None = None,
) -> Draws:
    r"""Map uniforms to data through the chain of conditional inverse CDFs.

    .. math:: x_i = F_i^{-1}(u_i \mid x_{<i}), \qquad i = 1, \dots, D

    the inverse of Rosenblatt's transform (1952). A compiled scan over the cached `step` of the
    contract, or one for each size of a cache that grows. Equal uniforms give equal data,
    and antithetic or quasi-random uniforms give draws whose averages vary less.

    Args:
      model: an autoregressive model over D coordinates.
      params: parameters of the model.
      u: uniforms in [0, 1), `[B, D]`; those at known coordinates are not used.
      context: what the model is conditioned on, for each of B or for all.
      prompt: the first T ≤ D values, `[B, T]`, read in one pass by the model's `prefill`.
      observed: known values, `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`. The others are drawn in the order of
        the model, each given the coordinates before it, drawn or observed.
      transform_fn: applied to the logits of every coordinate before the draw; of symbols alone.

    Returns:
      `Draws`. A NaN among the outputs shows as symbol −1 or a NaN, and a NaN log-probability.

    Raises:
      ValueError: a shape does not fit, only one of `observed` and `is_observed` is given, or
        `transform_fn` is, and not all coordinates are symbols of one alphabet.
    """
    u = _check_uniforms(u, model)
    known = _check_observed(model, len(u), observed, is_observed)
    prompt = None if prompt is None else _check_prompt(model, prompt)
    choose = _chooser(model, transform_fn)
    return _mapping(choose)(model, params, u, context, prompt, known, choose)


def _mapping(choose: "_Chooser") -> Callable[..., Draws]:
    """Return `_along_chain`, as a program that equal calls share.

    Not where a function of the caller is part of it: what that looks up may change between calls.
    """
    return _along_chain if choose.transform_fn else _along_chain_compiled


def _along_chain(
    model: AutoregressiveModel,
    params: Params,
    u: Any,
    context: Any,
    prompt: Array | None,
    known: tuple[Array, Array] | None,
    choose: "_Chooser",
) -> Draws:
    """Map uniforms `[B, D, ...]` to data, one coordinate after the other."""
    # Many log-probabilities at once are cheaper than a few in every step, which tells where steps
    # are as short as MADE's; of more symbols, all logits would take too much memory. Models whose
    # cache grows have long steps, and not all of them compile with logits kept.
    scores_at_end = model.num_symbols == 2 and model.block_size is None
    conditional = model.conditional_or_default

    def draw(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], Any]:
        cache, previous = carry
        index, u_i, known_i = inputs
        outputs, cache = model.step(params, cache, index, previous)
        own = conditional.at(index)
        chosen = choose(own, outputs, u_i, known_i)
        return (cache, chosen.x), chosen if scores_at_end else _scored(own, chosen)

    begin, first = _start(model, params, u, context, prompt, choose)
    cache, previous = varying_with(begin, (params, u, context, known, first))
    pieces = [first]
    inputs = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (u, known))
    for start, end in _blocks(model, first.x.shape[1]):
        if model.block_size is not None:
            cache = model.resize(params, cache, end)
        indices = jnp.arange(start, end)
        block = jax.tree.map(operator.itemgetter(slice(start, end)), inputs)
        (cache, previous), drawn = jax.lax.scan(draw, (cache, previous), (indices, *block))
        drawn = _scored(conditional, drawn) if scores_at_end else drawn
        pieces.append(Draws(*(a.T for a in drawn)))
    return Draws(*(jnp.concatenate(parts, axis=1) for parts in zip(*pieces, strict=True)))


_along_chain_compiled = jax.jit(_along_chain, static_argnums=6, inline=True)


def sample(
    key: Key,
    model: AutoregressiveModel,
    params: Params,
    num_samples: int | None = None,
    *,
    context: Any = None,
    prompt: Array | None = None,
    observed: Array | None = None,
    is_observed: Array | None = None,
    transform_fn: TransformFn | None = None,
) -> Draws:
    """Draw data from an autoregressive model, go on from a prompt, or fill in what is missing.

    Args:
      key: a typed key.
      model: an autoregressive model over D coordinates.
      params: parameters of the model.
      num_samples: B; may be left out when `prompt` or `observed` gives it.
      context: what the model is conditioned on, for each of B or for all.
      prompt: the first T values, `[B, T]`.
      observed: known values, `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`.
      transform_fn: applied to the logits of every coordinate before the draw; of symbols alone.

    Returns:
      `Draws` of `quantile` at iid uniforms. Those have 23 bits, too few for symbols less likely
      than 1e-7. Of more than 256 symbols such ones may make up a part that counts: there symbols
      are drawn as `categorical_with_tails` does.

    Raises:
      TypeError: `key` is not a typed key, `model` is none, or `prompt` holds text.
      ValueError: a shape does not fit, or nothing says how many to draw.
    """
    batch_size = _batch_size(key, model, num_samples, prompt, observed)
    known = _check_observed(model, batch_size, observed, is_observed)
    prompt = None if prompt is None else _check_prompt(model, prompt)
    u, pick_fn = _uniforms(key, model, batch_size)
    choose = _chooser(model, transform_fn, pick_fn)
    return _mapping(choose)(model, params, u, context, prompt, known, choose)


def quantile_parallel(
    model: AutoregressiveModel,
    params: Params,
    u: Array,
    *,
    context: Any = None,
    observed: Array | None = None,
    is_observed: Array | None = None,
    transform_fn: TransformFn | None = None,
    tolerance: float = 0.0,
) -> ParallelDraws:
    r"""Map uniforms to the data of `quantile`, by iterating until nothing changes.

    .. math:: x^{(t+1)}_i = F_i^{-1}(u_i \mid x^{(t)}_{<i}) \quad \text{for all } i

    Jacobi iteration on the triangular system (Song et al. 2021; Wiggers & Hoogeboom 2020). After t
    passes the first t coordinates are final, so it is exact, and at most D passes are needed; where
    coordinates depend weakly on each other, far fewer.

    Args:
      model: an autoregressive model over D coordinates; only its `outputs` are used.
      params: parameters of the model.
      u: uniforms in [0, 1), `[B, D]`; those at observed coordinates are not used.
      context: what the model is conditioned on, for each of B or for all.
      observed: known values, `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`.
      transform_fn: applied to the logits of every coordinate before the draw; of symbols alone.
      tolerance: of reals, the change of a value that counts as none, in the data's units; at 0
        iteration goes on until it makes no difference at all.

    Returns:
      `ParallelDraws`. Symbols equal those of `quantile` up to uniforms within rounding of a step
      of a CDF: `outputs` and `step` round differently.
    """
    u = _check_uniforms(u, model)
    known = _check_observed(model, len(u), observed, is_observed)
    choose = _chooser(model, transform_fn)
    return _quantile_parallel(model, params, u, context, known, choose, tolerance)


def _quantile_parallel(
    model: AutoregressiveModel,
    params: Params,
    u: Any,
    context: Any,
    known: tuple[Array, Array] | None,
    choose: "_Chooser",
    tolerance: float,
) -> ParallelDraws:
    """Map uniforms `[B, D, ...]` to data, all coordinates at once until nothing changes."""
    check_in_range("tolerance", tolerance, 0.0, float("inf"))
    conditional = model.conditional_or_default

    def one_pass(before: Array) -> Draws:
        outputs = model.outputs(params, before, context=context)
        return _scored(conditional, choose(conditional, outputs, u, known))

    def has_changed(x: Array, before: Array) -> Array:
        if tolerance == 0:
            return jnp.any(x != before)
        return jnp.any(~(jnp.abs(x - before) <= tolerance))

    def is_changing(carry: tuple[Draws, Array, Array]) -> Array:
        draws, before, num_passes = carry
        is_first = num_passes == 0  # before it nothing is drawn that could have changed
        return is_first | (has_changed(draws.x, before) & (num_passes < model.num_dims))

    def again(carry: tuple[Draws, Array, Array]) -> tuple[Draws, Array, Array]:
        return one_pass(carry[0].x), carry[0].x, carry[2] + 1

    shape = jax.tree.leaves(u)[0].shape[:2]
    start = (conditional.start(shape), jnp.zeros((), jnp.int32))
    guess, no_passes = varying_with(start, (params, u, context, known))
    guess = guess if known is None else jnp.where(known[1], known[0], guess)
    shapes = jax.eval_shape(one_pass, guess)
    nothing = jax.tree.map(jnp.zeros_like, shapes)
    carry = (nothing._replace(x=guess), guess, no_passes)
    draws, _, num_passes = jax.lax.while_loop(is_changing, again, carry)
    return ParallelDraws(draws, num_passes)


def sample_parallel(
    key: Key,
    model: AutoregressiveModel,
    params: Params,
    num_samples: int | None = None,
    *,
    context: Any = None,
    observed: Array | None = None,
    is_observed: Array | None = None,
    transform_fn: TransformFn | None = None,
    tolerance: float = 0.0,
) -> ParallelDraws:
    """Draw what `sample` draws from the same key, by the iteration of `quantile_parallel`.

    Args:
      key: a typed key.
      model: an autoregressive model over D coordinates.
      params: parameters of the model.
      num_samples: B; may be left out when `observed` gives it.
      context: what the model is conditioned on, for each of B or for all.
      observed: known values, `[B, D]`; read only where `is_observed`.
      is_observed: which coordinates are known, bool `[B, D]`.
      transform_fn: applied to the logits of every coordinate before the draw; of symbols alone.
      tolerance: of reals, the change of a value that counts as none, in the data's units.
    """
    batch_size = _batch_size(key, model, num_samples, None, observed)
    known = _check_observed(model, batch_size, observed, is_observed)
    u, pick_fn = _uniforms(key, model, batch_size)
    choose = _chooser(model, transform_fn, pick_fn)
    return _quantile_parallel(model, params, u, context, known, choose, tolerance)


class _Chosen(NamedTuple):
    """Values, and what scores them: logits of symbols, outputs of all else."""

    x: Array
    outputs: Array
    transformed_logits: Array | None


class _Chooser(NamedTuple):
    """How a value follows from outputs and uniforms: symbols by their logits, all else as it is."""

    transform_fn: TransformFn | None
    pick_fn: PickFn

    def __call__(
        self,
        conditional: Conditional,
        outputs: Array,
        u: Any,
        known: tuple[Array, Array] | None,
    ) -> _Chosen:
        scores = self._scores(conditional, outputs)
        if conditional.num_symbols is None:
            x = conditional.quantile(outputs, u)
        else:
            x = self.pick_fn(scores[0] if scores[1] is None else scores[1], u)
        if known is not None:
            observed, is_observed = known
            x = jnp.where(is_observed, observed, x)
        return _Chosen(x, *scores)

    def given(self, conditional: Conditional, outputs: Array, x: Array) -> _Chosen:
        """Return values that are all known, and what scores them."""
        return _Chosen(x, *self._scores(conditional, outputs))

    def _scores(self, conditional: Conditional, outputs: Array) -> tuple[Array, Array | None]:
        if conditional.num_symbols is None:
            return outputs, None
        logits = conditional.logits(outputs)
        return logits, None if self.transform_fn is None else self.transform_fn(logits)


def _chooser(
    model: AutoregressiveModel,
    transform_fn: TransformFn | None,
    pick_fn: PickFn = categorical_quantile,
) -> _Chooser:
    if transform_fn is not None and model.num_symbols is None:
        raise ValueError(
            "transform_fn must be None of a model that has no logits, which is over reals or over "
            f"several kinds of coordinates, got {transform_fn!r}"
        )
    return _Chooser(transform_fn, pick_fn)


def _scored(conditional: Conditional, chosen: _Chosen) -> Draws:
    x, outputs, transformed = chosen
    if conditional.num_symbols is None:
        log_probs = conditional.log_prob(outputs, x)
    else:
        log_probs = categorical_log_prob(outputs, x)
    if transformed is None:
        return Draws(x, log_probs, log_probs)
    return Draws(x, log_probs, categorical_log_prob(transformed, x))


def _blocks(model: AutoregressiveModel, first: int) -> list[tuple[int, int]]:
    """Return ranges of coordinates from `first` on, between which the cache grows."""
    # Each range is a program to compile. Growing by half, a long array takes few more of them than
    # a short one; by twice, steps would read much more room that is still empty.
    size = model.num_dims if model.block_size is None else model.block_size
    end, ends = size, []
    while end < model.num_dims:
        ends.append(end)
        end += size * max(1, end // size // 2)
    edges = [first, *(end for end in [*ends, model.num_dims] if end > first)]
    return list(itertools.pairwise(edges))


def _start(
    model: AutoregressiveModel,
    params: Params,
    u: Any,
    context: Any,
    prompt: Array | None,
    choose: _Chooser,
) -> tuple[tuple[Any, Array], Draws]:
    """Return the cache and last symbol that the scan begins with, and the draws known already."""
    batch_size = len(jax.tree.leaves(u)[0])
    if prompt is None:
        nothing = jnp.zeros((batch_size, 0), jnp.float32)
        cache = model.init_cache(params, batch_size, context=context)
        start = model.conditional_or_default.at(jnp.array(0)).start((batch_size,))
        known = Draws(nothing.astype(start.dtype), nothing, nothing)
        return (cache, start), known
    prompt = _check_prompt(model, prompt)
    check_shape("prompt", prompt, (batch_size, None))
    check_in_range("the prompt's length", prompt.shape[1], 1, model.num_dims)
    conditional = model.conditional_or_default

    def score(outputs: Array, x: Array) -> Draws:
        if choose.transform_fn is None:  # without the logits, which few numbers may stand for
            log_probs = conditional.log_prob(outputs, x)
            return Draws(x, log_probs, log_probs)
        return _scored(conditional, choose.given(conditional, outputs, x))

    known, cache = model.prefill(params, prompt, context=context, score_fn=score)
    return (cache, prompt[:, -1]), known


def _check_prompt(model: AutoregressiveModel, prompt: Array) -> Array:
    if isinstance(prompt, (str, bytes)):
        raise TypeError(
            "prompt must hold symbols, integers [B, T], got text; encode it by the vocabulary that "
            "the model was trained with"
        )
    prompt = model.conditional_or_default.as_values("prompt", prompt)
    if prompt.ndim == 1:
        raise ValueError(f"prompt must have shape (B, T), got {prompt.shape}; pass prompt[None]")
    return prompt


def _batch_size(
    key: Key,
    model: AutoregressiveModel,
    num_samples: int | None,
    prompt: Array | None,
    observed: Array | None,
) -> int:
    check_key(key)
    check_model(model, AutoregressiveModel)
    if num_samples is None:
        known = observed if prompt is None else _check_prompt(model, prompt)
        if known is None:
            raise ValueError("num_samples must be given when nothing is known, got None")
        check_rank("observed" if prompt is None else "prompt", known, 2)
        return len(known)
    check_count("num_samples", num_samples)
    return num_samples


def _uniforms(key: Key, model: AutoregressiveModel, batch_size: int) -> tuple[Any, PickFn]:
    """Return uniforms `[B, D, ...]`, and what picks symbols by them."""
    shape = (batch_size, model.num_dims)
    if model.num_symbols is None:
        return open_uniforms(key, shape), categorical_quantile
    if model.num_symbols <= _MOST_SYMBOLS:
        return jax.random.uniform(key, shape), categorical_quantile
    return tail_uniforms(key, (*shape, 2)), tails_quantile


def _check_uniforms(u: Array, model: AutoregressiveModel) -> Array:
    check_model(model, AutoregressiveModel)
    u = jnp.asarray(u)
    check_shape("u", u, (None, model.num_dims))
    return u


def _check_observed(
    model: AutoregressiveModel,
    batch_size: int,
    observed: Array | None,
    is_observed: Array | None,
) -> tuple[Array, Array] | None:
    if (observed is None) != (is_observed is None):
        missing = "observed" if observed is None else "is_observed"
        raise ValueError(f"observed and is_observed go together, got no {missing}")
    if observed is None or is_observed is None:
        return None
    observed = model.conditional_or_default.as_values("observed", observed)
    is_observed = jnp.asarray(is_observed)
    check_shape("observed", observed, (batch_size, model.num_dims))
    check_shape("is_observed", is_observed, (batch_size, model.num_dims))
    if is_observed.dtype != bool:
        raise TypeError(f"is_observed must hold booleans, got dtype {is_observed.dtype}")
    return observed, is_observed
