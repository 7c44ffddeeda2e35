"""The two contracts that samplers, objectives and coders stand on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_in_range, check_integer_array, check_shape
from jaxgen.core._likelihood_terms import categorical_log_prob
from jaxgen.core._types import Array, Params


class _Model:
    """A hashable value: under `jax.jit` it is part of the program and needs no `static_argnums`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)


class AutoregressiveModel(_Model):
    r"""The autoregressive contract, over integers in [0, V) at D coordinates in a fixed order.

    .. math:: \log p(x) = \sum_{i=1}^D \log \mathrm{softmax}(\ell_i(x_{<i}))_{x_i}

    `jaxgen.models` fills it with Flax modules. For anything else, subclass it as a frozen dataclass
    with `num_dims` and `num_symbols` and write `logits`: likelihood, sampling, filling in and
    coding follow. A model that can do a coordinate for less than a full pass writes `init_cache`
    and `step` too.

    Attributes:
      num_dims: D.
      num_symbols: V.
      block_size: None, or by how many coordinates samplers let the cache grow, for a model with
        `resize`. Room that is not there yet costs no time.
    """

    num_dims: int
    num_symbols: int
    block_size: int | None = None

    def logits(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the logits of every conditional at `x`, by teacher forcing.

        Args:
          params: parameters of the model.
          x: symbols, integers `[..., D]`.
          context: what the model is conditioned on, such as labels `[...]`; None for nothing.

        Returns:
          Unnormalized log-probabilities `[..., D, V]`; row i depends on x_<i alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must define logits")

    def log_prob(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return log p(x) in nats, `[...]`, of symbols `[..., D]`."""
        logits = self.logits(params, x, context=context)
        return jnp.sum(categorical_log_prob(logits, jnp.asarray(x)), axis=-1)

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the cache before the first symbol, which also remembers the context."""
        return jnp.zeros((batch_size, self.num_dims), jnp.int32), context

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} and return the logits of x_index; by default from a full pass.

        Args:
          params: parameters of the model.
          cache: from `init_cache`, `prefill` or the step before.
          index: the coordinate, a scalar. Past the last, a known index raises ValueError and a
            traced one gives NaN.
          previous: x_{index−1}, integers `[B]`; ignored at index 0.

        Returns:
          Logits `[B, V]` and the cache of the next step.
        """
        x, context = cache
        index = self._checked_index(index)
        before = jnp.arange(self.num_dims) == index - 1
        x = jnp.where(before[None], previous[:, None], x)
        logits = self.logits(params, x, context=context)
        row = jax.lax.dynamic_index_in_dim(logits, index, axis=1, keepdims=False)
        return self._inside(index, row), (x, context)

    def prefill(self, params: Params, prompt: Array, *, context: Any = None) -> tuple[Array, Any]:
        """Read the first P symbols `[B, P]`; return their logits `[B, P, V]` and the cache.

        Step P follows, and feeds x_{P−1}. By default step after step.
        """
        self._check_prompt(prompt)

        def body(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], Array]:
            (cache, previous), (index, x_i) = carry, inputs
            logits, cache = self.step(params, cache, index, previous)
            return (cache, x_i), logits

        batch_size, length = prompt.shape
        cache = self.init_cache(params, batch_size, context=context)
        start = (cache, jnp.zeros_like(prompt[:, 0]))
        (cache, _), logits = jax.lax.scan(body, start, (jnp.arange(length), prompt.T))
        return jnp.swapaxes(logits, 0, 1), cache

    def resize(self, params: Params, cache: Any, length: int) -> Any:
        """Return the cache with room for `length` coordinates; asked of a model with `block_size`.

        `step` takes a cache of any length that has room for its index.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cache that grows")

    def _checked_index(self, index: Array) -> Array:
        if not isinstance(index, jax.core.Tracer):
            check_in_range("index", int(index), 0, self.num_dims - 1)
        return jnp.asarray(index)

    def _inside(self, index: Array, logits: Array) -> Array:
        return nan_unless((index >= 0) & (index < self.num_dims), logits)

    def _check_prompt(self, prompt: Array) -> None:
        check_integer_array("prompt", prompt)
        check_shape("prompt", prompt, (None, None))
        check_in_range("the prompt's length", prompt.shape[1], 1, self.num_dims)


class EvidenceTerms(NamedTuple):
    """The terms of bounds on log p(x), at K draws of q(z | x) for each of B points, in nats.

    Attributes:
      log_likelihood: log p(x | z), `[K, B]`.
      log_ratios: log q − log p of each of L groups given those before, `[L, K, B]`.
      kl: KL(q ‖ p) of each group given the draws before, by formula, `[L, K, B]`.
    """

    log_likelihood: Array
    log_ratios: Array
    kl: Array


class LatentVariableModel(_Model):
    r"""The latent-variable contract: three distributions; the latent z may be a tuple of groups.

    .. math:: p(x) = \int p(x \mid z)\, p(z)\, dz, \qquad q(z \mid x) \approx p(z \mid x)

    `jaxgen.models` fills it with Flax modules. For anything else, subclass it as a frozen
    dataclass. Distributions have `log_prob` and `sample_and_log_prob`, as in distrax. A model whose
    three distributions share a pass may also have `evidence_terms(key, params, x, *, num_samples,
    context)`, which returns `EvidenceTerms` from one; objectives then ask for those.
    """

    def prior(self, params: Params, *, context: Any = None) -> Any:
        """Return p(z), without batch shape (or `[B]`, given a context)."""
        raise NotImplementedError(f"{type(self).__name__} must define prior")

    def posterior(self, params: Params, x: Array, *, context: Any = None) -> Any:
        """Return q(z | x) for data `[B, ...]`, with batch shape [B]."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior")

    def likelihood(self, params: Params, z: Any, *, context: Any = None) -> Any:
        """Return p(x | z) for latents `[..., B, Z]`, with batch shape [..., B]."""
        raise NotImplementedError(f"{type(self).__name__} must define likelihood")


_METHODS = {
    AutoregressiveModel: ("num_dims", "num_symbols", "logits", "init_cache", "step"),
    LatentVariableModel: ("prior", "posterior", "likelihood"),
}


def check_model(model: Any, contract: type[_Model]) -> None:
    """Raise TypeError unless `model` has what the contract asks for, and say what to do."""
    missing = [name for name in _METHODS[contract] if not hasattr(model, name)]
    if not missing:
        return
    remedy = f"a model subclasses jaxgen.{contract.__name__}"
    if isinstance(model, Mapping):
        remedy = "parameters stand after the model"
    elif hasattr(model, "apply") and hasattr(model, "init"):
        base = f"jaxgen.models.Linen{contract.__name__}"
        remedy = f"a Flax module becomes a model as a subclass of {base}"
    raise TypeError(
        f"model must have {', '.join(missing)}, got an object of type {type(model).__name__}; "
        f"{remedy}"
    )
