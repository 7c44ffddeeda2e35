"""Expectations by quadrature over a table, against closed forms, and their gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats as st

from jaxgen.samplers._inverse_cdf._build import inverse_cdf

INF = float("inf")
LINE, HALF = (-INF, INF), (0.0, INF)


def normal(params, x):
    return -0.5 * ((x - params[0]) / params[1]) ** 2


def gamma(shape, x):
    return (shape - 1) * jnp.log(x) - x


def assert_within_its_error(estimate, exact, largest):
    error = np.asarray(estimate.error)
    assert np.all(np.abs(np.asarray(estimate.value, np.float64) - exact) <= error + 1e-12)
    assert np.all(error <= largest)


def test_smooth_functions_are_exact_to_rounding():
    table = inverse_cdf(normal, (0.5, 2.0), support=LINE)
    found = table.expectation(lambda x: jnp.stack([x, x**2, jnp.cos(x), jnp.exp(x)]))
    exact = [0.5, 4.25, np.exp(-2) * np.cos(0.5), np.exp(2.5)]
    assert_within_its_error(found, exact, 1e-5)
    table = inverse_cdf(gamma, 0.5, support=HALF)
    found = table.expectation(lambda x: jnp.stack([x, jnp.log(x)]))
    assert_within_its_error(found, [0.5, scipy.special.digamma(0.5)], 1e-5)


def test_what_is_not_smooth_shows_in_the_error():
    table = inverse_cdf(normal, (0.0, 1.0), support=LINE)
    found = table.expectation(lambda x: jnp.stack([jnp.abs(x - 0.3), 1.0 * (x > 0.7)]))
    assert_within_its_error(
        found, [2 * (st.norm.pdf(0.3) + 0.3 * st.norm.cdf(0.3)) - 0.3, st.norm.sf(0.7)], 0.2
    )
    assert np.all(found.error > 1e-6)


def test_a_mean_that_does_not_exist_has_an_infinite_error():
    table = inverse_cdf(lambda _, x: -jnp.log1p(x**2), None, support=LINE)
    found = table.expectation(lambda x: jnp.stack([x, x**2, jnp.sqrt(jnp.abs(x))]))
    chex.assert_trees_all_equal(np.isinf(found.error), np.array([True, True, False]))
    assert abs(found.value[2] - np.sqrt(2)) <= found.error[2]


def test_integers_and_scalars_are_values_too():
    table = inverse_cdf(normal, (0.0, 1.0), support=(-1.0, 1.0))
    chex.assert_trees_all_close(table.expectation(lambda x: 2).value, 2.0, rtol=1e-6)
    assert table.expectation(lambda x: jnp.ones((2, 0)) * x).value.shape == (2, 0)


def two_modes(params, x):
    logits, distance = params
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) - 0.5 * (x - distance * jnp.arange(2)) ** 2)


def test_gradients_between_modes_that_draws_do_not_cross():
    """d E[x] / d logits of modes 40 apart: 10 to either side, and by draws it is noise."""

    def mean(params, power):
        table = inverse_cdf(two_modes, params, support=(-20.0, 60.0))
        found = table.expectation(lambda x: x**2 + power * x)
        return found.value, (found.error, table.u_error)

    params = (jnp.zeros(2), jnp.float32(40.0))
    gradient = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))
    (value, (error, u_error)), ((logits, distance), power) = gradient(params, jnp.float32(3.0))
    # E[x² + 3 x] = w (d² + 3 d) + 1
    assert abs(value - 861) < max(0.5, error)
    assert u_error < 1e-4
    chex.assert_trees_all_close(logits, np.array([-430.0, 430.0]), rtol=1e-3)
    chex.assert_trees_all_close(distance, 41.5, rtol=1e-3)
    chex.assert_trees_all_close(power, 20.0, rtol=1e-3)


def test_float64(x64):
    table = inverse_cdf(gamma, 2.5, support=HALF)
    assert_within_its_error(table.expectation(lambda x: x**2), 2.5 * 3.5, 1e-10)


# Location far from scale


def cauchy(params, x):
    return -jnp.log1p(((x - params[0]) / params[1]) ** 2)


@pytest.mark.parametrize(
    ("log_prob_fn", "params", "law"),
    [(cauchy, (1e6, 1e-3), st.cauchy), (normal, (1e8, 1e-2), st.norm)],
)
def test_x_that_floats_cannot_hold_is_refused_and_its_offset_is_right(
    log_prob_fn, params, law, key
):
    table = inverse_cdf(log_prob_fn, params, support=LINE)
    assert table.x_error > 0.1
    with pytest.raises(ValueError, match=r"rounding moves .* of the mass"):
        table.sample(key, (3,))
    with pytest.raises(ValueError, match="x in float32 cannot hold this density"):
        table.quantile(0.3)
    assert np.isnan(jax.jit(lambda t: t.quantile(0.3))(table))
    is_upper, v = table.tail_uniforms(jax.random.clone(key), (4096,))
    offset = np.asarray(table.tail_offset(is_upper, v), np.float64)
    location = np.float64(table.cells.anchors[0]) - np.float32(params[0])
    z = (offset + location) / np.float64(np.float32(params[1]))
    exact = np.where(is_upper, law.isf(np.asarray(v)), law.ppf(np.asarray(v)))
    chex.assert_trees_all_close(z, exact, rtol=1e-4, atol=1e-5)


def test_x_that_floats_can_hold_is_given(key):
    table = inverse_cdf(normal, (1e4, 1.0), support=LINE)
    assert table.x_error < 1e-3
    assert np.all(np.isfinite(table.sample(key, (3,))))
