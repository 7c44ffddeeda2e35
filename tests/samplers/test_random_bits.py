import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.samplers._random_bits import (
    random_bits,
    random_rows,
    stored_random_bits,
    tail_uniforms,
)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
def test_words_are_those_of_jax(key, shape):
    assert (random_bits(jax.random.clone(key), shape) == jax.random.bits(key, shape)).all()


def test_long_words_are_those_of_jax(key, x64):
    words = random_bits(jax.random.clone(key), (5,), jnp.uint64)
    assert (words == jax.random.bits(key, (5,), jnp.uint64)).all()


@pytest.mark.parametrize("num_words", [5, 2**14, 2**14 + 3, 100_000])
def test_stored_words_are_the_same(key, num_words):
    words = jax.jit(stored_random_bits, static_argnums=1)(jax.random.clone(key), (num_words,))
    assert (words == random_bits(key, (num_words,))).all()


def test_stored_words_are_the_same_in_a_map_over_keys(key):
    keys = jax.random.split(key, 3)
    words = jax.vmap(lambda k: stored_random_bits(k, (2**14,)))(jax.random.clone(keys))
    assert (words == jax.vmap(lambda k: random_bits(k, (2**14,)))(keys)).all()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_rows_are_the_words_cut_into_rows(impl):
    rows = random_rows(jax.random.key(2, impl=impl), 3, 5)
    assert (rows.ravel() == random_bits(jax.random.key(2, impl=impl), (15,))).all()


def test_keys_of_other_generators_are_served():
    words = random_bits(jax.random.key(1, impl="rbg"), (4,))
    assert (words == jax.random.bits(jax.random.key(1, impl="rbg"), (4,))).all()


def test_a_reused_key_is_caught(key):
    random_bits(key, (2,))
    with pytest.raises(jax.errors.KeyReuseError):
        stored_random_bits(key, (2**14,))


def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match="dtype must be uint32 or uint64"):
        random_bits(key, (2,), jnp.int32)
    with pytest.raises(ValueError, match="fewer than"):
        random_bits(key, (2**20, 2**12))
    with pytest.raises(TypeError, match="typed key"):
        random_bits(jnp.zeros(2, jnp.uint32), (2,))


def test_tail_uniforms_are_uniform(key):
    u = np.asarray(tail_uniforms(key, (100, 100)))
    assert u.shape == (100, 100)
    sampling_checks.assert_distribution(u, lambda x: x)
    assert len(np.unique(u)) > 9_900
