import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.special
from flax import linen as nn

from jaxgen.core._conditional import Conditional
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.samplers import _ancestral as ancestral
from jaxgen.samplers._categorical import categorical_quantile
from jaxgen.samplers._logit_transforms import temper

D, V = 3, 2


def logits_fn(params, x):
    """A Markov chain: logits of x_i are a table's row, chosen by x_{i−1} (row 0 at the start)."""
    previous = jnp.concatenate([jnp.zeros((*x.shape[:-1], 1), x.dtype), x[..., :-1]], axis=-1)
    length = x.shape[-1]
    return params[jnp.arange(length).reshape((1,) * (x.ndim - 1) + (length,)), previous]


@dataclasses.dataclass(frozen=True)
class Chain(AutoregressiveModel):
    num_dims: int = D
    num_symbols: int = V

    def logits(self, params, x, *, context=None):
        return logits_fn(params, x)

    def init_cache(self, params, batch_size, *, context=None):
        return jnp.zeros(batch_size)

    def step(self, params, cache, index, previous):
        return params[index, jnp.where(index > 0, previous, 0)], cache


@dataclasses.dataclass(frozen=True)
class InBlocks(Chain):
    block_size: int | None = 8


MODEL = Chain()
PARAMS = 2 * jax.random.normal(jax.random.key(5), (D, V, V))


@jax.jit
def from_uniforms(params, u, observed=None, is_observed=None, model=MODEL):
    return ancestral.quantile(model, params, u, observed=observed, is_observed=is_observed)


def naive(u, observed, is_observed):
    """The same chain by a full forward pass for each coordinate."""
    x = np.zeros(u.shape, np.int32)
    for i in range(D):
        x[:, i] = np.where(is_observed[:, i], observed[:, i], next_symbol(x, u, i))
    return x


@jax.jit
def next_symbol(x, u, i):
    return categorical_quantile(jnp.take(logits_fn(PARAMS, x), i, 1), jnp.take(u, i, 1))


@jax.jit
def chosen_log_probs(x):
    log_probs = jax.nn.log_softmax(logits_fn(PARAMS, x))
    return jnp.take_along_axis(log_probs, x[..., None], -1)[..., 0]


@pytest.mark.parametrize("share_observed", [0.0, 0.5, 1.0])
def test_equals_the_naive_chain_symbol_for_symbol(share_observed):
    rng = np.random.default_rng(0)
    u = rng.random((500, D), np.float32)
    observed = rng.integers(0, V, (500, D)).astype(np.int32)
    is_observed = rng.random((500, D)) < share_observed
    draws = from_uniforms(PARAMS, u, observed, is_observed)
    chex.assert_trees_all_equal(draws.x, naive(u, observed, is_observed))
    chex.assert_trees_all_equal(np.asarray(draws.x)[is_observed], observed[is_observed])


def test_log_probs_are_those_of_the_chain():
    u = np.random.default_rng(1).random((50, D), np.float32)
    draws = from_uniforms(PARAMS, u)
    chex.assert_trees_all_close(draws.log_probs, chosen_log_probs(draws.x), atol=1e-6, rtol=1e-7)


def test_transform_shapes_the_draw_and_both_log_probs_are_told():
    u = np.random.default_rng(3).random((400, D), np.float32)
    sharp = functools.partial(temper, temperature=0.25)
    draws = jax.jit(lambda u: ancestral.quantile(MODEL, PARAMS, u, transform_fn=sharp))(u)
    by_hand = from_uniforms(4 * PARAMS, u)
    chex.assert_trees_all_equal(draws.x, by_hand.x)
    chex.assert_trees_all_close(
        draws.transformed_log_probs, by_hand.log_probs, atol=1e-5, rtol=1e-7
    )
    chex.assert_trees_all_close(draws.log_probs, chosen_log_probs(draws.x), atol=1e-6, rtol=1e-7)


def test_parallel_passes_stop_as_soon_as_nothing_changes():
    u = np.random.default_rng(4).random((50, D), np.float32)
    independent = jnp.broadcast_to(PARAMS[:, :1], PARAMS.shape)
    parallel = jax.jit(ancestral.quantile_parallel)
    assert parallel(MODEL, independent, u).num_passes == 2
    every = np.ones(u.shape, bool)
    observed = np.random.default_rng(5).integers(0, V, u.shape)
    result = parallel(MODEL, PARAMS, u, observed=observed, is_observed=every)
    assert result.num_passes == 1
    chex.assert_trees_all_equal(result.draws.x, observed)


def test_parallel_fills_in_what_the_sequential_sampler_fills_in(key):
    rng = np.random.default_rng(6)
    observed, is_observed = rng.integers(0, V, (60, D)), rng.random((60, D)) < 0.5
    known = {"observed": observed, "is_observed": is_observed}
    sequential = jax.jit(ancestral.sample)(key, MODEL, PARAMS, **known)
    parallel = jax.jit(ancestral.sample_parallel)(jax.random.clone(key), MODEL, PARAMS, **known)
    chex.assert_trees_all_equal(parallel.draws.x, sequential.x)


def test_observed_values_are_read_only_where_observed():
    u = np.random.default_rng(2).random((50, D), np.float32)
    nothing = np.zeros((50, D), bool)
    garbage = np.full((50, D), 10**6, np.int32)
    chex.assert_trees_all_equal(
        from_uniforms(PARAMS, u, garbage, nothing).x, from_uniforms(PARAMS, u).x
    )


def test_nan_logits_show_in_the_result():
    draws = from_uniforms(PARAMS.at[1].set(jnp.nan), np.full((2, D), 0.5, np.float32))
    assert (np.asarray(draws.x[:, 1]) == -1).all()
    assert np.isnan(draws.log_probs[:, 1]).all()


MANY = Independent(2, 300)


def test_many_symbols_are_drawn_as_they_score_whichever_way(key):
    logits = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    params = {"params": {"table": jnp.asarray(logits)}}
    draw = jax.jit(ancestral.sample, static_argnums=3)
    draws = draw(key, MANY, params, 5_000)
    counts = np.bincount(np.asarray(draws.x[:, 1]), minlength=300)
    sampling_checks.assert_frequencies(counts, scipy.special.softmax(logits[1].astype(float)))
    at_once = jax.jit(ancestral.sample_parallel, static_argnums=3)(
        jax.random.clone(key), MANY, params, 5_000
    )
    chex.assert_trees_all_equal(at_once.draws.x, draws.x)
    given = ancestral.sample(jax.random.clone(key), MANY, params, prompt=draws.x[:5, :1])
    chex.assert_trees_all_equal(given.x[:, 0], draws.x[:5, 0])


def test_sample_takes_its_size_from_what_is_observed(key):
    known = {"observed": np.ones((7, D), np.int32), "is_observed": np.zeros((7, D), bool)}
    draws = jax.eval_shape(lambda key: ancestral.sample(key, MODEL, PARAMS, **known), key)
    assert draws.x.shape == (7, D)


def test_bad_arguments_are_refused(key):
    u = jnp.zeros((2, D))
    with pytest.raises(ValueError, match=rf"u must have shape \(\*, {D}\), got \(2, 9\)"):
        ancestral.quantile(MODEL, PARAMS, jnp.zeros((2, 9)))
    with pytest.raises(ValueError, match="observed and is_observed go together, got no observed"):
        ancestral.quantile(MODEL, PARAMS, u, is_observed=jnp.zeros((2, D), bool))
    with pytest.raises(TypeError, match="is_observed must hold booleans, got dtype int32"):
        ancestral.quantile(
            MODEL,
            PARAMS,
            u,
            observed=jnp.zeros((2, D), jnp.int32),
            is_observed=jnp.zeros((2, D), jnp.int32),
        )
    with pytest.raises(ValueError, match="the prompt's length must be in"):
        ancestral.quantile(MODEL, PARAMS, u, prompt=jnp.zeros((2, D + 1), jnp.int32))
    with pytest.raises(ValueError, match=r"prompt must have shape \(2, \*\), got \(3, 1\)"):
        ancestral.quantile(MODEL, PARAMS, u, prompt=jnp.zeros((3, 1), jnp.int32))
    with pytest.raises(ValueError, match=r"prompt must have shape \(B, T\), got \(3,\); pass"):
        ancestral.sample(key, MODEL, PARAMS, prompt=jnp.zeros(3, jnp.int32))
    with pytest.raises(TypeError, match=r"prompt must hold symbols.* got text; encode it"):
        ancestral.sample(key, MODEL, PARAMS, prompt="To be")
    with pytest.raises(TypeError, match=r"model must have num_dims, .*parameters stand after"):
        ancestral.sample(key, {"params": PARAMS}, MODEL, 3)
    with pytest.raises(TypeError, match=r"got an object of type Dense; a Flax module becomes a m"):
        ancestral.quantile(nn.Dense(3), PARAMS, u)
    with pytest.raises(TypeError, match=r"write jax.random.key\(0\)"):
        ancestral.sample(0, MODEL, PARAMS, 3)
    with pytest.raises(ValueError, match="num_samples must be given when nothing is known"):
        ancestral.sample(key, MODEL, PARAMS)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        ancestral.sample(key, MODEL, PARAMS, 0)


@pytest.mark.parametrize(
    ("first", "expected"),
    [(1, [1, 8, 16, 24, 32, 48, 72, 100]), (20, [20, 24, 32, 48, 72, 100])],
)
def test_the_room_of_a_cache_grows_by_half(first, expected):
    ranges = ancestral._blocks(InBlocks(num_dims=100), first)
    assert [start for start, _ in ranges] + [ranges[-1][1]] == expected
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_uniforms_of_real_coordinates_are_never_an_end(monkeypatch, key):
    model = dataclasses.replace(MODEL, num_symbols=None)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.zeros(shape))
    u, _ = ancestral._uniforms(key, model, 2)
    assert np.all((np.asarray(u) > 0) & (np.asarray(u) < 1))


@dataclasses.dataclass(frozen=True)
class Beside(Conditional):
    """A real, uniform on the tenth above the one number that is said of it."""

    num_outputs: int = 1

    def log_prob(self, outputs, x):
        return jnp.where(
            (x >= outputs[..., 0]) & (x < outputs[..., 0] + 0.1), jnp.log(10), -jnp.inf
        )

    def quantile(self, outputs, u):
        return outputs[..., 0] + 0.1 * u


@dataclasses.dataclass(frozen=True)
class Halving(AutoregressiveModel):
    num_dims: int = 6
    num_symbols: int | None = None
    conditional: Conditional = Beside()

    def outputs(self, params, x, *, context=None):
        return jnp.pad(x[:, :-1] / 2, ((0, 0), (1, 0)))[..., None]


def test_reals_iterate_until_nothing_changes_unless_a_tolerance_is_given(key):
    """Each pass changes by half as much what comes next, and the last follows from five before."""
    draw = jax.jit(ancestral.sample_parallel, static_argnames=("num_samples", "tolerance"))
    assert draw(key, Halving(), None, num_samples=20).num_passes == 6
    key = jax.random.clone(key)
    assert 3 <= draw(key, Halving(), None, num_samples=20, tolerance=0.01).num_passes <= 5
    u = np.random.default_rng(7).random((20, 6), np.float32)
    assert jax.jit(ancestral.quantile_parallel)(Halving(), None, u).num_passes == 6


def test_a_prompt_is_told_both_log_probs_too():
    u = np.random.default_rng(3).random((4, D), np.float32)
    prompt = np.random.default_rng(4).integers(0, V, (4, 2)).astype(np.int32)
    sharp = functools.partial(temper, temperature=0.25)
    draws = ancestral.quantile(MODEL, PARAMS, u, prompt=prompt, transform_fn=sharp)
    chex.assert_trees_all_equal(draws.x[:, :2], prompt)
    chex.assert_trees_all_close(draws.log_probs, chosen_log_probs(draws.x), atol=1e-6, rtol=1e-7)
    sharpened = jax.nn.log_softmax(4 * logits_fn(PARAMS, draws.x))
    expected = jnp.take_along_axis(sharpened, draws.x[..., None], -1)[..., 0]
    chex.assert_trees_all_close(draws.transformed_log_probs, expected, atol=1e-5, rtol=1e-7)
