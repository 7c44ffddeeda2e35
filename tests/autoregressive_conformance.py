"""What every autoregressive model must satisfy; a new model joins by one row where these are run.

`measure` runs a model once, in one program; each check looks at what it gave and raises
AssertionError. All are exact (enumeration, every pair of coordinates) but for `check_samples`,
which has the suite's stated rate.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen import coding
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.core._likelihood_terms import categorical_log_prob
from jaxgen.samplers import _ancestral as ancestral
from jaxgen.samplers._categorical import categorical_quantile

NUM_PARTS, PART_SIZE, NUM_AGREEING = 4, 10_000, 200


def random_params(module, scale=0.5):
    """Parameters with every bias away from zero, so that nothing agrees by being zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.num_dims), int))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: scale * generator.standard_normal(leaf.shape, "f4"), shapes)


def influence(module):
    """Whether the logits of bit i change with bit j, bool `[D, D]`, over random images."""
    x = np.random.default_rng(0).integers(0, 2, (16, 1, module.num_dims))
    x = np.concatenate([x, x ^ np.eye(module.num_dims, dtype=int)], axis=1)
    logits = np.asarray(jax.jit(module.logits)(random_params(module), x))
    return (logits[:, 1:] != logits[:, :1]).any(axis=(0, 3)).T


def check_draws_are_naive(module):
    """The draws solve x_i = F_i⁻¹(u_i | x_<i), which has one solution: that of naive sampling."""
    params = random_params(module)
    u = np.random.default_rng(0).random((20, module.num_dims), np.float32)
    draws = jax.jit(ancestral.quantile)(module, params, u)
    logits = jax.jit(module.logits)(params, draws.x)
    chex.assert_trees_all_equal(categorical_quantile(logits, u), draws.x)
    chex.assert_trees_all_close(
        draws.log_probs, categorical_log_prob(logits, draws.x), atol=1e-5, rtol=1e-7
    )
    assert len(np.unique(draws.x)) == module.num_symbols


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


next_symbol = jax.jit(categorical_quantile)


def every_x(model):
    """All V^D data points, `[V^D, D]`."""
    symbols = range(model.num_symbols)
    return np.array(list(itertools.product(symbols, repeat=model.num_dims)), np.int32)


def radices(model):
    """What symbols count, so that `x @ radices(model)` is the place of x in `every_x`."""
    return model.num_symbols ** np.arange(model.num_dims)[::-1]


class Measured(NamedTuple):
    """What a model says of all N = V^D data points x, and of as many that are none."""

    model: AutoregressiveModel
    params: Any
    outputs: np.ndarray  # of x, of x with a coordinate moved, and of no data: [1 + D (V−1) + 1, N]
    outputs_backwards: np.ndarray  # of x from the last to the first, that stood beside
    logits: np.ndarray  # of x, [N, D, V]
    log_prob: np.ndarray  # of x and of no data, [2, N]
    stepped: np.ndarray  # outputs by steps, one past the end, [D + 1, 2 N, P]
    prefilled: np.ndarray  # outputs of a prompt, [2 N, D, P]
    u: np.ndarray  # uniforms, [M, D]
    cached: Any  # draws from them
    parallel: Any  # those of the first uniforms, in passes
    prompted: Any  # and after the first half of what the passes gave


def measure(model, params):
    """All that the checks below look at, from one compilation."""
    x = every_x(model)
    generator = np.random.default_rng(0)
    u = generator.random((NUM_PARTS, PART_SIZE, model.num_dims), np.float32)
    found = _measure(model, params, x, moved(model, x), outside(model, x), u)
    u = u.reshape(-1, model.num_dims)
    return Measured(model, params, **jax.tree.map(np.asarray, found), u=u)


def moved(model, x):
    """Every data point with x_j changed to each other value, `[D (V − 1), N, D]`."""
    shifts = range(1, model.num_symbols)
    steps = [shift * row for row in np.eye(model.num_dims, dtype=np.int32) for shift in shifts]
    return (x[None] + np.array(steps)[:, None]) % model.num_symbols


def outside(model, x):
    """The data points with −1 or V, in turns, at the second coordinate or the only one."""
    x = x.copy()
    place = min(1, model.num_dims - 1)
    x[:, place] = np.where(np.arange(len(x)) % 2, -1, model.num_symbols)
    return x


@jax.jit
def _measure(model, params, x, moved, outside, u):
    # In one loop, so that equal rows give equal bits.
    pairs = jnp.stack([jnp.stack([rows, x[::-1]]) for rows in (x, *moved, outside)])
    forward = jax.lax.map(lambda x: (model.outputs(params, x), model.logits(params, x)), pairs)
    both = jnp.concatenate([x, outside])
    # In parts that stay in the processor's cache.
    cached = jax.lax.map(lambda part: ancestral.quantile(model, params, part), u)
    few = u[0, :NUM_AGREEING]
    parallel = ancestral.quantile_parallel(model, params, few)
    prompt = parallel.draws.x[:, : (model.num_dims + 1) // 2]
    return {
        "outputs": forward[0][:, 0],
        "outputs_backwards": forward[0][0, 1],
        "logits": forward[1][0, 0],
        "log_prob": model.log_prob(params, jnp.stack([x, outside])),
        "stepped": _steps(model, params, both),
        "prefilled": model.prefill(params, both)[0],
        "cached": jax.tree.map(lambda leaf: leaf.reshape(-1, model.num_dims), cached),
        "parallel": parallel,
        "prompted": ancestral.quantile(model, params, few, prompt=prompt),
    }


def _steps(model, params, x):
    """Outputs `[D + 1, B, P]`, each from the symbol before; the first is not looked at."""
    previous = jnp.concatenate([jnp.full((1, len(x)), -1), x.T])

    def one(cache, inputs):
        outputs, cache = model.step(params, cache, *inputs)
        return cache, outputs

    cache = model.init_cache(params, len(x))
    return jax.lax.scan(one, cache, (jnp.arange(len(previous)), previous))[1]


def check_sums_to_one(measured):
    """Σ_x p(x) = 1 over the whole space, and so do the conditionals that the contract gives."""
    total = np.exp(measured.log_prob[0].astype(np.float64)).sum()
    assert abs(total - 1) <= 1e-5, f"the joint sums to {total}"


def check_causality(measured):
    """No output depends on its own or a later coordinate, and every one on each earlier one.

    Exhaustive: at every pair (i, j), x_j takes every value at every data point.
    """
    num_dims = measured.model.num_dims
    before, *after, _ = measured.outputs
    changes = (np.stack(after) != before).any(axis=(1, 3))  # [D (V − 1), D]
    for j, change in enumerate(changes.reshape(num_dims, -1, num_dims).any(axis=1)):
        assert not change[: j + 1].any(), f"outputs {np.flatnonzero(change[: j + 1])} see x_{j}"
        assert change[j + 1 :].all(), f"some of the outputs after {j} do not see x_{j}"


def check_step_agrees_with_outputs(measured, tolerance=1e-5):
    """Fed one symbol at a time, the cache gives the teacher-forced outputs."""
    model, expected = measured.model, measured.outputs[0]
    for i, outputs in enumerate(measured.stepped[:-1, : len(expected)]):
        np.testing.assert_allclose(outputs, expected[:, i], atol=tolerance, err_msg=f"row {i}")
    assert np.isnan(measured.stepped[-1]).all(), "stepping past the end went unnoticed"

    def past_the_end(params):
        model.step(params, model.init_cache(params, 1), model.num_dims, jnp.zeros(1, int))

    with pytest.raises(ValueError, match="index must be in"):
        jax.eval_shape(past_the_end, measured.params)


def check_prefill(measured, tolerance=1e-5):
    """A prompt read in one pass gives the outputs of every row, and the cache that steps give."""
    expected = measured.outputs[0]
    chex.assert_trees_all_close(
        measured.prefilled[: len(expected)], expected, atol=tolerance, rtol=1e-7
    )
    few = measured.cached.log_probs[:NUM_AGREEING]
    chex.assert_trees_all_close(measured.prompted.log_probs, few, atol=tolerance, rtol=1e-7)


def check_samplers_agree(measured):
    """Cached, parallel, prompted and naive sampling give equal symbols from equal uniforms."""
    model, logits = measured.model, measured.logits
    naive = np.zeros(measured.u.shape, np.int32)
    for i in range(model.num_dims):
        naive[:, i] = next_symbol(logits[naive @ radices(model), i], measured.u[:, i])
    few, parallel = slice(NUM_AGREEING), measured.parallel.draws
    chex.assert_trees_all_equal(parallel.x, naive[few])
    chex.assert_trees_all_equal(measured.prompted.x, naive[few])
    chex.assert_trees_all_close(
        parallel.log_probs, measured.cached.log_probs[few], atol=1e-4, rtol=1e-7
    )
    assert 1 <= measured.parallel.num_passes <= model.num_dims
    # Of so many, one may lie within rounding of where another symbol begins.
    assert np.mean((measured.cached.x != naive).any(axis=1)) <= 1e-4


def check_shapes(measured):
    """Any leading shape, none included, gives the same; no rows give none."""
    model, params, x = measured.model, measured.params, every_x(measured.model)
    assert measured.logits.shape == (len(x), model.num_dims, model.num_symbols)
    chex.assert_trees_all_close(
        measured.outputs_backwards[::-1], measured.outputs[0], atol=1e-5, rtol=1e-7
    )
    log_probs = measured.logits - np.logaddexp.reduce(measured.logits, axis=-1, keepdims=True)
    expected = np.take_along_axis(log_probs, x[..., None], axis=-1).sum(axis=(1, 2))
    chex.assert_trees_all_close(measured.log_prob[0], expected, atol=1e-4, rtol=1e-7)
    assert jax.eval_shape(model.logits, params, x[0]).shape == measured.logits.shape[1:]
    assert jax.eval_shape(model.log_prob, params, x[0]).shape == ()
    assert jax.eval_shape(model.log_prob, params, x[:0]).shape == (0,)


def check_what_is_no_symbol_shows(measured):
    """Behind −1 or V all rows hold NaN, before it none: at once, along a prompt, and by steps."""
    num_dims, half = measured.model.num_dims, measured.log_prob.shape[1]
    expected = np.broadcast_to(np.arange(num_dims) > min(1, num_dims - 1), (half, num_dims))
    stepped = np.swapaxes(measured.stepped[:-1], 0, 1)
    for outputs in (measured.outputs[-1], measured.prefilled[half:], stepped[half:]):
        chex.assert_trees_all_equal(np.isnan(outputs).any(-1), expected)
    assert np.isnan(measured.log_prob[1]).all()


def check_samples(measured):
    """Sampled data come as often as `log_prob` says, and are given the log-probability it gives."""
    cells = measured.cached.x @ radices(measured.model)
    log_probs = measured.log_prob[0]
    counts = np.bincount(cells, minlength=log_probs.size)
    sampling_checks.assert_frequencies(counts, np.exp(log_probs))
    found = np.sum(measured.cached.log_probs, axis=-1)
    chex.assert_trees_all_close(found, log_probs[cells], atol=1e-4, rtol=1e-7)


def check_code(measured):
    """Every data point survives the code, whose length is what the model claims."""
    data, claim = _coded(measured)
    bits = 8 * (len(data) - coding.HEADER_BYTES)
    assert claim - 1 <= bits <= 1.001 * claim + 64, f"{bits} bits for a claim of {claim:.1f}"


def check_portable_code(measured):
    """The same, of a file that bears other last bits."""
    data, claim = _coded(measured, is_portable=True)
    bits = coding.inspect(data).net_bits
    assert claim - 1 <= bits <= 1.01 * claim + 96, f"{bits} bits for a claim of {claim:.1f}"


def _coded(measured, **options):
    """The code of all data points, after a look at what it decodes to, and the bits claimed."""
    model, params = measured.model, measured.params
    x = every_x(model)
    data = coding.encode(model, params, x, **options)
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)
    return data, coding.claimed_bits(measured.log_prob[0])


ALL = [
    check_sums_to_one,
    check_causality,
    check_step_agrees_with_outputs,
    check_prefill,
    check_samplers_agree,
    check_samples,
    check_shapes,
    check_what_is_no_symbol_shows,
]
