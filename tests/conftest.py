"""Strictness for the whole suite: silent broadcasting and reused keys are errors."""

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Compilation makes first calls slow, and examples must not change from run to run.
hypothesis.settings.register_profile("jaxgen", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxgen")


@pytest.fixture
def key():
    """A typed key; every test starts from the same one."""
    return jax.random.key(20261122)


@pytest.fixture
def x64():
    """Run the test with float64 as the default dtype."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def distrax_broadcasting():
    """Let ranks be promoted: distrax's own code does so inside."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def quick_compiler():
    """For what takes most of its time to compile, and is not looked at closely."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # or later tests would run what was compiled here
