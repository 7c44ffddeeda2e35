"""What every autoregressive model must satisfy; a new model joins by one row where these are run.

Each check takes the model's functions and parameters and raises AssertionError. All are exact
(enumeration, every pair of coordinates) but for `check_samples`, which has the suite's stated rate.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen import coding
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.samplers import _ancestral as ancestral
from jaxgen.samplers._categorical import categorical_quantile

NUM_SAMPLES, PART_SIZE = 100_000, 10_000


@dataclasses.dataclass(frozen=True)
class Given(AutoregressiveModel):
    """A model with its context fixed, which must then be a model like any other.

    A subclass that breaks one method shows that the suite sees it.
    """

    model: AutoregressiveModel
    context: Any = None

    @property
    def num_dims(self):
        return self.model.num_dims

    @property
    def num_symbols(self):
        return self.model.num_symbols

    @property
    def block_size(self):
        return self.model.block_size

    @property
    def conditional_or_default(self):
        return self.model.conditional_or_default

    def outputs(self, params, x, *, context=None):
        return self.model.outputs(params, x, context=self._context)

    def log_prob(self, params, x, *, context=None):
        return self.model.log_prob(params, x, context=self._context)

    def init_cache(self, params, batch_size, *, context=None):
        return self.model.init_cache(params, batch_size, context=self._context)

    def step(self, params, cache, index, previous):
        return self.model.step(params, cache, index, previous)

    def prefill(self, params, prompt, *, context=None, score_fn=None):
        return self.model.prefill(params, prompt, context=self._context, score_fn=score_fn)

    def resize(self, params, cache, length):
        return self.model.resize(params, cache, length)

    @property
    def _context(self):
        return jnp.array(self.context) if isinstance(self.context, tuple) else self.context


@functools.cache
def compiled(method):
    """A method of a model under `jax.jit`, the same for every check.

    A bound method is a new object each time it is looked up, and JAX compiles it again.
    """
    return jax.jit(method)


next_symbol = jax.jit(categorical_quantile)


def every_x(model):
    """All V^D data points, `[V^D, D]`."""
    symbols = range(model.num_symbols)
    return np.array(list(itertools.product(symbols, repeat=model.num_dims)), np.int32)


def radices(model):
    """What symbols count, so that `x @ radices(model)` is the place of x in `every_x`."""
    return model.num_symbols ** np.arange(model.num_dims)[::-1]


def log_probs(model, params):
    """log p of every data point."""
    x = every_x(model)
    return compiled(model.log_prob)(params, x)


def check_sums_to_one(model, params):
    """Σ_x p(x) = 1 over the whole space, and so do the conditionals that the contract gives."""
    total = np.exp(np.asarray(log_probs(model, params), np.float64)).sum()
    assert abs(total - 1) <= 1e-5, f"the joint sums to {total}"


def check_causality(model, params):
    """No logit depends on its own or a later coordinate, and every one on each earlier coordinate.

    Exhaustive: at every pair (i, j), x_j takes every value at every data point.
    """
    x = every_x(model)
    logits = compiled(model.logits)
    before = np.asarray(logits(params, x))
    for j in range(model.num_dims):
        change = np.zeros(before.shape[1], bool)
        for shift in range(1, model.num_symbols):
            moved = x.copy()
            moved[:, j] = (moved[:, j] + shift) % model.num_symbols
            change |= (np.asarray(logits(params, moved)) != before).any(axis=(0, 2))
        assert not change[: j + 1].any(), f"logits {np.flatnonzero(change[: j + 1])} see x_{j}"
        assert change[j + 1 :].all(), f"some of the logits after {j} do not see x_{j}"


def check_step_agrees_with_logits(model, params, tolerance=1e-5):
    """Fed one symbol at a time, the cache gives the teacher-forced outputs."""
    x = every_x(model)
    cache = jax.jit(model.init_cache, static_argnums=1)(params, len(x))
    step, previous = compiled(model.step), np.zeros(len(x), np.int32)
    expected = np.asarray(compiled(model.outputs)(params, x))
    for i in range(model.num_dims):
        outputs, cache = step(params, cache, i, previous)
        np.testing.assert_allclose(outputs, expected[:, i], atol=tolerance, err_msg=f"row {i}")
        previous = x[:, i]
    past_the_end, _ = step(params, cache, model.num_dims, previous)
    assert np.isnan(past_the_end).all(), "stepping past the last coordinate went unnoticed"
    with pytest.raises(ValueError, match="index must be in"):
        model.step(params, cache, model.num_dims, previous)


def check_prefill(model, params, tolerance=1e-5):
    """A prompt read in one pass gives the outputs of every row, and the cache that steps give."""
    x = every_x(model)
    expected = np.asarray(compiled(model.outputs)(params, x))
    step = compiled(model.step)
    for length in {(model.num_dims + 1) // 2, model.num_dims}:
        outputs, cache = compiled(model.prefill)(params, x[:, :length])
        np.testing.assert_allclose(outputs, expected[:, :length], atol=tolerance)
        for i in range(length, model.num_dims):
            outputs, cache = step(params, cache, i, x[:, i - 1])
            np.testing.assert_allclose(outputs, expected[:, i], atol=tolerance, err_msg=f"row {i}")


def check_samplers_agree(model, params):
    """Cached, parallel, prompted and naive sampling give equal symbols from equal uniforms."""
    u = np.random.default_rng(0).random((200, model.num_dims), np.float32)
    naive = np.zeros(u.shape, np.int32)
    everywhere = np.asarray(compiled(model.logits)(params, every_x(model)))
    for i in range(model.num_dims):
        naive[:, i] = next_symbol(everywhere[naive @ radices(model), i], u[:, i])

    @jax.jit
    def three_ways(params, u, prompt):
        cached = ancestral.quantile(model, params, u)
        parallel = ancestral.quantile_parallel(model, params, u)
        return cached, parallel, ancestral.quantile(model, params, u, prompt=prompt)

    prompt = naive[:, : (model.num_dims + 1) // 2]
    cached, parallel, prompted = three_ways(params, u, prompt)
    np.testing.assert_array_equal(cached.x, naive)
    np.testing.assert_array_equal(parallel.draws.x, naive)
    np.testing.assert_allclose(parallel.draws.log_probs, cached.log_probs, atol=1e-4)
    assert 1 <= parallel.num_passes <= model.num_dims
    np.testing.assert_array_equal(prompted.x, naive)
    np.testing.assert_allclose(prompted.log_probs, cached.log_probs, atol=1e-4)


def check_shapes(model, params):
    """Any leading shape, none included, gives the same logits; no rows give none."""
    x = every_x(model)
    expected = np.asarray(compiled(model.logits)(params, x))
    assert expected.shape == (len(x), model.num_dims, model.num_symbols)
    rows = np.resize(np.arange(len(x)), (2, 1, 3))
    both = jax.jit(lambda params, one, many: [model.logits(params, part) for part in (one, many)])
    one, many = both(params, x[0], x[rows])
    np.testing.assert_allclose(one, expected[0], atol=1e-5)
    np.testing.assert_allclose(many, expected[rows], atol=1e-5)
    assert jax.eval_shape(model.log_prob, params, x[:0]).shape == (0,)


def check_what_is_no_symbol_shows(model, params):
    """Behind −1 or V all rows hold NaN, before it none: at once, along a prompt, and by steps."""
    x = every_x(model)
    outside = x.copy()
    place = min(1, model.num_dims - 1)
    outside[:, place] = np.where(np.arange(len(x)) % 2, -1, model.num_symbols)
    is_nan = np.isnan(compiled(model.logits)(params, outside)).any(-1)
    np.testing.assert_array_equal(is_nan[0], np.arange(model.num_dims) > place)
    assert (is_nan == is_nan[0]).all()
    assert np.isnan(compiled(model.log_prob)(params, outside)).all()
    prompted, _ = compiled(model.prefill)(params, outside)
    np.testing.assert_array_equal(np.isnan(prompted).any(-1), is_nan)
    cache = jax.jit(model.init_cache, static_argnums=1)(params, len(x))
    previous = np.full(len(x), -1, np.int32)  # not looked at
    for i in range(model.num_dims):
        stepped, cache = compiled(model.step)(params, cache, i, previous)
        np.testing.assert_array_equal(np.isnan(stepped).any(-1), is_nan[:, i])
        previous = outside[:, i]


def check_samples(model, params, key):
    """Sampled data come as often as `log_prob` says, and are given the log-probability it gives."""

    @jax.jit
    def draw(params, keys):
        # In parts that stay in the processor's cache, each with a key of its own.
        return jax.lax.map(lambda k: ancestral.sample(k, model, params, PART_SIZE), keys)

    parts = draw(params, jax.random.split(key, NUM_SAMPLES // PART_SIZE))
    draws = jax.tree.map(lambda leaf: np.reshape(leaf, (NUM_SAMPLES, model.num_dims)), parts)
    cells = draws.x @ radices(model)
    probabilities = np.exp(log_probs(model, params))
    counts = np.bincount(cells, minlength=probabilities.size)
    sampling_checks.assert_frequencies(counts, probabilities)
    np.testing.assert_allclose(
        np.sum(draws.log_probs, axis=-1), np.asarray(log_probs(model, params))[cells], atol=1e-4
    )


def check_code(model, params):
    """Every data point survives the code, whose length is what the model claims."""
    x = every_x(model)
    data = coding.encode(model, params, x)
    np.testing.assert_array_equal(coding.decode(model, params, data), x)
    claim = coding.claimed_bits(log_probs(model, params))
    bits = 8 * (len(data) - coding.HEADER_BYTES)
    assert claim - 1 <= bits <= 1.001 * claim + 64, f"{bits} bits for a claim of {claim:.1f}"


def check_portable_code(model, params):
    """The same, of a file that bears other last bits."""
    x = every_x(model)
    data = coding.encode(model, params, x, is_portable=True)
    np.testing.assert_array_equal(coding.decode(model, params, data), x)
    claim = coding.claimed_bits(log_probs(model, params))
    bits = coding.inspect(data).net_bits
    assert claim - 1 <= bits <= 1.01 * claim + 96, f"{bits} bits for a claim of {claim:.1f}"


ALL = [
    check_sums_to_one,
    check_causality,
    check_step_agrees_with_logits,
    check_prefill,
    check_samplers_agree,
    check_shapes,
    check_what_is_no_symbol_shows,
    check_code,
    check_portable_code,
]
