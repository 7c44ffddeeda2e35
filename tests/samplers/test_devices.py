"""Samplers on several devices: the same bits on any number, and rows of their own on each."""

import functools

import chex
import jax
import numpy as np
import pytest
import sampler_cases
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sampler_cases import CASES, EXCLUDED, NUM_ROWS

import jaxgen as jg

ROWS = PartitionSpec("data")
# A CPU that multiplies and adds at once does not round in between, and whether the compiler makes
# one of the two depends on the shapes on a device. Where it does not optimize, it seldom does.
AS_WRITTEN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# Their draws are those of another case, put through one function of each number.
DERIVED = {"beta": "beta_log_odds", "dirichlet": "log_dirichlet", "gamma": "log_gamma"}
# Every number of these comes from its own row alone: between devices nothing moves.
ROW_BY_ROW = {
    "beta_quantile",
    "categorical_quantile",
    "gamma_quantile",
    "logits",
    "poisson_quantile",
    "rejection_from_uniforms",
    "student_t_quantile",
    "truncated_normal_quantile",
}
# Made of gamma, binomial and Poisson draws.
MADE_OF_OTHERS = {"beta_log_odds", "log_dirichlet", "multinomial", "negative_binomial", "student_t"}
# What is set up in the program that draws may differ in its last bits even so. Draws from a hull or
# a table that was set up before, which are cases too, do not.
SET_UP_INSIDE = {"adaptive_rejection", "inverse_cdf_in_a_trace"}
# Long polynomials too, which the compiler may still round otherwise.
LAST_BITS = {"beta_quantile", *SET_UP_INSIDE}
ON_EIGHT_ALONE = ROW_BY_ROW | MADE_OF_OTHERS | SET_UP_INSIDE
DEVICES = [
    (name, num_devices)
    for name in CASES
    for num_devices in (2, 8)
    if name not in DERIVED and (num_devices == 8 or name not in ON_EIGHT_ALONE)
]
MANY = 2**20  # enough that the rejected are gathered, and in groups


def mesh_of(num_devices):
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((num_devices,), ("data",), devices=devices, axis_types=(AxisType.Auto,))


def on_a_mesh(fn, num_devices, key, *rows):
    """The compiled program whose rows, those of the result too, are spread over devices."""
    mesh = mesh_of(num_devices)
    everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, ROWS)

    def sharding(leaf):
        return spread if leaf.ndim and leaf.shape[0] % num_devices == 0 else everywhere

    shapes = jax.eval_shape(fn, key, *rows)
    return jax.jit(
        fn,
        in_shardings=(everywhere, *[spread] * len(rows)),
        out_shardings=jax.tree.map(sharding, shapes),
        compiler_options=AS_WRITTEN,
    )


@functools.cache
def drawn(name, num_devices):
    case, key = CASES[name], jax.random.key(0)
    program = on_a_mesh(case.fn, num_devices, key, *case.rows)
    return jax.tree.map(np.asarray, program(jax.random.clone(key), *case.rows))


def test_every_public_sampler_has_a_case():
    called = {name for case in CASES.values() for name in case.names}
    assert called | set(EXCLUDED) == set(jg.samplers.__all__)
    assert not called & set(EXCLUDED)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_devices"), DEVICES)
def test_draws_are_the_same_on_any_number_of_devices(name, num_devices):
    found, expected = drawn(name, num_devices), drawn(name, 1)
    if name in LAST_BITS:
        chex.assert_trees_all_close(found, expected, rtol=5e-7)
    else:
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_axes_that_are_explicit_may_be_left_to_the_compiler():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    case, key = CASES["log_gamma"], jax.random.key(0)
    with jax.set_mesh(mesh):
        fn = jax.sharding.auto_axes(case.fn, axes=("data",), out_sharding=ROWS)
        rows = jax.device_put(case.rows, NamedSharding(mesh, ROWS))
        found = jax.jit(fn)(jax.random.clone(key), *rows)
    assert jax.typeof(found).sharding.spec == ROWS
    chex.assert_trees_all_close(found, case.fn(key, *case.rows), rtol=1e-6)


def many_by_rejection(key):
    proposal = sampler_cases.box(1.0)
    log_bound = np.log(2.0)
    drawn = jg.samplers.rejection(key, sampler_cases.log_quartic, 1.0, proposal, log_bound, (MANY,))
    return drawn.samples


MANY_DRAWS = {
    "gamma": (jg.samplers.gamma, (np.linspace(0.5, 3.0, MANY, dtype=np.float32),)),
    "uniforms": (lambda key: jg.samplers.iid_uniforms(key, MANY), ()),
    "rejection": (many_by_rejection, ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY_DRAWS)
def test_each_of_eight_devices_does_an_eighth_of_the_work(name):
    fn, rows = MANY_DRAWS[name]
    found, flops = [], []
    for num_devices in (1, 8):
        key = jax.random.key(2)
        program = on_a_mesh(fn, num_devices, key, *rows).lower(key, *rows).compile()
        flops.append(program.cost_analysis()["flops"])
        places = program.input_shardings[0]
        args = jax.device_put((jax.random.clone(key), *rows), tuple(places))
        found.append(np.asarray(program(*args)))
    assert flops[1] <= flops[0] / 7.5
    np.testing.assert_array_equal(*found)


def on_each_device(fn, num_devices):
    """Each device draws with a key of its own for its own rows, as if alone."""

    def local(keys, *rows):
        return jax.tree.map(lambda leaf: leaf[None], fn(keys[0], *rows))

    return jax.shard_map(local, mesh=mesh_of(num_devices), in_specs=ROWS, out_specs=ROWS)


def keys_of(num_devices):
    return jax.random.split(jax.random.key(1), num_devices)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rows_and_keys_may_differ_between_devices(name):
    """What begins a loop as a constant must be let vary, or `shard_map` refuses the program."""
    case = CASES[name]
    jax.eval_shape(jax.jit(on_each_device(case.fn, 2)), keys_of(2), *case.rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log_gamma", "rejection", "sample"])
def test_each_device_draws_as_it_would_alone(name):
    case = CASES[name]
    together = jax.jit(on_each_device(case.fn, 2))(keys_of(2), *case.rows)
    alone = jax.jit(case.fn)
    for i, key in enumerate(keys_of(2)):
        half = slice(i * NUM_ROWS // 2, (i + 1) * NUM_ROWS // 2)
        expected = alone(key, *(rows[half] for rows in case.rows))
        found = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
