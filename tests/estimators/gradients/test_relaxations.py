import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._quadrature import gauss_legendre
from jaxgen.estimators._gradients._relaxations import gumbel_softmax, straight_through

LOGITS = jnp.array([0.4, -0.3])


def identity(params):
    return params


def square(params, x):
    return (2 * x[0] + 1) ** 2


def within(estimate, exact, num_errors=4):
    return np.all(
        np.abs(np.asarray(estimate.value) - exact)
        < num_errors * np.asarray(estimate.standard_error) + 1e-6
    )


def test_straight_through_is_unbiased_where_the_function_is_linear(key):
    slope = jnp.array([3.0, -1.0])
    estimate = straight_through(key, lambda _, x: slope @ x, identity, LOGITS, 1000)
    exact = jax.grad(lambda logits: slope @ jax.nn.softmax(logits))(LOGITS)
    chex.assert_trees_all_close(estimate.value, exact, rtol=1e-5)


def test_straight_through_has_the_bias_of_the_derivative_at_the_sample(key):
    # f(0) = 1 and f(1) = 9 with slopes 4 and 12 there: E[slope] replaces the difference 8.
    estimate = straight_through(key, square, identity, LOGITS, 100_000)
    p = jax.nn.sigmoid(LOGITS[0] - LOGITS[1])
    exact = np.array([8 * p * (1 - p), -8 * p * (1 - p)])
    stated = exact / 8 * float(12 * p + 4 * (1 - p))
    assert within(estimate, stated)
    assert not within(estimate, exact, 10)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gumbel_softmax_is_unbiased_for_its_relaxed_objective(temperature, key):
    estimate = gumbel_softmax(key, square, identity, LOGITS, 1_000_000, temperature=temperature)
    rule = gauss_legendre(-40.0, 40.0, 20, 100)  # the difference of two Gumbels is logistic
    density = np.exp(-np.abs(rule.nodes)) / (1 + np.exp(-np.abs(rule.nodes))) ** 2
    x = 1 / (1 + np.exp(-(rule.nodes + 0.7) / temperature))
    slope = rule.weights @ (density * 4 * (2 * x + 1) * x * (1 - x) / temperature)
    exact = np.array([slope, -slope])
    assert within(estimate, exact)
    assert np.all(4 * np.asarray(estimate.standard_error) < 0.01 * slope)


def test_gumbel_softmax_bias_falls_and_variance_grows_as_it_cools(key):
    p = float(jax.nn.sigmoid(LOGITS[0] - LOGITS[1]))
    exact = 8 * p * (1 - p)
    bias, error = [], []
    for temperature in (2.0, 0.5, 0.1):
        estimate = gumbel_softmax(key, square, identity, LOGITS, 200_000, temperature=temperature)
        bias.append(abs(float(estimate.value[0]) - exact))
        error.append(float(estimate.standard_error[0]))
    assert bias[0] > bias[1] > bias[2]
    assert error[0] < error[1] < error[2]


def test_samples_are_one_hot_and_follow_the_logits(key):
    """A function of the parameters and x at once sees exact one-hot values."""
    estimate = straight_through(
        key,
        lambda params, x: jax.lax.stop_gradient(x[0]) * params[0] + 0 * x[1],
        identity,
        LOGITS,
        100_000,
    )
    p = float(jax.nn.sigmoid(LOGITS[0] - LOGITS[1]))
    assert within(estimate, np.array([p, 0.0]))


def test_temperature_must_be_positive(key):
    with pytest.raises(ValueError, match="temperature must be in"):
        gumbel_softmax(key, square, identity, LOGITS, 10, temperature=0.0)
