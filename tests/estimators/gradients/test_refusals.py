"""What cannot be estimated raises: no estimator returns a silent zero."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.estimators._gradients._dependence import moved_parameters, reached_parameters
from jaxgen.estimators._gradients._measure_valued import gaussian_triples, measure_valued
from jaxgen.estimators._gradients._pathwise import implicit, pathwise
from jaxgen.estimators._gradients._relaxations import straight_through
from jaxgen.estimators._gradients._score_function import score_function

PARAMS = {"p": jnp.array([0.3, 0.6]), "shift": jnp.array([1.0, 2.0])}


def uniforms(key, num_samples):
    return jax.random.uniform(key, (num_samples, 2))


def smooth(params, x):
    return jnp.sum(x**2)


def bits(params, u):
    return (u < params["p"]).astype(jnp.float32)


@pytest.mark.parametrize(
    "transform_fn",
    [
        lambda p, u: bits(p, u) + p["shift"],
        lambda p, u: jnp.where(u < p["p"], p["shift"], -p["shift"]),
        lambda p, u: jnp.round(p["p"] + u) + p["shift"],
        lambda p, u: jax.lax.stop_gradient(p["p"]) + p["shift"] * u,
        jax.jit(lambda p, u: bits(p, u) + p["shift"]),
    ],
)
def test_pathwise_names_the_parameter_that_is_cut(transform_fn, key):
    with pytest.raises(ValueError, match=r"transform_fn must be differentiable in \['p'\]"):
        pathwise(key, smooth, uniforms, transform_fn, PARAMS, 10)


def test_pathwise_refuses_discrete_samples(key):
    with pytest.raises(ValueError, match="continuous samples"):
        pathwise(key, smooth, uniforms, lambda p, u: (u < p["p"]).astype(int), PARAMS, 10)


def test_pathwise_refuses_a_step_function(key):
    with pytest.raises(ValueError, match="f must be differentiable"):
        pathwise(
            key,
            lambda p, x: jnp.sum(x > 0.5).astype(jnp.float32),
            uniforms,
            lambda p, u: u * p["p"] + p["shift"],
            PARAMS,
            10,
        )


def test_implicit_refuses_a_distribution_function_that_misses_a_parameter(key):
    def draw(key, params, num_samples):
        return params["shift"][None] + params["p"][None] * uniforms(key, num_samples)

    with pytest.raises(ValueError, match=r"cdf_fn must be differentiable in \['p'\]"):
        implicit(key, smooth, draw, lambda p, x: x - p["shift"], PARAMS, 10)


def test_score_function_refuses_a_density_that_misses_a_parameter(key):
    def draw(key, params, num_samples):
        return params["p"][None] * uniforms(key, num_samples)

    def log_prob(params, x):
        return -jnp.sum(jnp.log(jax.lax.stop_gradient(params["p"])))

    with pytest.raises(ValueError, match=r"log_prob_fn must be differentiable in \['p'\]"):
        score_function(key, smooth, draw, log_prob, PARAMS, 10)


def test_parameters_that_only_the_function_sees_are_no_mistake(key):
    estimate = pathwise(
        key,
        lambda p, x: jnp.sum(x * p["shift"]),
        uniforms,
        lambda p, u: u * p["p"],
        PARAMS,
        10,
    )
    assert jnp.all(estimate.value["shift"] != 0)


def test_straight_through_refuses_a_table(key):
    table = jnp.arange(3.0)
    with pytest.raises(ValueError, match="f must be differentiable"):
        straight_through(
            key, lambda p, x: table[jnp.argmax(x)], lambda logits: logits, jnp.zeros(3), 10
        )


def test_measure_valued_refuses_other_parameters(key):
    params = {"mean": jnp.zeros(2), "log_scale": jnp.zeros(2)}
    with pytest.raises(ValueError, match="exactly mean, scale"):
        measure_valued(key, smooth, gaussian_triples, params, 10)
    with pytest.raises(ValueError, match=r"params\['mean'\] must have shape"):
        measure_valued(key, smooth, gaussian_triples, {"mean": 0.0, "scale": 1.0}, 10)


def test_score_function_names_its_mistakes(key):
    def draw(key, params, num_samples):
        return uniforms(key, num_samples)

    with pytest.raises(ValueError, match="baseline must be one of"):
        score_function(key, smooth, draw, smooth, PARAMS, 10, baseline="mean")
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        score_function(key, smooth, draw, smooth, PARAMS, 1)


def test_dependence_is_read_through_calls_and_loops():
    def looped(params):
        return jax.lax.fori_loop(0, 3, lambda i, x: x * params["p"], params["shift"])

    assert moved_parameters(looped, PARAMS) == {"['p']", "['shift']"}
    assert reached_parameters(looped, PARAMS) == {"['p']", "['shift']"}
    unused = jax.jit(lambda params: (params["p"], params["shift"]))
    assert moved_parameters(lambda params: unused(params)[0], PARAMS) == {"['p']"}
