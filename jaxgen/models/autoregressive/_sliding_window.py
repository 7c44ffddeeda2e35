"""A model of a window slid along a longer array: text of any length, by windows that overlap."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_data
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import AutoregressiveModel, ScoreFn
from jaxgen.core._types import Array, Params

_WINDOWS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class SlidingWindow(AutoregressiveModel):
    r"""A model of T coordinates, made one of D: each is given those of its window before it.

    .. math:: \log p(x) = \sum_{i=1}^D \log p(x_i \mid x_{b(i)}, \dots, x_{i-1})

    The first window is the first T coordinates; every other one begins ⌈T / 2⌉ after the one
    before, and gives the conditionals of what that had not reached. So a coordinate behind the
    first window is given ⌊T / 2⌋ others at least. That is how language models are evaluated on
    text longer than their context (Radford et al. 2019; Baevski & Auli 2019), and as it is a
    product of normalized conditionals, it samples, fills in and encodes as well. Steps read
    each window's first half anew.

    Parameters are those of the model.

    Attributes:
      model: over T ≥ 2 symbols of one alphabet.
      num_dims: D, of any size.
    """

    model: AutoregressiveModel
    num_dims: int

    def __post_init__(self) -> None:
        """Check that windows can overlap, and that a coordinate's place does not matter."""
        check_count("num_dims", self.num_dims)
        check_count("model.num_dims", self.model.num_dims, minimum=2)
        if self.model.num_symbols is None:
            raise ValueError("model must be over symbols of one alphabet, got num_symbols=None")

    @property
    def num_symbols(self) -> int | None:  # type: ignore[override]
        """Return V."""
        return self.model.num_symbols

    @property
    def conditional(self) -> Conditional:  # type: ignore[override]
        """Return that of the model."""
        return self.model.conditional_or_default

    def outputs(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the outputs of every conditional, `[..., D, P]`; see the contract."""
        x = self.conditional.as_values("x", x)
        check_data("x", x, self.num_dims)
        return self._outputs(params, x, context)

    def logits(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return the logits of every conditional, `[..., D, V]`; see the contract."""
        return self.conditional.logits(self.outputs(params, x, context=context))

    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the cache of the first window."""
        return _Cache(
            self.model.init_cache(params, batch_size, context=context),
            self.conditional.start((batch_size, self._overlap)),
            jnp.ones(batch_size, bool),
            context,
        )

    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} and return the outputs of x_index, `[B, P]`; see the contract."""
        index = self._checked_index(index)
        previous = self.conditional.as_values("previous", previous)
        is_known = cache.is_known & ((index == 0) | self.conditional.is_value(previous))
        last = jnp.maximum(index - 1, 0) % self._overlap
        recent = jax.lax.dynamic_update_slice_in_dim(cache.recent, previous[:, None], last, axis=1)
        beyond = index - self.model.num_dims

        def anew(_: Any) -> Any:
            prompt = jnp.roll(recent, -index % self._overlap, axis=1)
            return self.model.prefill(params, prompt, context=cache.context)[1]

        begins = (beyond >= 0) & (beyond % self._stride == 0)
        window = jax.lax.cond(begins, anew, lambda kept: kept, cache.window)
        place = jnp.where(beyond < 0, index, self._overlap + beyond % self._stride)
        outputs, window = self.model.step(params, window, place, previous)
        outputs = self._inside(index, nan_unless(is_known[:, None], outputs))
        return outputs, _Cache(window, recent, is_known, cache.context)

    def prefill(
        self,
        params: Params,
        prompt: Array,
        *,
        context: Any = None,
        score_fn: ScoreFn | None = None,
    ) -> tuple[Any, Any]:
        """Read a prompt `[B, K]`, all of its windows at once; see the contract."""
        prompt = self.conditional.as_values("prompt", prompt)
        self._check_prompt(prompt)
        outputs = self._outputs(params, prompt, context)
        batch_size, length = prompt.shape
        begin = self._stride * int(self._window_of(length))
        _, window = self.model.prefill(params, prompt[:, begin:], context=context)
        places = np.arange(max(0, length - self._overlap), length)
        recent = self.conditional.start((batch_size, self._overlap))
        recent = recent.at[:, places % self._overlap].set(prompt[:, places])
        is_known = jnp.all(self.conditional.is_value(prompt), axis=1)
        said = outputs if score_fn is None else score_fn(outputs, prompt)
        return said, _Cache(window, recent, is_known, context)

    @property
    def _overlap(self) -> int:
        return self.model.num_dims // 2

    @property
    def _stride(self) -> int:
        return self.model.num_dims - self._overlap

    def _window_of(self, index: Any) -> Any:
        """Return which window gives the conditional of a coordinate."""
        return np.maximum(0, (index - self.model.num_dims) // self._stride + 1)

    def _outputs(self, params: Params, x: Array, context: Any) -> Array:
        """Return the outputs `[..., K, P]` of the first K coordinates, from those `[..., K]`."""
        index = np.arange(x.shape[-1])
        window = self._window_of(index)
        starts = self._stride * np.arange(window[-1] + 1)
        places = np.minimum(starts[:, None] + np.arange(self.model.num_dims), index[-1])
        windows = jnp.moveaxis(x[..., places], -2, 0)
        outputs = jax.lax.map(
            lambda one: self.model.outputs(params, one, context=context),
            windows,
            batch_size=_WINDOWS_AT_ONCE,
        )
        chosen = jnp.moveaxis(outputs[window, ..., index - starts[window], :], 0, -2)
        is_known = jnp.cumprod(self.conditional.is_value(x), axis=-1).astype(bool)
        is_known = jnp.concatenate([jnp.ones_like(is_known[..., :1]), is_known[..., :-1]], axis=-1)
        return nan_unless(is_known[..., None], chosen)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Cache:
    """What the steps so far leave.

    Attributes:
      window: the model's own cache.
      recent: the last values read, that of coordinate i at i modulo the overlap, `[B, ⌊T / 2⌋]`.
      is_known: whether all that was read was symbols, `[B]`.
      context: of the model.
    """

    window: Any
    recent: Array
    is_known: Array
    context: Any
