import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import _likelihood_terms as terms

LOGITS = np.array([-1e4, -80.0, -5.0, -1e-3, 0.0, 1e-3, 5.0, 80.0, 1e4], np.float32)


@pytest.mark.parametrize("bit", [0.0, 1.0])
def test_bernoulli_agrees_with_float64(bit):
    wide = LOGITS.astype(np.float64)
    reference = -np.logaddexp(0.0, -wide if bit else wide)
    chex.assert_trees_all_close(
        terms.bernoulli_log_prob(LOGITS, np.full_like(LOGITS, bit)), reference, rtol=3e-7
    )


def test_bernoulli_sums_to_one():
    total = sum(
        jnp.exp(terms.bernoulli_log_prob(LOGITS, jnp.full_like(LOGITS, b))) for b in (0.0, 1.0)
    )
    chex.assert_trees_all_close(total, 1.0, rtol=1e-6)


def test_bernoulli_gradients_agree_with_autodiff_of_the_formula():
    logits, x = np.linspace(-6.0, 6.0, 9, dtype="f4"), np.linspace(0.0, 1.0, 9, dtype="f4")

    def formula(logits, x):
        terms_of = x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits)
        return jnp.sum(terms_of)

    def ours(logits, x):
        return jnp.sum(terms.bernoulli_log_prob(logits, x))

    def derivatives(function):
        second = jax.grad(lambda a, x: jnp.sum(jax.grad(function)(a, x)))
        return lambda a, x: (jax.grad(function, (0, 1))(a, x), second(a, x))

    both = jax.jit(lambda a, x: (derivatives(ours)(a, x), derivatives(formula)(a, x)))
    chex.assert_trees_all_close(*both(logits, x), atol=1e-6, rtol=1e-7)


def test_bernoulli_gradient_is_finite_where_the_log_prob_is_huge():
    grads = jax.vmap(jax.grad(terms.bernoulli_log_prob))(LOGITS, np.ones_like(LOGITS))
    assert np.all(np.isfinite(grads))


def test_low_precision_logits_give_float32():
    logits = jnp.array([1.0, -2.0], jnp.bfloat16)
    assert terms.bernoulli_log_prob(logits, jnp.ones(2)).dtype == jnp.float32
    assert terms.categorical_log_prob(logits, jnp.array(1)).dtype == jnp.float32


def test_categorical_agrees_with_log_softmax_and_forbids():
    logits = jnp.array([[0.5, -jnp.inf, 2.0], [1e4, 0.0, -1e4]])
    for symbol in range(3):
        x = jnp.full(2, symbol)
        chex.assert_trees_all_close(
            terms.categorical_log_prob(logits, x), jax.nn.log_softmax(logits)[:, symbol], rtol=1e-6
        )


@pytest.mark.parametrize("symbol", [-1, 3])
def test_symbol_outside_gives_nan(symbol):
    assert jnp.isnan(terms.categorical_log_prob(jnp.zeros(3), jnp.array(symbol)))


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="x must hold integers"):
        terms.categorical_log_prob(jnp.zeros(3), jnp.array(1.0))
    with pytest.raises(TypeError, match="logits must hold floating-point"):
        terms.bernoulli_log_prob(jnp.array(1), jnp.array(1.0))


def test_two_symbols_are_a_softmax_like_any_other():
    logits = 8 * np.random.default_rng(0).standard_normal((50, 2), np.float32)
    x = np.arange(50) % 2

    def plain(logits):
        return jax.nn.log_softmax(logits)[np.arange(50), x]

    def ours(logits):
        return terms.categorical_log_prob(logits, x)

    @jax.jit
    def with_gradient(logits):
        return [(f(logits), jax.grad(lambda a, f=f: jnp.sum(f(a)))(logits)) for f in (ours, plain)]

    found, expected = with_gradient(logits)
    chex.assert_trees_all_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert np.isfinite(found[1]).all()
    chex.assert_trees_all_close(found[1], expected[1], atol=1e-6, rtol=1e-7)


def test_one_of_two_symbols_can_be_forbidden():
    logits = jnp.array([[-jnp.inf, 3.0], [2.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
    log_p = [terms.categorical_log_prob(logits, jnp.full(3, x)) for x in (0, 1, 2, -1)]
    chex.assert_trees_all_equal(log_p[0], np.array([-np.inf, 0.0, np.nan]))
    chex.assert_trees_all_equal(log_p[1], np.array([0.0, -np.inf, np.nan]))
    assert np.isnan(log_p[2]).all()
    assert np.isnan(log_p[3]).all()
