import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks
import scipy.stats

from jaxgen.samplers._beta import beta, beta_log_odds

draw = jax.jit(lambda key, a, b: beta(key, a, b, (100_000,)))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2.0, 5.0)])
def test_samples_follow_the_beta_distribution(a, b, key):
    x = draw(key, a, b)
    sampling_checks.assert_distribution(x, scipy.stats.beta(a, b).cdf)


def test_swapped_concentrations_are_seen(key):
    x = draw(key, 2.0, 2.1)
    with pytest.raises(AssertionError, match="CDF distance"):
        sampling_checks.assert_distribution(x, scipy.stats.beta(2.1, 2.0).cdf)


def test_log_odds_tell_apart_what_rounds_to_an_end(key):
    logit = np.asarray(beta_log_odds(key, 0.05, 0.05, (20_000,)), np.float64)
    assert np.all(np.isfinite(logit))
    assert np.unique(logit).size > 19_900  # sigmoid would merge about a third of them
    far = np.sort(logit[logit > 16])  # 1 − x ≈ exp(−logit), and (1 − x)^β is uniform there
    sampling_checks.assert_distribution(np.exp(-0.05 * (far - 16)), lambda v: v)


def test_gradient_of_the_mean_agrees_with_closed_form(key):
    keys = jax.random.split(key, 1000)
    mean = lambda a, b, k: jnp.mean(beta(k, a, b, (16,)))  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(mean, (0, 1)), (None, None, 0)))(2.0, 3.0, keys)
    sampling_checks.assert_mean(gradients[0], 3 / 25)  # E[x] = a / (a + b)
    sampling_checks.assert_mean(gradients[1], -2 / 25)
