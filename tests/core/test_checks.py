import jax
import jax.numpy as jnp
import pytest

from jaxgen.core import _checks as checks


def test_legacy_key_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"key must be a typed key.*wrap_key_data"):
        checks.check_key(jax.random.PRNGKey(0))


def test_a_seed_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"got 7 of type int; write jax.random.key\(7\)"):
        checks.check_key(7)


@pytest.mark.parametrize("not_a_key", [0, None, "seed"])
def test_what_is_no_key_is_refused(not_a_key):
    with pytest.raises(TypeError, match="must be a typed key"):
        checks.check_key(not_a_key)


def test_array_of_keys_is_refused(key):
    with pytest.raises(ValueError, match=r"one key of shape \(\), got keys of shape \(3,\)"):
        checks.check_key(jax.random.split(key, 3))


def test_typed_key_passes_inside_transformations(key):
    @jax.jit
    def draw(k):
        checks.check_key(k)
        return jax.random.uniform(k)

    jax.vmap(draw)(jax.random.split(key, 2))


def test_errors_name_argument_value_and_remedy():
    with pytest.raises(ValueError, match=r"x must have rank 2, got shape \(3,\)"):
        checks.check_rank("x", jnp.zeros(3), 2)
    with pytest.raises(ValueError, match=r"x must have rank 1 or 2, got shape \(\)"):
        checks.check_rank("x", jnp.zeros(()), (1, 2))
    with pytest.raises(ValueError, match=r"u must have shape \(\*, 4\), got \(3, 5\)"):
        checks.check_shape("u", jnp.zeros((3, 5)), (None, 4))
    with pytest.raises(TypeError, match="x must hold integers, got dtype float32"):
        checks.check_integer_array("x", jnp.zeros(3))
    with pytest.raises(TypeError, match="logits must hold floating-point numbers, got dtype int32"):
        checks.check_float_array("logits", jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        checks.check_count("num_samples", 0)
    with pytest.raises(ValueError, match="num_samples must be a multiple of 8, got 12"):
        checks.check_multiple("num_samples", 12, 8)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        checks.check_multiple("num_samples", 0, 8)
    with pytest.raises(ValueError, match=r"rate must be in \(0.0, 1.0\], got 0.0"):
        checks.check_in_range("rate", 0.0, 0.0, 1.0, open_lower=True)
    with pytest.raises(ValueError, match="kind must be one of a, b, got 'c'"):
        checks.check_one_of("kind", "c", ["a", "b"])


def test_sizes_are_a_tuple():
    checks.check_sizes("hidden_sizes", (3, 4))
    for sizes in ([3], 3):
        with pytest.raises(TypeError, match="hidden_sizes must be a tuple of integers such as"):
            checks.check_sizes("hidden_sizes", sizes)
    with pytest.raises(ValueError, match="hidden_sizes must be at least 1, got 0"):
        checks.check_sizes("hidden_sizes", (3, 0))


@pytest.mark.parametrize("count", [2.0, True, "3"])
def test_count_must_be_an_integer(count):
    with pytest.raises(TypeError, match="num_samples must be a Python integer"):
        checks.check_count("num_samples", count)


def test_range_refuses_nan():
    with pytest.raises(ValueError, match="got nan"):
        checks.check_in_range("rate", float("nan"), 0.0, 1.0)


def test_matching_arguments_pass():
    checks.check_shape("x", jnp.zeros((3, 4)), (None, 4))
    checks.check_rank("x", jnp.zeros((3, 4)), (1, 2))
    checks.check_in_range("rate", 0.5, 0.0, 1.0)
    checks.check_count("num_samples", 1)
    checks.check_multiple("num_samples", 16, 8)
