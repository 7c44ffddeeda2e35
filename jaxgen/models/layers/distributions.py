"""Distrax distributions whose log-probabilities are the library's fast, exact terms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from jaxgen.core.likelihood_terms import bernoulli_log_prob, categorical_log_prob
from jaxgen.core.types import Array, Key


class Bernoulli(distrax.Bernoulli):
    """Bits; distrax's, with a fused log-probability (see the benchmark `likelihood_terms`)."""

    def log_prob(self, value: Array) -> Array:
        """Nats, elementwise; see `jaxgen.core.likelihood_terms.bernoulli_log_prob`."""
        return bernoulli_log_prob(self.logits, value)


class Categorical(distrax.Categorical):
    """Symbols; distrax's, without the one-hot code and with NaN for an impossible symbol."""

    def log_prob(self, value: Array) -> Array:
        """Nats, elementwise; see `jaxgen.core.likelihood_terms.categorical_log_prob`."""
        leading = (1,) * (value.ndim + 1 - self.logits.ndim)
        return categorical_log_prob(self.logits.reshape(leading + self.logits.shape), value)

    def mean(self) -> Array:
        """The average symbol, elementwise."""
        return self.probs @ jnp.arange(self.num_categories, dtype=self.probs.dtype)


class DiscretisedLogistic(distrax.Distribution):
    r"""Ordered symbols as a mixture of logistic densities, each integrated over a symbol's cell.

    .. math:: P(v) = \sum_m \pi_m \left[\sigma\!\left(\tfrac{v + 1/2 - \mu_m}{s_m}\right) -
       \sigma\!\left(\tfrac{v - 1/2 - \mu_m}{s_m}\right)\right]

    The cells of the first and the last symbol reach to infinity, so P sums to one (Salimans et al.
    2017). Locations and scales are in symbols. The difference is taken as
    σ(a) σ(−b) (1 − exp(b − a)), which is exact for any scale and in both tails.
    """

    def __init__(
        self, logits: Array, locations: Array, log_scales: Array, num_symbols: int
    ) -> None:
        """Keep the weights, locations and log-scales of M components, `[*batch, M]` each."""
        self._logits, self._locations, self._log_scales = logits, locations, log_scales
        self._num_symbols = num_symbols

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A scalar."""
        return ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the locations without M."""
        return self._locations.shape[:-1]

    def log_prob(self, value: Array) -> Array:
        """Nats of symbols in [0, V), elementwise; NaN for any other."""
        value = value[..., None]
        inverse_scale = jnp.exp(-self._log_scales)
        upper = (value + 0.5 - self._locations) * inverse_scale
        lower = (value - 0.5 - self._locations) * inverse_scale
        is_first, is_last = value == 0, value == self._num_symbols - 1
        terms = (
            jnp.where(is_last, 0.0, jax.nn.log_sigmoid(upper))
            + jnp.where(is_first, 0.0, jax.nn.log_sigmoid(-lower))
            + jnp.where(is_first | is_last, 0.0, jnp.log(-jnp.expm1(-inverse_scale)))
        )
        log_prob = jax.nn.logsumexp(jax.nn.log_softmax(self._logits) + terms, axis=-1)
        is_symbol = (value >= 0) & (value < self._num_symbols)
        return jnp.where(is_symbol[..., 0], log_prob, jnp.nan)

    def mean(self) -> Array:
        """The average symbol, elementwise, by a sum over all."""

        def add(symbol: Array, total: Array) -> Array:
            return total + symbol * jnp.exp(self.log_prob(jnp.full(self.batch_shape, symbol)))

        start = jnp.zeros(self.batch_shape, self._locations.dtype)
        return jax.lax.fori_loop(0, self._num_symbols, add, start)

    def _sample_n(self, key: Key, n: int) -> Array:
        component_key, noise_key = jax.random.split(key)
        shape = (n, *self.batch_shape)
        component = jax.random.categorical(component_key, self._logits, shape=shape)[..., None]
        location, log_scale = (
            jnp.take_along_axis(jnp.broadcast_to(a, (n, *a.shape)), component, axis=-1)[..., 0]
            for a in (self._locations, self._log_scales)
        )
        y = location + jnp.exp(log_scale) * jax.random.logistic(noise_key, shape, location.dtype)
        return jnp.clip(jnp.round(y), 0, self._num_symbols - 1).astype(jnp.int32)


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
        """[V]."""
        return self._logits.shape[-1:]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the logits without V."""
        return self._logits.shape[:-1]

    def log_prob(self, value: Array) -> Array:
        """Nats of points `[..., V]`."""
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
        """The event shape of each group, a tuple."""
        shapes = jax.eval_shape(lambda: self._draw(jax.random.key(0), 1)[0])
        rank = len(self.batch_shape) + 1
        return tuple(leaf.shape[rank:] for leaf in shapes)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the first group's distribution."""
        return self._first.batch_shape

    def group_log_probs(self, value: tuple) -> tuple:
        """Nats of each group given the one before it, a tuple in the order of the event."""
        groups = self._ordered(value)
        terms = [self._first.log_prob(groups[0])]
        for fn, before, group in zip(self._conditional_fns, groups, groups[1:], strict=False):
            terms.append(fn(before).log_prob(group))
        return self._ordered(tuple(terms))

    def log_prob(self, value: tuple) -> Array:
        """Nats of a tuple of groups."""
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
