"""The two contracts that samplers, objectives and coders stand on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless, varying_with
from jaxgen.core._checks import check_in_range, check_shape
from jaxgen.core._conditional import Conditional, Logits
from jaxgen.core._types import Array, Params

ScoreFn = Callable[[Array, Array], Any]
"""`score_fn(outputs [B, K, P], x [B, K])`: a pytree of `[B, K]`, of each coordinate by itself."""


class _Model:
    """A hashable value: under `jax.jit` it is part of the program and needs no `static_argnums`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)


class AutoregressiveModel(_Model):
    r"""The autoregressive contract, over D coordinates in a fixed order.

    .. math:: \log p(x) = \sum_{i=1}^D \log p(x_i \mid o_i(x_{<i}))

    A model gives P outputs o_i for a coordinate; what they mean is its conditional's to say. By
    default coordinates are symbols in [0, V), and outputs their logits.

    `jaxgen.models` fills it with Flax modules. For anything else, subclass it as a frozen dataclass
    with `num_dims` and `num_symbols` and write `logits`: likelihood, sampling, filling in and
    coding follow. For another conditional, make that `conditional` and write `outputs`. A model
    that can do a coordinate for less than a full pass writes `init_cache` and `step` too.

    Attributes:
      num_dims: D.
      num_symbols: V; None where not all coordinates are symbols of one alphabet.
      conditional: what the outputs of a coordinate mean; None takes them for logits.
      block_size: None, or for how many coordinates samplers give the cache room at first, for a
        model with `resize`; a full one grows by half, or by as many. Room that is not there yet
        costs no time.
    """

    num_dims: int
    num_symbols: int | None
    conditional: Conditional | None = None
    block_size: int | None = None

    @property
    def conditional_or_default(self) -> Conditional:
        """Return the conditional in use."""
        if self.conditional is not None:
            return self.conditional
        if self.num_symbols is None:
            raise ValueError("conditional must be given where num_symbols is None, got None")
        return Logits(self.num_symbols)

    def outputs(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the outputs of every conditional at `x`, by teacher forcing; by default logits.

        Args:
          params: parameters of the model.
          x: data `[..., D]`.
          context: what the model is conditioned on, such as labels `[...]`; None for nothing.

        Returns:
          Outputs `[..., D, P]`; row i depends on x_<i alone.
        """
        return self.logits(params, x, context=context)

    def logits(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the logits of every conditional at `x`, by teacher forcing.

        Args:
          params: parameters of the model.
          x: symbols, integers `[..., D]`.
          context: what the model is conditioned on, such as labels `[...]`; None for nothing.

        Returns:
          Unnormalized log-probabilities `[..., D, V]`; row i depends on x_<i alone.
        """
        if type(self).outputs is AutoregressiveModel.outputs:
            raise NotImplementedError(f"{type(self).__name__} must define logits, or outputs")
        return self.conditional_or_default.logits(self.outputs(params, x, context=context))

    def log_prob(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return log p(x) in nats, `[...]`, of data `[..., D]`."""
        outputs = self.outputs(params, x, context=context)
        log_prob = self.conditional_or_default.log_prob(outputs, jnp.asarray(x))
        return jnp.sum(log_prob, axis=-1)

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the cache before the first coordinate, which also remembers the context."""
        return self.conditional_or_default.start((batch_size, self.num_dims)), context

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} and return the outputs of x_index; by default from a full pass.

        Args:
          params: parameters of the model.
          cache: from `init_cache`, `prefill` or the step before.
          index: the coordinate, a scalar. Past the last, a known index raises ValueError and a
            traced one gives NaN.
          previous: x_{index−1}, `[B]`; ignored at index 0.

        Returns:
          Outputs `[B, P]` and the cache of the next step.
        """
        x, context = cache
        index = self._checked_index(index)
        before = jnp.arange(self.num_dims) == index - 1
        x = jnp.where(before[None], previous[:, None], x)
        outputs = self.outputs(params, x, context=context)
        row = jax.lax.dynamic_index_in_dim(outputs, index, axis=1, keepdims=False)
        return self._inside(index, row), (x, context)

    def prefill(
        self,
        params: Params,
        prompt: Array,
        *,
        context: Any = None,
        score_fn: ScoreFn | None = None,
    ) -> tuple[Any, Any]:
        """Read the first T coordinates; return their outputs and the cache. By default by steps.

        Args:
          params: parameters of the model.
          prompt: values `[B, T]`.
          context: what the model is conditioned on, for each of B or for all.
          score_fn: what to return of the outputs in place of them, so that a model with many need
            not hold those of all coordinates at once.

        Returns:
          Outputs `[B, T, P]`, or the pytree of `[B, T]` that `score_fn` makes of them; and the
          cache. Step T follows, and feeds x_{T−1}.
        """
        prompt = self.conditional_or_default.as_values("prompt", prompt)
        self._check_prompt(prompt)

        # Symbols of one alphabet are scored as they come; other coordinates know their places.
        score_now_fn = score_fn if self.num_symbols is not None else None

        def body(carry: tuple[Any, Array], inputs: tuple) -> tuple[tuple[Any, Array], Any]:
            (cache, previous), (index, x_i) = carry, inputs
            said, cache = self.step(params, cache, index, previous)
            if score_now_fn is not None:
                scores = score_now_fn(said[:, None], x_i[:, None])
                said = jax.tree.map(lambda a: a[:, 0], scores)
            return (cache, x_i), said

        batch_size, length = prompt.shape
        cache = self.init_cache(params, batch_size, context=context)
        start = (cache, jnp.zeros_like(prompt[:, 0]))
        start = varying_with(start, (params, prompt, context))
        (cache, _), said = jax.lax.scan(body, start, (jnp.arange(length), prompt.T))
        said = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), said)
        if score_fn is not None and score_now_fn is None:
            said = score_fn(said, prompt)
        return said, cache

    def resize(self, params: Params, cache: Any, length: int) -> Any:
        """Return the cache with room for `length` coordinates; asked of a model with `block_size`.

        `step` takes a cache of any length that has room for its index.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cache that grows")

    def _checked_index(self, index: Array) -> Array:
        if not isinstance(index, jax.core.Tracer):
            check_in_range("index", int(index), 0, self.num_dims - 1)
        return jnp.asarray(index)

    def _inside(self, index: Array, outputs: Array) -> Array:
        return nan_unless((index >= 0) & (index < self.num_dims), outputs)

    def _check_prompt(self, prompt: Array) -> None:
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
