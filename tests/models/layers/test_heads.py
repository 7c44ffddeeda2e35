import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgen.models.layers import heads


def test_bernoulli_is_the_sigmoid_of_its_output():
    p = jax.nn.softmax(heads.Bernoulli().logits(jnp.array([[-2.0], [0.0], [3.0]])))
    np.testing.assert_allclose(p[:, 1], scipy.special.expit([-2.0, 0.0, 3.0]), rtol=1e-6)


def test_ordinal_sums_its_increments():
    logits = heads.Ordinal(3).logits(jnp.array([1.0, 2.0, -4.0]))
    np.testing.assert_allclose(logits, [1.0, 3.0, -1.0])


@pytest.mark.parametrize(
    "head", [heads.Bernoulli(), heads.Categorical(2), heads.Ordinal(4)], ids=str
)
def test_outputs_undo_logits(head):
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05]])[:, : head.num_symbols]
    p /= p.sum(-1, keepdims=True)
    again = jax.nn.softmax(head.logits(head.outputs(jnp.log(p))))
    np.testing.assert_allclose(again, p, rtol=1e-5)


def mixture_by_hand(outputs, num_symbols, num_components):
    """The integral over each cell, in float64, by differences of the CDF."""
    weights, means, log_scales = np.split(np.asarray(outputs, np.float64), 3)
    weights = scipy.special.softmax(weights)
    edges = (np.arange(1, num_symbols) - 0.5) * 2 / (num_symbols - 1) - 1
    cdf = scipy.special.expit((edges[:, None] - means) / np.exp(log_scales)) @ weights
    return np.diff(cdf, prepend=0.0, append=1.0)


@pytest.mark.parametrize(("num_symbols", "num_components"), [(2, 1), (256, 5)])
def test_logistic_mixture_integrates_each_cell(num_symbols, num_components, key):
    head = heads.LogisticMixture(num_symbols, num_components)
    outputs = jax.random.normal(key, (head.num_outputs,)) - jnp.repeat(
        jnp.array([0.0, 0.0, 2.0]), num_components
    )
    p = jnp.exp(head.logits(outputs))
    np.testing.assert_allclose(p.sum(), 1.0, atol=1e-5)
    expected = mixture_by_hand(outputs, num_symbols, num_components)
    np.testing.assert_allclose(p, expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 0.0, 20.0])
@pytest.mark.parametrize("mean", [-50.0, -1.0, 0.1, 40.0])
def test_logistic_mixture_is_finite_and_normalised_at_extremes(mean, log_scale):
    def log_p(outputs):
        return heads.LogisticMixture(256, 1).logits(outputs)

    outputs = jnp.array([0.0, mean, log_scale])
    np.testing.assert_allclose(jax.nn.logsumexp(log_p(outputs)), 0.0, atol=1e-4)
    assert np.isfinite(log_p(outputs)).all()
    assert np.isfinite(jax.jacobian(log_p)(outputs)).all()


def test_bad_heads_are_refused():
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        heads.LogisticMixture(256, 0)
    with pytest.raises(ValueError, match="head must be able to say any distribution"):
        heads.LogisticMixture(4).outputs(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"outputs must have shape \(4, 3\), got \(4, 2\)"):
        heads.Categorical(3).logits(jnp.zeros((4, 2)))
