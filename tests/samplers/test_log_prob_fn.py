"""What is said of functions that are no log-densities, and what is taken as one."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers._adaptive_rejection import adaptive_rejection
from jaxgen.samplers._inverse_cdf._build import inverse_cdf

BUILDERS = [inverse_cdf, adaptive_rejection]
UNIT = (0.0, 1.0)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("number", [0.0, 0, np.float64(0)])
def test_a_plain_number_is_promoted(builder, number, key):
    built = builder(lambda _, x: number, None, support=UNIT)
    drawn = built.sample(key, (1000,))
    x = drawn if builder is inverse_cdf else drawn.samples
    assert 0.4 < np.mean(x) < 0.6
    if builder is inverse_cdf:
        assert abs(built.log_normalizer) < 1e-6
        chex.assert_trees_all_close(
            built.log_prob(jnp.array([0.3, 2.0])), np.array([0.0, -np.inf]), atol=1e-6, rtol=1e-7
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A pytree that is called, as an Equinox module is; not hashable."""

    scale: jax.Array

    def __call__(self, x):
        return -0.5 * (x / self.scale) ** 2


class Bound(Module):
    def __call__(self, _, x):
        return -0.5 * (x / self.scale) ** 2


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_module_is_passed_as_params(builder):
    with pytest.raises(TypeError, match=r"must be hashable.*params=module"):
        builder(Bound(jnp.float32(2.0)), None, support=UNIT)
    built = builder(lambda module, x: module(x), Module(jnp.float32(2.0)), support=UNIT)
    assert isinstance(built.params, Module)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_closing_over_traced_values_is_named(builder, transform):
    def build(scale):
        built = builder(lambda _, x: -x * scale, None, support=UNIT)
        return built.log_normalizer if builder is inverse_cdf else built.log_bound

    with pytest.raises(TypeError, match="must not close over traced values"):
        transform(build)(jnp.ones(2) if transform is jax.vmap else 1.0)


@pytest.mark.parametrize("builder", BUILDERS)
def test_arguments_in_the_other_order_are_named(builder):
    def by_name(x, params):
        return -0.5 * ((x - params["loc"]) / params["scale"]) ** 2

    def by_position(x, params):
        loc, scale = params
        return -0.5 * ((x - loc) / scale) ** 2

    def of_vector(x, weights):
        return -jnp.sum(weights * x[None] ** jnp.arange(3))

    arguments = [
        (by_name, {"loc": 0.0, "scale": 1.0}),
        (by_position, (0.0, 1.0)),
        (of_vector, jnp.ones(3)),
    ]
    for function, params in arguments:
        with pytest.raises(TypeError, match="only works as \\(x, params\\): swap"):
            builder(function, params, support=UNIT)


@pytest.mark.parametrize("builder", BUILDERS)
def test_other_mistakes_are_named(builder):
    cases = [
        ("abc", TypeError, "must be a function"),
        (lambda _, x: "abc", TypeError, "not a valid JAX type"),
        (lambda _, x: None, TypeError, "must return a number, got a NoneType"),
        (lambda _, x: x > 0, TypeError, "floating-point"),
        (lambda _, x: x * 1j, TypeError, "floating-point"),
        (lambda _, x: x.astype(int), TypeError, "floating-point"),
        (lambda _, x: jnp.stack([x, x]), ValueError, r"a scalar x, got shape \(2,\)"),
        (lambda _, x: undefined, NameError, "undefined"),  # noqa: F821
    ]
    for function, error, message in cases:
        with pytest.raises(error, match=message):
            builder(function, None, support=UNIT)
