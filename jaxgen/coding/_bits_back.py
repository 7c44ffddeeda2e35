r"""Lossless codes from latent-variable models, as long as the evidence lower bound in bits.

Bits back (Hinton & van Camp 1993; Frey & Hinton 1996) with asymmetric numeral systems (Townsend et
al. 2019). To push a data point x, pop z from q(z | x), so that bits already on the stack choose it;
push x under p(x | z), then z under p(z). On average over z that takes

.. math:: \mathbb E_{q(z|x)}\left[-\log_2 p(x \mid z) - \log_2 p(z) + \log_2 q(z \mid x)\right]

and popping does the same backwards, which leaves the bits that chose z as they were. Data points
are chained; before there are bits of data to choose z, those of a random generator do. The bits
that chose are stirred: else the z of a point would follow the z of the one before.

With several samples (Ruan et al. 2021) all of them are popped, and one of them by its importance
weight; the others go back under q(z | x). That takes the bits of the importance-weighted bound.
"""

import math
import struct
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.coding import _ans as ans
from jaxgen.coding import _chain as chain
from jaxgen.coding import _file as file
from jaxgen.coding import _latents as latents
from jaxgen.coding import _shares as shares
from jaxgen.coding._stack import Stack, random_words
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.core._types import Array, Params

# In front of the code: how many random words were popped, and samples a data point.
_COUNTS = struct.Struct("<IH")
MAX_SAMPLES = 2**16 - 1


class _Model(NamedTuple):
    """What codes a data point: the model, its parameters, the plan of its latents, and (D, V)."""

    model: LatentVariableModel
    params: Params
    plan: latents.Plan
    shape: tuple[int, int]


def encode(
    model: LatentVariableModel, params: Params, x: np.ndarray, context: Any, num_samples: int = 1
) -> bytes:
    """Return the code of int32 symbols `[N, D]`; nothing for no rows."""
    if len(x) == 0:
        return b""
    coded = _planned(model, params, x.shape[1], context)
    supply = _Supply(file.fingerprint(params))
    for n in reversed(range(len(x))):
        _push(coded, supply, x[n], file.context_rows(context, slice(n, n + 1)), num_samples)
    body = supply.to_bytes(supply.num_words - supply.num_used)
    least = max(num_samples, len(x) // file.ROWS_A_BYTE)
    # More of the random words, where there is less than what `counts` and `file.read` want.
    missing = max(0, -(-(least - len(body)) // ans.WORD_BYTES))
    supply.lay_out(missing + supply.num_used)
    num_used = supply.num_used + missing
    return _COUNTS.pack(num_used, num_samples) + supply.to_bytes(supply.num_words - num_used)


def decode(
    model: LatentVariableModel,
    params: Params,
    shape: tuple[int, int],
    code: bytes,
    context: Any,
) -> np.ndarray:
    """Return the int32 symbols `[N, D]` of a code."""
    num_rows, num_dims = shape
    if num_rows == 0 and not code:
        return np.zeros(shape, np.int32)
    num_used, num_samples = counts(code)
    coded = _planned(model, params, num_dims, context)
    stack = Stack.from_bytes(code[_COUNTS.size :])
    rows = []  # not all at once: what the header says need not be there
    for n in range(num_rows):
        of_row = file.context_rows(context, slice(n, n + 1))
        rows.append(_pop(coded, stack, of_row, num_samples))
    if stack.size != num_used:
        raise file.CodeError("data is damaged: the code goes on behind the rows of its header")
    stack.check_is(_Supply(file.fingerprint(params), num_used))
    return np.stack(rows)


def counts(code: bytes) -> tuple[int, int]:
    """Return how many random words chose the first latents, and the samples a data point."""
    if len(code) < _COUNTS.size:
        raise file.CodeError("data is damaged: its code is cut short")
    num_used, num_samples = _COUNTS.unpack_from(code)
    if not 0 < num_samples <= len(code) - _COUNTS.size:
        raise file.CodeError(f"data is damaged: it says that it has {num_samples} samples a row")
    if ans.WORD_BYTES * num_used > len(code) - _COUNTS.size:
        raise file.CodeError(f"data is damaged: it says that it has {num_used} random words")
    return num_used, num_samples


class _Supply(Stack):
    """A stack over random words without end, which counts how many of them are popped."""

    def __init__(self, seed: bytes, num_words: int = 0) -> None:
        """Begin with some of the words laid out."""
        # A state of zeros would choose the first latent as the least of all.
        high, low = random_words(b"state" + seed, 2).tolist()
        state = ans.State(jnp.uint32(ans.LEAST_HIGH), jnp.uint32((high << 16 | low) >> 8))
        self._seed, self.num_words, self.num_used = b"words" + seed, num_words, 0
        super().__init__(state, random_words(self._seed, num_words)[::-1].copy())

    def top(self, num_symbols: int) -> np.ndarray:
        """Return the words that so many symbols may need, the highest first."""
        self.lay_out(self.num_words + ans.WORDS_A_SYMBOL * num_symbols - self.size)
        return super().top(num_symbols)

    def lay_out(self, num_words: int) -> None:
        """Have so many of the random words, or more."""
        if num_words > self.num_words:
            before, self.num_words = self.num_words, num_words
            self.put_below(random_words(self._seed, num_words)[before:][::-1])

    def drop(self, state: ans.State, num_words: int) -> None:
        """Take words away that were popped."""
        super().drop(state, num_words)
        self.num_used = max(self.num_used, self.num_words - self.size)


def _push(coded: _Model, stack: Stack, x: np.ndarray, context: Any, num_samples: int) -> None:
    """Encode one data point `[D]`."""
    draws = [_pop_posterior(coded, stack, x, context, ans.STIR) for _ in range(num_samples)]
    chosen = 0
    if num_samples > 1:
        chosen = int(_pop_from(_weights(coded, x, draws, context), stack, ans.STIR)[0])
        for draw in reversed(_others(draws, chosen)):
            _push_posterior(coded, stack, x, draw, context, 1)
    groups = draws[chosen]
    _push_to(_likelihood(coded, groups, context), stack, x)
    for group in reversed(coded.plan.prior_order):
        _push_prior(coded, stack, groups, context, group)
    if num_samples > 1:
        _push_to(_uniform(num_samples), stack, np.array([chosen], np.int32))


def _pop(coded: _Model, stack: Stack, context: Any, num_samples: int) -> np.ndarray:
    """Decode one data point, `[D]`."""
    chosen = int(_pop_from(_uniform(num_samples), stack)[0]) if num_samples > 1 else 0
    groups = latents.empty_groups(coded.plan)
    for group in coded.plan.prior_order:
        groups = _with(groups, group, _pop_prior(coded, stack, groups, context, group))
    x = _pop_from(_likelihood(coded, groups, context), stack)
    draws = [
        groups if k == chosen else _pop_posterior(coded, stack, x, context, 1)
        for k in range(num_samples)
    ]
    if num_samples > 1:
        weights = _weights(coded, x, draws, context)
        _push_to(weights, stack, np.array([chosen], np.int32), ans.STIR)
    for draw in reversed(draws):
        _push_posterior(coded, stack, x, draw, context, ans.STIR)
    return x


def _pop_posterior(
    coded: _Model, stack: Stack, x: np.ndarray, context: Any, stir: int
) -> latents.Groups:
    groups = latents.empty_groups(coded.plan)
    for group in coded.plan.posterior_order:
        q = _posterior(coded, x, groups, context, group)
        groups = _with(groups, group, _pop_from(q, stack, stir))
    return groups


def _push_posterior(
    coded: _Model, stack: Stack, x: np.ndarray, groups: latents.Groups, context: Any, stir: int
) -> None:
    for group in reversed(coded.plan.posterior_order):
        _push_to(_posterior(coded, x, groups, context, group), stack, groups[group], stir)


def _weights(
    coded: _Model, x: np.ndarray, draws: list[latents.Groups], context: Any
) -> latents.Factor:
    """Return which draw to take: by p(x, z) / q(z | x), of the very shares that are coded with."""
    bits = np.zeros((1, len(draws)))
    for k, groups in enumerate(draws):
        bits[0, k] += _bits(_likelihood(coded, groups, context), x)
        for group in coded.plan.posterior_order:
            bits[0, k] -= _bits(_posterior(coded, x, groups, context, group), groups[group])
            if not coded.plan.has_chain:  # all draws are one point then
                bits[0, k] += _bits(_prior(coded, groups, context, group), groups[group])
    return _as_symbols(np.float32((bits.min() - bits) * math.log(2)))


def _uniform(num_symbols: int) -> latents.Factor:
    return _as_symbols(np.zeros((1, num_symbols), np.float32))


def _bits(factor: latents.Factor, symbols: np.ndarray) -> float:
    """Return the bits that pushing takes."""
    if isinstance(factor, latents.Point):
        return 0.0
    sizes = np.asarray(_sizes(factor, symbols)).astype(np.float64)
    return float(np.sum(ans.PRECISION - np.log2(np.maximum(sizes, 2.0**-99))))


def _others(draws: list[latents.Groups], chosen: int) -> list[latents.Groups]:
    return [draw for k, draw in enumerate(draws) if k != chosen]


def _planned(model: LatentVariableModel, params: Params, num_dims: int, context: Any) -> _Model:
    first = file.context_rows(context, slice(0, 1))
    plan = latents.plan(model, params, np.zeros((1, num_dims), np.int32), first)
    return _Model(model, params, plan, (num_dims, getattr(model, "num_symbols", 0)))


def _posterior(
    coded: _Model, x: np.ndarray, groups: latents.Groups, context: Any, group: int
) -> latents.Factor:
    model, params, plan, _ = coded
    found = latents.posterior(model, params, plan.reference, x[None], groups, context, group=group)
    return _checked("posterior", *found)


def _likelihood(coded: _Model, groups: latents.Groups, context: Any) -> latents.Factor:
    model, params, plan, _ = coded
    found = latents.likelihood(model, params, plan.reference, groups, context)
    factor = _checked("likelihood", *found)
    if factor[0].shape != coded.shape:
        raise ValueError(
            f"model must have {coded.shape[0]} coordinates of {coded.shape[1]} symbols in its "
            f"likelihood, got {factor[0].shape}"
        )
    return factor


def _prior(coded: _Model, groups: latents.Groups, context: Any, group: int) -> latents.Factor:
    model, params, plan, _ = coded
    found = latents.prior(model, params, plan.reference, groups, context, group=group)
    return _checked("prior", *found)


def _push_prior(
    coded: _Model, stack: Stack, groups: latents.Groups, context: Any, group: int
) -> None:
    if not coded.plan.has_chain:
        _push_to(_prior(coded, groups, context, group), stack, groups[group])
        return
    of_codes = coded.model.prior(coded.params, context=context).chain
    model, params, context = of_codes
    chain.push(model, params, stack, groups[group][None], context)


def _pop_prior(
    coded: _Model, stack: Stack, groups: latents.Groups, context: Any, group: int
) -> np.ndarray:
    if not coded.plan.has_chain:
        return _pop_from(_prior(coded, groups, context, group), stack)
    model, params, context = coded.model.prior(coded.params, context=context).chain
    return chain.pop(model, params, stack, 1, context)[0]


def _checked(name: str, factor: latents.Factor, is_valid: Array) -> latents.Factor:
    if not is_valid:
        raise ValueError(f"model gives NaN in its {name}")
    return factor


def _pop_from(factor: latents.Factor, stack: Stack, stir: int = 1) -> np.ndarray:
    """Pop what a factor is about; what is certain is not on the stack."""
    if isinstance(factor, latents.Point):
        return np.asarray(factor.symbols)
    popped = _pop_symbols(stack.state, stack.top(len(factor[0])), factor, stir)
    stack.drop(popped.state, int(popped.num_words))
    return np.asarray(popped.symbols)


def _push_to(factor: latents.Factor, stack: Stack, symbols: np.ndarray, stir: int = 1) -> None:
    """Push what a factor is about."""
    if isinstance(factor, latents.Point):
        return
    pushed = _push_symbols(stack.state, factor, symbols, stir)
    stack.put(pushed.state, np.asarray(pushed.words)[: pushed.num_words])


@jax.jit
def _as_symbols(logits: Array) -> latents.Symbols:
    return latents.Symbols(shares.ends_of(jax.nn.softmax(logits, axis=-1)))


@jax.jit
def _sizes(factor: latents.Uncertain, symbols: Array) -> Array:
    return latents.interval(factor, symbols)[1]


@partial(jax.jit, static_argnums=3)
def _pop_symbols(
    state: ans.State, words: Array, factor: latents.Uncertain, stir: int
) -> ans.Popped:
    find_fn = latents.find(factor)
    return ans.pop(state, words, jnp.int32(0), len(factor[0]), find_fn, stir=stir)


@partial(jax.jit, static_argnums=3)
def _push_symbols(
    state: ans.State, factor: latents.Uncertain, symbols: Array, stir: int
) -> ans.Pushed:
    return ans.push(state, *latents.interval(factor, symbols), stir=stir)


def _with(groups: latents.Groups, group: int, values: np.ndarray) -> latents.Groups:
    return (*groups[:group], values, *groups[group + 1 :])
