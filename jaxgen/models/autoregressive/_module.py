"""The base of autoregressive Flax modules: what all have in common, so a model is its network."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_count, check_data, check_no_lists
from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import AutoregressiveModel, ScoreFn
from jaxgen.core._mesh import num_sharing
from jaxgen.core._types import Array, Key, Params
from jaxgen.models._context import context_features
from jaxgen.models._init import CompiledInit
from jaxgen.models.autoregressive._blocks import block_length, map_blocks, map_rows
from jaxgen.models.conditionals._symbols import unordered


class LinenAutoregressiveModel(AutoregressiveModel, CompiledInit):
    """A Flax module that is an autoregressive model.

    A subclass has the fields `num_dims` and `num_symbols`, the fields `conditional` and
    `conditioning` (or leaves them at None), and writes `_outputs(x, context)`: the outputs
    `[B, D, P]` of every coordinate for data `[B, D]`, row i from x_<i alone, given features of
    the context `[B, F]` or None. One whose outputs take much memory writes `_hidden(x, context)`
    instead, hidden states `[B, D, W]`, and `_read_out(h)`, `[B, K, W] -> [B, K, P]` of symbols at
    any K coordinates; log p then takes a few coordinates at a time, and forms their outputs again
    for its gradient. A model that can do a coordinate for less than a full pass also writes
    `_init_cache(batch_size, context)` and `_step(cache, index, previous)`, which returns outputs
    `[B, P]` and the cache; one that can read a prompt in a pass, `_prefill(prompt, context)`, which
    returns the hidden states, or the outputs of a model that has none, and the cache; one whose
    cache grows, `_resize(cache, length)`, and the field `block_size`.

    Whatever integers the symbols come in, a model sees int32, and −1 for what lies outside [0, V).
    All that it says behind such a symbol becomes NaN: the cache of the contract is the model's own
    and, for each row, whether that has happened.
    """

    # Fields of every subclass; here they would stand before its own.
    conditional = cast(Any, None)
    conditioning = cast(Any, None)

    def __post_init__(self) -> None:
        """Refuse lists: Flax takes them, and then the model has no hash."""
        check_no_lists(self)
        super().__post_init__()

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return ("outputs", "bias")

    @property
    def conditional_or_default(self) -> Conditional:
        """Return the conditional in use."""
        if self.conditional is not None:
            return self.conditional
        if self.num_symbols is None:
            raise ValueError("conditional must be given where num_symbols is None, got None")
        return self._conditional_of_symbols(self.num_symbols)

    @nn.nowrap
    def _conditional_of_symbols(self, num_symbols: int) -> Conditional:
        return unordered(num_symbols)

    def __call__(self, x: Array, context: Any = None) -> Array:
        """Return outputs `[..., D, P]` for data `[..., D]`; what `init` and `apply` call.

        Outputs behind a symbol outside [0, V) are NaN.
        """
        x = self.conditional_or_default.as_values("x", x)
        flat, features = self._flat(x, context)
        outputs = self._with_units(self._outputs(flat, features))
        outputs = self._until_lost(flat, outputs)
        return outputs.reshape(*x.shape, outputs.shape[-1])

    def _outputs(self, x: Array, context: Array | None) -> Array:
        return self._read_out(self._hidden(x, context))

    def _hidden(self, x: Array, context: Array | None) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define _outputs, or _hidden")

    def _read_out(self, h: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define _read_out beside _hidden")

    @nn.nowrap
    def outputs(
        self, params: Params, x: ArrayLike, *, context: Any = None, dropout_key: Key | None = None
    ) -> Array:
        """Return the outputs of every conditional by teacher forcing, `[..., D, P]`.

        Args:
          params: what `init` returned.
          x: data `[..., D]`.
          context: labels or covariates, as `conditioning` says.
          dropout_key: for training with dropout; None drops nothing.
        """
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        return jnp.asarray(self.apply(params, jnp.asarray(x), context, rngs=rngs))

    @nn.nowrap
    def logits(
        self, params: Params, x: ArrayLike, *, context: Any = None, dropout_key: Key | None = None
    ) -> Array:
        """Return the logits of every conditional by teacher forcing, `[..., D, V]`."""
        outputs = self.outputs(params, x, context=context, dropout_key=dropout_key)
        return self.conditional_or_default.logits(outputs)

    @nn.nowrap
    def log_prob(
        self, params: Params, x: ArrayLike, *, context: Any = None, dropout_key: Key | None = None
    ) -> Array:
        """Return log p(x) in nats, `[...]`, of data `[..., D]`."""
        conditional = self.conditional_or_default
        num_rows = math.prod(jnp.shape(x)[:-1])
        own_rows = num_rows // num_sharing(num_rows)
        length = block_length(own_rows, self.num_dims, conditional.num_outputs)
        if not self._reads_out_anywhere or length >= self.num_dims:
            outputs = self.outputs(params, x, context=context, dropout_key=dropout_key)
            return jnp.sum(conditional.log_prob(outputs, jnp.asarray(x)), axis=-1)
        symbols = conditional.as_values("x", x)
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        result: Any = self.apply(params, symbols, context, rngs=rngs, method=_flat_hidden)
        flat, h = result
        log_probs = self._scores_in_blocks(params, conditional.log_prob, h, flat, length)
        return jnp.sum(log_probs, axis=-1).reshape(symbols.shape[:-1])

    @property
    def _has_hidden(self) -> bool:
        # A subclass that changes the outputs alone has none that it could be held to.
        hidden, outputs = (_writer(type(self), name) for name in ("_hidden", "_outputs"))
        return hidden is not LinenAutoregressiveModel and issubclass(hidden, outputs)

    @property
    def _reads_out_anywhere(self) -> bool:
        """Return whether outputs are read out of hidden states, of all coordinates in one way."""
        return self._has_hidden and self._has_symbols

    @nn.nowrap
    def _scores_in_blocks(
        self, params: Params, score_fn: ScoreFn, h: Array, x: Array, length: int
    ) -> Any:
        """Return `score_fn` of what states `[B, T, W]` say, of `length` coordinates at a time."""

        def score(params: Params, h: Array, x: Array, is_known: Array) -> Any:
            outputs = jnp.asarray(self.apply(params, h, method="_read_out"))
            return score_fn(nan_unless(is_known[..., None], outputs), x)

        return map_blocks(score, params, (h, x, self._is_known(x)), length)

    @nn.nowrap
    def init_cache(self, params: Params, batch_size: int, *, context: Any = None) -> Any:
        """Return the cache before the first coordinate, which also remembers the context."""
        if not hasattr(self, "_init_cache"):
            return super().init_cache(params, batch_size, context=context)
        cache = self.apply(params, batch_size, context, method=_init_cache)
        return cache, jnp.zeros(batch_size, bool)

    @nn.nowrap
    def step(self, params: Params, cache: Any, index: Array, previous: Array) -> tuple[Array, Any]:
        """Feed x_{index−1} and return the outputs of x_index, `[B, P]`, and the cache."""
        if not hasattr(self, "_step"):
            return super().step(params, cache, index, previous)
        cache, is_lost = cache
        index = self._checked_index(index)
        conditional = self.conditional_or_default.at(index - 1)
        previous = conditional.as_values("previous", previous)
        is_lost |= ~conditional.is_value(previous) & (index > 0)
        result: Any = self.apply(params, cache, index, previous, method=_step)
        outputs, cache = result
        outputs = self._inside(index, outputs)
        return nan_unless(~is_lost[:, None], outputs), (cache, is_lost)

    @nn.nowrap
    def prefill(
        self,
        params: Params,
        prompt: Array,
        *,
        context: Any = None,
        score_fn: ScoreFn | None = None,
    ) -> tuple[Any, Any]:
        """Read the first T coordinates `[B, T]`; return their outputs `[B, T, P]` and the cache."""
        if not hasattr(self, "_prefill"):
            return super().prefill(params, prompt, context=context, score_fn=score_fn)
        self._check_prompt(prompt)
        conditional = self.conditional_or_default
        x = conditional.as_values("prompt", prompt)
        result: Any = self.apply(params, x, context, method=_prefill)
        said, cache = result
        cache = cache, jnp.any(~conditional.is_value(x)[:, :-1], axis=1)
        if self._reads_out_anywhere:
            num_rows, length = x.shape
            if score_fn is not None:
                length = block_length(num_rows, length, conditional.num_outputs)
            score_fn = score_fn or _outputs_alone
            return self._scores_in_blocks(params, score_fn, said, x, length), cache
        outputs = self._until_lost(x, said)
        return outputs if score_fn is None else score_fn(outputs, x), cache

    def _read_few_rows(self, prompt: Array, vector: Array | None, num_hidden: int) -> Any:
        """Return `_read_rows(prompt, vector)`, a pytree of `[B, ...]`, of a few rows at a time.

        As few as hold no more than `MOST_OUTPUTS` numbers, at so many a position.
        """
        rows = (prompt,) if vector is None else (prompt, vector)
        unbound = self.clone(parent=None)

        def read(params: Params, prompt: Array, vector: Array | None = None) -> Any:
            return unbound.apply(params, prompt, vector, method="_read_rows")

        num_rows = max(1, block_length(prompt.shape[1], len(prompt), num_hidden))
        return map_rows(read, {"params": self.variables["params"]}, rows, num_rows)

    @nn.nowrap
    def resize(self, params: Params, cache: Any, length: int) -> Any:
        """Return the cache with room for `length` coordinates."""
        cache, is_lost = cache
        return self.apply(params, cache, length, method="_resize"), is_lost

    @nn.nowrap
    def _flat(self, x: Array, context: Any) -> tuple[Array, Array | None]:
        """Return values `[..., D]` as `[B, D]`, and features of the context `[B, F]` or None."""
        check_data("x", x, self.num_dims)
        flat = x.reshape(math.prod(x.shape[:-1]), self.num_dims)
        features = self._features(context, x.shape[:-1])
        if features is not None:
            features = features.reshape(len(flat), features.shape[-1])
        return flat, features

    @nn.nowrap
    def _features(self, context: Any, batch_shape: tuple[int, ...]) -> Array | None:
        return context_features(
            self.conditioning, context, batch_shape, is_initializing=self.is_initializing()
        )

    @nn.nowrap
    def _context_layer(self, num_features: int) -> Any:
        """Return a linear map from the context's features, or None without conditioning."""
        return None if self.conditioning is None else nn.Dense(num_features, use_bias=False)

    @property
    def _has_symbols(self) -> bool:
        return self.num_symbols is not None

    def _input_features(self, x: Array) -> Array:
        """Encode values `[B, T]` of the first T coordinates, `[B, T, F]`; 0 for what is none."""
        conditional, units = self.conditional_or_default, None
        if conditional.num_units:
            units = jax.lax.stop_gradient(self.units)[None, : x.shape[1]]
        features = conditional.features(x, units)
        return jnp.where(jnp.isnan(features), 0.0, features)

    def _input_features_at(self, x: Array, index: Array) -> Array:
        """Encode values `[B]` of one coordinate, `[B, F]`; zeros for what is none."""
        conditional, units = self.conditional_or_default, None
        if conditional.num_units:
            units = jax.lax.stop_gradient(self.units)[jnp.maximum(index, 0)][None]
            units = jnp.broadcast_to(units, (len(x), conditional.num_units))
        features = conditional.at(index).features(x, units)
        return jnp.where(jnp.isnan(features), 0.0, features)

    def _with_units(self, outputs: Array, index: Array | None = None) -> Array:
        """Return outputs `[B, T, P]`, or `[B, P]` of one coordinate, and behind them the units."""
        if not self.conditional_or_default.num_units:
            return outputs
        units = jax.lax.stop_gradient(self.units)
        units = units[: outputs.shape[1]] if index is None else units[index]
        units = jnp.broadcast_to(units[None], (*outputs.shape[:-1], units.shape[-1]))
        return jnp.concatenate([outputs, units.astype(outputs.dtype)], axis=-1)

    @nn.nowrap
    def _until_lost(self, x: Array, outputs: Array) -> Array:
        """Return outputs `[B, T, P]`, NaN behind the first value of `x` `[B, T]` that is none."""
        return nan_unless(self._is_known(x)[..., None], outputs)

    @nn.nowrap
    def _is_known(self, x: Array) -> Array:
        """Return where all values of `x` `[B, T]` before a coordinate are possible, `[B, T]`."""
        length = x.shape[1]
        positions = jnp.arange(length)[None]
        is_value = self.conditional_or_default.is_value(x)
        first = jnp.min(jnp.where(is_value, length, positions), axis=1, keepdims=True)
        return positions <= first

    @nn.nowrap
    def _check_fields(self, *counts: str) -> None:
        """Raise unless the named fields are counts and the conditional is over V symbols.

        Creates the units of the coordinates too, where the conditional has some.
        """
        for name in counts:
            check_count(name, getattr(self, name))
        check_count("num_dims", self.num_dims)
        if self.num_symbols is not None:
            check_count("num_symbols", self.num_symbols, minimum=2)
        if self.conditional_or_default.num_symbols != self.num_symbols:
            raise ValueError(
                f"conditional must be over num_symbols={self.num_symbols}, got {self.conditional}"
            )
        conditional = self.conditional_or_default
        conditional.check_num_dims(self.num_dims)
        if conditional.num_shared:
            raise ValueError(f"conditional must share no outputs in a chain, got {conditional}")
        if conditional.num_units:
            shape = (self.num_dims, conditional.num_units)
            self.units = self.param("units", nn.initializers.zeros, shape)


def _flat_hidden(module: Any, x: Array, context: Any) -> tuple[Array, Array]:
    x, features = module._flat(x, context)
    return x, module._hidden(x, features)


def _init_cache(module: Any, batch_size: int, context: Any) -> Any:
    return module._init_cache(batch_size, module._features(context, (batch_size,)))


def _step(module: Any, cache: Any, index: Array, previous: Array) -> Any:
    outputs, cache = module._step(cache, index, previous)
    return module._with_units(outputs, index), cache


def _prefill(module: Any, prompt: Array, context: Any) -> Any:
    said, cache = module._prefill(prompt, module._features(context, prompt.shape[:1]))
    if module._reads_out_anywhere:
        return said, cache
    return module._with_units(module._read_out(said) if module._has_hidden else said), cache


def _writer(cls: type, method: str) -> type:
    return next(base for base in cls.__mro__ if method in vars(base))


def _outputs_alone(outputs: Array, x: Array) -> Array:
    del x
    return outputs
