"""Strictness for the whole suite: silent broadcasting and reused keys are errors."""

import ctypes
import functools
import gc
import os
import pathlib

import hypothesis
import jax
import pytest
from jax._src.interpreters import mlir

from experiments._compilation_cache import keep_compiled_programs

# Read where NumPy is imported: by workers and the processes that tests start. Matrices are small,
# and the threads of one product wait for each other, and for those of the other worker.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
keep_compiled_programs()
jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all else is on the first
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Compilation makes first calls slow, and examples must not change from run to run.
hypothesis.settings.register_profile("jaxgen", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxgen")


def share_lowering_context(make_context):
    """Lower programs in one context: to make its dialects for each takes longer than most need.

    A program that is lowered amid another keeps to one of its own.
    """
    shared = functools.cache(make_context)

    def context():
        try:
            outer = mlir.ir.Context.current
        except ValueError:
            outer = None
        return shared() if outer is None else make_context()

    context.cache_clear = shared.cache_clear
    return context


mlir.make_ir_context = share_lowering_context(mlir.make_ir_context)


def pytest_addoption(parser):
    parser.addoption(
        "--quick-compiler",
        action="store_true",
        help="let XLA leave out most optimizations: most of the suite's time is compilation",
    )


def pytest_configure(config):
    if not config.getoption("quick_compiler"):
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # for the processes that tests start
    # Programs are small: one cut up for several threads costs more than it saves.
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
    if jax.__version_info__ < (0, 11):  # later, there are no emitters but those
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags


def pytest_collection_finish():
    gc.freeze()  # what is imported stays: the collector need not look at it again and again
    # Tracing makes many objects that live: few of the collector's rounds find anything.
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True)
def bounded_memory():
    """Forget the compiled programs, a megabyte or two each, before they fill the memory."""
    yield
    if resident_bytes() > 2**30:
        jax.clear_caches()
        mlir.make_ir_context.cache_clear()  # it holds every constant that was lowered in it
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes():
    """The memory of this process; 0 where there is no /proc, nor a limit then."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


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
def optimized():
    """For what runs longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
