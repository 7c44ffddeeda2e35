import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._arrays import as_reals, as_symbols, nan_unless

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]


@pytest.mark.parametrize("num_symbols", [2, 127, 128, 256, 257, 65536])
@pytest.mark.parametrize("dtype", DTYPES)
def test_symbols_are_themselves_in_every_dtype_and_minus_one_outside(dtype, num_symbols):
    limits = np.iinfo(dtype)
    candidates = [
        limits.min,
        -1,
        0,
        1,
        127,
        128,
        255,
        256,
        num_symbols - 1,
        num_symbols,
        limits.max,
    ]
    x = np.array([v for v in candidates if limits.min <= v <= limits.max])
    expected = np.where((x >= 0) & (x < num_symbols), x, -1)
    symbols = as_symbols("x", x.astype(dtype), num_symbols)
    chex.assert_trees_all_equal(symbols, expected)
    assert symbols.dtype == jnp.int32


def test_wide_symbols_do_not_wrap(x64):
    x = jnp.array([2**32 + 1, -(2**32), 2**63 - 1, 5])
    chex.assert_trees_all_equal(as_symbols("x", x, 10), np.array([-1, -1, -1, 5]))


def test_booleans_are_bits_and_what_is_no_integer_is_refused():
    chex.assert_trees_all_equal(as_symbols("x", np.array([True, False]), 2), np.array([1, 0]))
    with pytest.raises(TypeError, match="prompt must hold integers, got dtype float32"):
        as_symbols("prompt", jnp.ones(2), 2)
    with pytest.raises(TypeError, match="prompt must be an array of numbers, got 'abc'"):
        as_symbols("prompt", "abc", 2)


def test_reals_are_promoted_and_complex_numbers_refused():
    for x in (np.ones(2, bool), np.ones(2, np.int8), jnp.ones(2, jnp.bfloat16), [1, 1]):
        reals = as_reals("x", x)
        assert reals.dtype == jnp.float32
        chex.assert_trees_all_equal(reals, 1)
    with pytest.raises(TypeError, match="x must be real, got dtype complex64"):
        as_reals("x", jnp.ones(2, jnp.complex64))


@pytest.mark.parametrize("fn", [jnp.exp, jax.nn.softmax, jax.nn.sigmoid, jnp.expm1])
def test_nan_shows_through_whatever_is_fused_with_it(fn):
    # As users' programs are compiled, whatever the suite's own are.
    options = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }
    if jax.__version_info__ < (0, 11):  # later, there are no emitters but those
        options["xla_cpu_use_fusion_emitters"] = True
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    is_valid = np.array([True, False, False, True])[:, None]

    def masked(is_valid, x):
        return fn(nan_unless(is_valid, x))

    y = jax.jit(masked).lower(is_valid, x).compile(options)(is_valid, x)
    chex.assert_trees_all_equal(np.isnan(y), np.broadcast_to(~is_valid, y.shape))
    chex.assert_trees_all_close(y[0], fn(x[0]), rtol=1e-6)


def test_what_is_not_valid_gets_no_gradient():
    gradient = jax.grad(lambda x: jnp.sum(nan_unless(x > 1, x)))(jnp.array([0.0, 2.0]))
    chex.assert_trees_all_equal(gradient, np.array([0, 1]))
