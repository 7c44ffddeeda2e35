"""Distributions of latents that distrax does not have: relaxed symbols, and chains of groups."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from jaxgen.core._types import Array, Key


class RelaxedCategorical(distrax.Distribution):
    r"""The logarithms of Gumbel-softmax points: symbols relaxed into the simplex.

    .. math:: z = \log \mathrm{softmax}((\ell + G) / \tau), \qquad
       \log p(z) = \log\left[(V - 1)!\, \tau^{V-1}\right] + \sum_v a_v - V \log \sum_v e^{a_v},
       \quad a_v = \ell_v - \tau z_v

    (Jang et al. 2017; Maddison et al. 2017, whose ExpConcrete density this is: at a low temperature
    the points themselves underflow, their logarithms do not.) It is a density over the
    z with Σ exp z_v = 1, comparable with others of its kind alone.
    """

    def __init__(self, logits: Array, temperature: float) -> None:
        """Keep logits ℓ, `[*batch, V]`, and the temperature τ > 0."""
        self._logits, self._temperature = logits, temperature

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Return [V]."""
        return self._logits.shape[-1:]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return that of the logits without V."""
        return self._logits.shape[:-1]

    def log_prob(self, value: Array) -> Array:
        """Return nats of points `[..., V]`."""
        num_symbols = self._logits.shape[-1]
        a = self._logits - self._temperature * value
        constant = math.lgamma(num_symbols) + (num_symbols - 1) * math.log(self._temperature)
        return constant + jnp.sum(a, axis=-1) - num_symbols * jax.nn.logsumexp(a, axis=-1)

    def _sample_n(self, key: Key, n: int) -> Array:
        noise = jax.random.gumbel(key, (n, *self._logits.shape), self._logits.dtype)
        return jax.nn.log_softmax((self._logits[None] + noise) / self._temperature, axis=-1)


class Chain(distrax.Distribution):
    r"""A tuple of groups, each drawn given the one before: :math:`\prod_l p(z_l \mid z_{l-1})`.

    Events are tuples in the order given by `reverse`: that of drawing, or its reverse, so that two
    chains in opposite directions share one event.
    """

    def __init__(
        self,
        first: distrax.Distribution,
        conditional_fns: Sequence[Callable[[Array], distrax.Distribution]],
        *,
        reverse: bool = False,
    ) -> None:
        """Keep the first group's distribution, and what gives each next one from the group before.

        Args:
          first: batch shape `[*batch]`.
          conditional_fns: `z [..., *batch, Z] -> distribution`, batch shape `[..., *batch]`.
          reverse: whether events hold the group that is drawn last first.
        """
        self._first, self._conditional_fns, self._reverse = first, tuple(conditional_fns), reverse

    @property
    def event_shape(self) -> Any:
        """Return the event shape of each group, a tuple."""
        shapes = jax.eval_shape(lambda: self._draw(jax.random.key(0), 1)[0])
        rank = len(self.batch_shape) + 1
        return tuple(leaf.shape[rank:] for leaf in shapes)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return that of the first group's distribution."""
        return self._first.batch_shape

    @property
    def draw_order(self) -> tuple[int, ...]:
        """Return which groups of the event are drawn first, second, and so on."""
        return self._ordered(tuple(range(len(self._conditional_fns) + 1)))

    def conditional(self, group: int, value: tuple) -> distrax.Distribution:
        """Return the distribution of a group, given an event's group that is drawn before it."""
        rank = self.draw_order.index(group)
        if rank == 0:
            return self._first
        return self._conditional_fns[rank - 1](value[self.draw_order[rank - 1]])

    def group_log_probs(self, value: tuple) -> tuple:
        """Return nats of each group given the one before, a tuple in the order of the event."""
        groups = self._ordered(value)
        terms = [self._first.log_prob(groups[0])]
        for fn, before, group in zip(self._conditional_fns, groups, groups[1:], strict=False):
            terms.append(fn(before).log_prob(group))
        return self._ordered(tuple(terms))

    def log_prob(self, value: tuple) -> Array:
        """Return nats of a tuple of groups."""
        return sum(self.group_log_probs(value), jnp.zeros(()))

    def _sample_n(self, key: Key, n: int) -> tuple:
        return self._draw(key, n)[0]

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[tuple, Array]:
        return self._draw(key, n)

    def _draw(self, key: Key, n: int) -> tuple[tuple, Array]:
        keys = jax.random.split(key, len(self._conditional_fns) + 1)
        group, log_prob = self._first.sample_and_log_prob(seed=keys[0], sample_shape=(n,))
        groups = [group]
        for key, fn in zip(keys[1:], self._conditional_fns, strict=True):
            group, term = fn(group).sample_and_log_prob(seed=key)
            groups.append(group)
            log_prob = log_prob + term
        return self._ordered(tuple(groups)), log_prob

    def _ordered(self, groups: tuple) -> tuple:
        return groups[::-1] if self._reverse else groups
