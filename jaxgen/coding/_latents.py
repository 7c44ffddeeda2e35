"""The distributions of a latent-variable model as a coder takes them: groups of integers.

Every program here is compiled once and used in both directions: what one makes of the same integers
is the same to the last bit when a file is read.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.coding import _buckets as buckets
from jaxgen.coding import _shares as shares
from jaxgen.coding._ans import FindFn, Interval
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._types import Array, Params

_NUM_REFERENCE_DRAWS = 1024

Groups = tuple[np.ndarray, ...]
"""The latents of one data point: int32 `[Z]` for each group."""
Reference = tuple[tuple[Array, Array] | None, ...]
"""For each group the means and scales `[Z]` that its buckets are made by; None for symbols."""


class Symbols(NamedTuple):
    """Independent symbols, by the ends of their intervals, uint32 `[N, V]`."""

    ends: Array


class Point(NamedTuple):
    """What is certain: int32 `[N]`."""

    symbols: Array


Uncertain = Symbols | buckets.Normals
Factor = Uncertain | Point
"""The distribution of a group given others, or of a data point."""


class Plan(NamedTuple):
    """How a model's latents are laid out, and drawn.

    Attributes:
      sizes: latents in each group.
      prior_order: the groups in the order that p(z) draws them in.
      posterior_order: that of q(z | x).
      reference: what the buckets are made by.
      has_chain: whether p(z) is an autoregressive model's.
    """

    sizes: tuple[int, ...]
    prior_order: tuple[int, ...]
    posterior_order: tuple[int, ...]
    reference: Reference
    has_chain: bool


def plan(model: LatentVariableModel, params: Params, x: np.ndarray, context: Any) -> Plan:
    """Return the plan of a model, from the first row `[1, D]` of its data and of its context.

    Groups are those of z; a prior that mixes normals adds its component as the last one.
    """
    prior = model.prior(params, context=context)
    shapes = _as_tuple(jax.eval_shape(_draws, model, params, context))
    sizes = tuple(group.shape[-1] for group in shapes)
    reference: Reference = tuple(None for _ in sizes)
    if hasattr(prior, "scale_diag"):
        reference = ((_row(prior.loc), _row(prior.scale_diag)),)
    elif any(jnp.issubdtype(group.dtype, jnp.floating) for group in shapes):
        reference = tuple(_moments(group) for group in _as_tuple(_draws(model, params, context)))
    prior_order, posterior_order = _order(prior), _posterior_order(model, params, x, context)
    if hasattr(prior, "components_distribution"):
        sizes, reference = (*sizes, 1), (*reference, None)
        prior_order, posterior_order = (1, 0), (0, 1)
    return Plan(sizes, prior_order, posterior_order, reference, hasattr(prior, "chain"))


@jax.jit
def _draws(model: LatentVariableModel, params: Params, context: Any) -> Any:
    """Draw from p(z), always the same, for the means and scales of its groups."""
    prior = model.prior(params, context=context)
    return prior.sample(seed=jax.random.key(0), sample_shape=(_NUM_REFERENCE_DRAWS,))


def empty_groups(of: Plan) -> Groups:
    """Return zeros for groups that are not known yet."""
    return tuple(np.zeros(size, np.int32) for size in of.sizes)


@partial(jax.jit, static_argnames="group")
def posterior(
    model: LatentVariableModel,
    params: Params,
    reference: Reference,
    x: Array,
    groups: Groups,
    context: Any,
    *,
    group: int,
) -> tuple[Factor, Array]:
    """Return q of a group, given `x` `[1, D]` and groups drawn before; and whether it is valid."""
    prior = model.prior(params, context=context)
    z = _values(reference, groups)
    if hasattr(prior, "components_distribution") and group == 1:
        components = prior.components_distribution.log_prob(z[0][:, None, :])
        return _symbols(prior.mixture_distribution.logits + components)
    q = model.posterior(params, x, context=context)
    q = q.conditional(group, z) if hasattr(q, "conditional") else q
    return _factor(q, reference[group], least=0)


@partial(jax.jit, static_argnames="group")
def prior(
    model: LatentVariableModel,
    params: Params,
    reference: Reference,
    groups: Groups,
    context: Any,
    *,
    group: int,
) -> tuple[Factor, Array]:
    """Return p of a group, given those drawn before, and whether it is valid."""
    p = model.prior(params, context=context)
    if hasattr(p, "components_distribution"):
        if group == 1:
            return _symbols(_row(p.mixture_distribution.logits, rank=1))
        component = groups[1][0]
        p = p.components_distribution
        return _normals(p.loc[..., component, :], p.scale_diag[..., component, :], reference[0], 1)
    p = p.conditional(group, _values(reference, groups)) if hasattr(p, "conditional") else p
    return _factor(p, reference[group], least=1)


@jax.jit
def likelihood(
    model: LatentVariableModel, params: Params, reference: Reference, groups: Groups, context: Any
) -> tuple[Factor, Array]:
    """Return p(x | z), and whether it is valid."""
    z = _values(reference, groups)
    p = model.prior(params, context=context)
    event = z if hasattr(p, "draw_order") else z[0]
    return _factor(model.likelihood(params, event, context=context), None, least=1)


def interval(factor: Uncertain, symbols: Array) -> Interval:
    """Return the intervals of what a group holds, `[N]`."""
    if isinstance(factor, Symbols):
        return shares.interval(factor.ends, symbols)
    return buckets.interval(factor, symbols)


def find(factor: Uncertain) -> FindFn:
    """Return what finds a group's symbols."""
    return shares.find(factor.ends) if isinstance(factor, Symbols) else buckets.find(factor)


def _factor(distribution: Any, reference: Any, least: int) -> tuple[Factor, Array]:
    """Return the factor of a distribution with batch shape [] or [1]."""
    is_wrapped = hasattr(distribution, "reinterpreted_batch_ndims")  # by distrax.Independent
    inner = distribution.distribution if is_wrapped else distribution
    if hasattr(inner, "scale_diag"):
        return _normals(inner.loc, inner.scale_diag, reference, least)
    if hasattr(inner, "logits"):
        logits = inner.logits
        if logits.ndim == len(inner.batch_shape) + len(inner.event_shape):  # log-odds of bits
            logits = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
        return _symbols(_row(logits, rank=2))
    if jnp.issubdtype(getattr(inner, "loc", jnp.zeros(())).dtype, jnp.integer):
        return Point(_row(inner.loc)), jnp.all(inner.loc >= 0)
    raise TypeError(
        "model must have distributions of independent symbols, or of normals and chains or "
        f"mixtures of normals over its latents, to be coded; got {type(distribution).__name__}"
    )


def _symbols(logits: Array) -> tuple[Symbols, Array]:
    logits = logits if logits.ndim == 2 else logits[None]
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    return Symbols(shares.ends_of(probabilities)), jnp.all(jnp.isfinite(probabilities))


def _normals(
    mean: Array, scale: Array, reference: Any, least: int
) -> tuple[buckets.Normals, Array]:
    mean, scale = _row(mean), _row(scale)
    is_valid = jnp.all(jnp.isfinite(mean) & (scale > 0))
    return buckets.normals(mean, scale, reference, least), is_valid


def _values(reference: Reference, groups: Groups) -> tuple[Array, ...]:
    """Return what the groups hold, `[1, Z]` each."""
    return tuple(
        jnp.asarray(group)[None] if of is None else buckets.centers(of, jnp.asarray(group))[None]
        for of, group in zip(reference, groups, strict=True)
    )


def _moments(draws: Array) -> tuple[Array, Array] | None:
    """Return means and deviations of reals `[..., Z]`; None of symbols."""
    if jnp.issubdtype(draws.dtype, jnp.integer):
        return None
    flat = draws.reshape(-1, draws.shape[-1])
    return jnp.mean(flat, axis=0), jnp.std(flat, axis=0)


def _order(distribution: Any) -> tuple[int, ...]:
    return getattr(distribution, "draw_order", (0,))


def _posterior_order(
    model: LatentVariableModel, params: Params, x: np.ndarray, context: Any
) -> tuple[int, ...]:
    """Return the order of q(z | x), for which nothing need be computed."""
    orders = []

    def look(params: Params, x: Array, context: Any) -> None:
        orders.append(_order(model.posterior(params, x, context=context)))

    jax.eval_shape(look, params, x, context)
    return orders[-1]


def _as_tuple(z: Any) -> tuple[Array, ...]:
    return z if isinstance(z, tuple) else (z,)


def _row(a: Array, rank: int = 1) -> Array:
    """Return an array without leading axes of size one."""
    return a.reshape(a.shape[a.ndim - rank :])
