"""Every gradient estimator of every bound against the exact gradient.

Continuous: z ~ N(0, 1), x | z ~ N(a z, 0.7²), q(z | x) = N(m x, s²). With K = 2 the expectation of
a bound is a two-dimensional integral over the noise, which quadrature gives. Discrete: a Bernoulli
latent, where it is a sum over 2^K cases. So is the expectation of an estimator: each data point
is given the noise of a node, or a case, for its draws, and the bounds are weighed.
"""

import functools

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import _quadrature as quadrature
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives import _multi_sample as multi_sample
from jaxgen.objectives._multi_sample import elbo_bound, iwae, iwae_bound, multi_sample_bound

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

X = np.array([[0.8]], np.float32)


class Gaussian(LatentVariableModel):
    def prior(self, p, *, context=None):
        return distrax.MultivariateNormalDiag(jnp.zeros(1), jnp.ones(1))

    def posterior(self, p, x, *, context=None):
        scale = jnp.broadcast_to(jnp.exp(p["log_s"]), x.shape)
        return distrax.MultivariateNormalDiag(p["m"] * x, scale)

    def likelihood(self, p, z, *, context=None):
        return distrax.MultivariateNormalDiag(p["a"] * z, jnp.full(z.shape, 0.7))


GAUSSIAN = Gaussian()
GAUSSIAN_PARAMS = {"a": np.float32(1.3), "m": np.float32(0.4), "log_s": np.float32(-0.3)}


class Bernoulli(LatentVariableModel):
    def prior(self, p, *, context=None):
        return distrax.Bernoulli(logits=p["prior"])

    def posterior(self, p, x, *, context=None):
        return distrax.Bernoulli(logits=p["q"] * x[..., 0])

    def likelihood(self, p, z, *, context=None):
        mean = p["a"] * z.astype(jnp.float32)
        return distrax.Independent(distrax.Normal(mean[..., None], 0.7), 1)


BERNOULLI = Bernoulli()
BERNOULLI_PARAMS = {"prior": np.float32(0.2), "q": np.float32(-0.9), "a": np.float32(1.1)}


def log_w_at(model, params, z, beta=1.0):
    """Log-weights `[K, 1]` at given latents."""
    divergence = model.posterior(params, X).log_prob(z) - model.prior(params).log_prob(z)
    return model.likelihood(params, z).log_prob(X[None]) - beta * divergence


class Fixed:
    """A posterior of many data points whose draws are given: `draw_fn()` is `[K, N, ...]`."""

    def __init__(self, inner, draw_fn):
        self.inner, self.draw_fn, self.log_prob = inner, draw_fn, inner.log_prob

    def sample(self, *, seed, sample_shape):
        return self.draw_fn()[: sample_shape[0]]

    def sample_and_log_prob(self, *, seed, sample_shape):
        z = self.draw_fn()
        assert sample_shape == z.shape[:1]
        return z, self.log_prob(z)


RULE = quadrature.gauss_hermite(40)
NOISE = np.stack(np.meshgrid(RULE.nodes, RULE.nodes)).reshape(2, -1, 1)  # [K, N, 1]
NOISE_WEIGHTS = np.outer(RULE.weights, RULE.weights).ravel()
CASES = np.stack(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1)  # [K, N]


class GaussianAtNodes(Gaussian):
    """With two draws for a data point, those of node n for the n-th one."""

    def posterior(self, p, x, *, context=None):
        inner = super().posterior(p, x)
        return Fixed(inner, lambda: p["m"] * x + jnp.exp(p["log_s"]) * NOISE)


class BernoulliAtCases(Bernoulli):
    """With three draws for a data point, those of case n for the n-th one."""

    def posterior(self, p, x, *, context=None):
        return Fixed(super().posterior(p, x), lambda: jnp.asarray(CASES))


def mean_gradient(bounds_and_weights, params):
    """The gradient of Σ_n w_n L_n with w held; of fixed draws the mean of an estimator."""

    def total(params):
        bounds, weights = bounds_and_weights(params)
        return jnp.sum(bounds * jax.lax.stop_gradient(weights))

    return jax.jit(jax.grad(total))(jax.tree.map(np.float64, params))


def gaussian_mean(key, bound_fn, gradient, beta=1.0):
    x = np.repeat(np.float64(X), len(NOISE_WEIGHTS), axis=0)

    def bounds(params):
        options = {"num_samples": 2, "gradient": gradient, "beta": beta}
        bound = multi_sample_bound(key, bound_fn, GaussianAtNodes(), params, x, **options)
        return bound, NOISE_WEIGHTS

    return mean_gradient(bounds, GAUSSIAN_PARAMS)


def bernoulli_mean(key, bound_fn, gradient):
    x = np.repeat(np.float64(X), CASES.shape[1], axis=0)

    def bounds(params):
        options = {"num_samples": 3, "gradient": gradient}
        bound = multi_sample_bound(key, bound_fn, BernoulliAtCases(), params, x, **options)
        return bound, jnp.exp(jnp.sum(BERNOULLI.posterior(params, x).log_prob(CASES), axis=0))

    return mean_gradient(bounds, BERNOULLI_PARAMS)


def exact_gaussian_gradient(bound_fn, beta=1.0):
    def expected(params):
        z = params["m"] * X[None] + jnp.exp(params["log_s"]) * NOISE
        return bound_fn(log_w_at(GAUSSIAN, params, z, beta)), NOISE_WEIGHTS

    return mean_gradient(expected, GAUSSIAN_PARAMS)


def exact_bernoulli_gradient(bound_fn):
    def expected(params):
        log_q = jnp.sum(BERNOULLI.posterior(params, X).log_prob(CASES), axis=0)
        return jnp.exp(log_q) * bound_fn(log_w_at(BERNOULLI, params, CASES)), 1.0

    return mean_gradient(expected, BERNOULLI_PARAMS)


def draws(key, model, params, bound_fn, num_samples, gradient, num_draws):
    """Independent gradients of the bound of X, a dict of `[num_draws]`.

    A draw is a data point, each with parameters of its own.
    """
    options = {"num_samples": num_samples, "gradient": gradient}
    shape = (num_draws, 1) if isinstance(model, Gaussian) else (num_draws,)
    own = jax.tree.map(lambda leaf: np.full(shape, leaf), params)
    x = np.full((num_draws, 1), X)

    @jax.jit
    @jax.grad
    def gradients(params, key):
        return jnp.sum(multi_sample_bound(key, bound_fn, model, params, x, **options))

    return {name: np.ravel(leaf) for name, leaf in gradients(own, key).items()}


def assert_equal_gradients(found, exact):
    for name in exact:
        assert abs(exact[name]) > 0.01
    chex.assert_trees_all_close(found, exact, rtol=1e-4)  # what the rule leaves


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("bound_fn", "beta"), [(elbo_bound, 1.0), (iwae_bound, 1.0), (iwae_bound, 0.5)]
)
@pytest.mark.parametrize(
    "gradient", ["reparameterized", "doubly_reparameterized", "score_function", "vimco"]
)
def test_unbiased_on_a_gaussian_latent(key, bound_fn, beta, gradient):
    found = gaussian_mean(key, bound_fn, gradient, beta)
    assert_equal_gradients(found, exact_gaussian_gradient(bound_fn, beta))


def sinking_bound(log_w):
    """A bound below the ELBO that falls where a weight is large; slopes may be negative."""
    return 3 * elbo_bound(log_w) - 2 * iwae_bound(log_w)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("bound_fn", "beta"), [(iwae_bound, 0.5), (sinking_bound, 1.0)])
@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_unbiased_through_one_resampled_sample(key, bound_fn, beta, gradient, monkeypatch):
    """Each data point takes every choice once, weighed with the probability that it has."""
    x = np.repeat(np.float64(X), len(NOISE_WEIGHTS), axis=0)
    options = {"num_samples": 2, "gradient": gradient, "beta": beta, "resample": True}

    def bounds(params, shift):
        chances = []

        def choose(key, logits, axis):
            index = (jnp.arange(len(x)) + shift) % 2  # of its own for each data point
            chances.append(jax.nn.softmax(logits, axis)[index, jnp.arange(len(x))])
            return index

        with monkeypatch.context() as patched:
            patched.setattr(jax.random, "categorical", choose)
            bound = multi_sample_bound(key, bound_fn, GaussianAtNodes(), params, x, **options)
        return bound, NOISE_WEIGHTS * chances[0]

    with jax.debug_key_reuse(False):
        found = mean_gradient(
            lambda p: tuple(map(jnp.stack, zip(bounds(p, 0), bounds(p, 1), strict=True))),
            GAUSSIAN_PARAMS,
        )
    assert_equal_gradients(found, exact_gaussian_gradient(bound_fn, beta))


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_resampling_evaluates_one_sample_backwards(key, gradient):
    def work(resample):
        def value(p, key):
            options = {"num_samples": 50, "gradient": gradient, "resample": resample}
            return jnp.sum(iwae(key, model, p, jnp.zeros((4, 20), jnp.int32), **options))

        return jax.jit(jax.grad(value)).lower(params, key).cost_analysis()["flops"]

    model = VAE(num_dims=20, num_symbols=2, num_latents=3, hidden_sizes=(64,))
    params = jax.eval_shape(model.init, key, jnp.zeros((1, 20), jnp.int32))
    assert work(True) < 0.5 * work(False)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bound_fn", [elbo_bound, iwae_bound])
@pytest.mark.parametrize("gradient", ["score_function", "vimco"])
def test_unbiased_on_a_discrete_latent(key, bound_fn, gradient):
    found = bernoulli_mean(key, bound_fn, gradient)
    assert_equal_gradients(found, exact_bernoulli_gradient(bound_fn))


def test_the_learning_signal_is_the_bound_less_that_with_a_weight_put_to_the_mean_of_others():
    log_w = np.float32([[0.3], [-1.2], [0.9]])

    @jax.jit
    @jax.grad
    def signal(log_q):
        return jnp.sum(
            multi_sample._scored(jnp.asarray(log_w), log_q, iwae_bound, has_baseline=True)
        )

    expected = []
    for k in range(3):
        without = log_w.copy()
        without[k] = np.delete(log_w, k, axis=0).mean()
        expected.append(np.log(np.mean(np.exp(log_w))) - np.log(np.mean(np.exp(without))))
    np.testing.assert_allclose(signal(np.zeros((3, 1)))[:, 0], expected, rtol=1e-4)


def test_baseline_lowers_the_variance(key):
    first, second = jax.random.split(key)
    plain = draws(first, BERNOULLI, BERNOULLI_PARAMS, iwae_bound, 3, "score_function", 10_000)["q"]
    vimco = draws(second, BERNOULLI, BERNOULLI_PARAMS, iwae_bound, 3, "vimco", 10_000)["q"]
    assert np.var(vimco) < 0.2 * np.var(plain)


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(key):
    a, noise = 1.3, 0.7
    variance = 1 / (1 + a**2 / noise**2)
    exact = {
        "a": np.float32(a),
        "m": np.float32(variance * a / noise**2),
        "log_s": np.float32(0.5 * np.log(variance)),
    }
    first, second = jax.random.split(key)
    landing = draws(first, GAUSSIAN, exact, elbo_bound, 1, "doubly_reparameterized", 1000)
    plain = draws(second, GAUSSIAN, exact, elbo_bound, 1, "reparameterized", 1000)
    for name in ("m", "log_s"):
        assert np.std(landing[name]) < 1e-5
        assert np.std(plain[name]) > 0.1


def signal_to_noise(key, num_samples, gradient):
    m = np.asarray(
        draws(key, GAUSSIAN, GAUSSIAN_PARAMS, iwae_bound, num_samples, gradient, 100_000)["m"],
        np.float64,
    )
    return abs(m.mean()) / m.std()


def test_signal_to_noise_grows_with_dreg_and_falls_without(key):
    keys = jax.random.split(key, 4)
    plain = [signal_to_noise(k, n, "reparameterized") for k, n in zip(keys, (1, 16), strict=False)]
    dreg = [
        signal_to_noise(k, n, "doubly_reparameterized")
        for k, n in zip(keys[2:], (1, 16), strict=True)
    ]
    # Rainforth et al. (2018): like 1/√K and, for DReG, √K; 16 samples move them by up to 4.
    assert plain[1] < 0.5 * plain[0]
    assert dreg[1] > 2.0 * dreg[0]


bound_of_four = jax.jit(
    functools.partial(iwae, num_samples=4), static_argnames=("gradient", "resample")
)


@pytest.mark.parametrize(
    "gradient", ["reparameterized", "doubly_reparameterized", "score_function", "vimco"]
)
def test_value_does_not_depend_on_the_gradient(key, gradient):
    again = jax.random.clone(key)
    value = bound_of_four(key, GAUSSIAN, GAUSSIAN_PARAMS, X, gradient=gradient)
    expected = bound_of_four(again, GAUSSIAN, GAUSSIAN_PARAMS, X)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)


def test_iwae_is_the_importance_weighted_bound_and_a_model_is_no_static_argument(key):
    again = jax.random.clone(key)
    value = bound_of_four(key, GAUSSIAN, GAUSSIAN_PARAMS, X)
    bound = jax.jit(functools.partial(multi_sample_bound, num_samples=4), static_argnums=1)
    expected = bound(again, iwae_bound, GAUSSIAN, GAUSSIAN_PARAMS, X)
    chex.assert_trees_all_close(value, expected, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_resampling_leaves_the_value_a_draw_of_the_bound(key, gradient):
    sample_key, _ = jax.random.split(jax.random.clone(key))
    options = {"gradient": gradient}
    value = bound_of_four(key, GAUSSIAN, GAUSSIAN_PARAMS, X, **options, resample=True)
    expected = bound_of_four(sample_key, GAUSSIAN, GAUSSIAN_PARAMS, X, **options)
    chex.assert_trees_all_close(value, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_softmax_over_losses_would_be_seen(key):
    """The fault of a popular implementation: weights that favour the worst samples."""

    def wrong(log_w):
        return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(-log_w, axis=0)) * log_w, axis=0)

    found = gaussian_mean(key, wrong, "reparameterized")
    with pytest.raises(AssertionError):
        assert_equal_gradients(found, exact_gaussian_gradient(iwae_bound))


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_discrete_latents_have_no_pathwise_gradient(key, gradient):
    with pytest.raises(ValueError, match=r"model.posterior must give continuous samples"):
        iwae(key, BERNOULLI, BERNOULLI_PARAMS, X, num_samples=2, gradient=gradient)


def test_weights_of_a_mixture_have_no_pathwise_gradient(key):
    class Mixture(Gaussian):
        def posterior(self, p, x, *, context=None):
            signs = jnp.array([1.0, -1.0])
            logits = p["w"] * signs * jnp.ones((*x.shape[:1], 2))
            means = (p["m"] * signs)[None, :, None] * jnp.ones((*x.shape[:1], 2, 1))
            return distrax.MixtureSameFamily(
                distrax.Categorical(logits=logits), distrax.MultivariateNormalDiag(means)
            )

    params = {"w": np.float32(0.3), "m": np.float32(1.0), "a": np.float32(1.0)}
    with pytest.raises(ValueError, match=r"must be differentiable in \['w'\]"):
        iwae(key, Mixture(), params, X, num_samples=2)


def test_a_draw_of_weight_zero_does_not_count():
    inf = np.inf
    log_w = np.float32([[0.5, -inf, -1.0], [0.5, -inf, -inf], [-inf, -inf, -inf]]).T

    def surrogate(log_q, has_baseline):
        return multi_sample._scored(
            jnp.asarray(log_w[:, :2]), log_q, iwae_bound, has_baseline=has_baseline
        )[0]

    @jax.jit
    def look(log_q):
        gradients = [jax.grad(surrogate)(log_q, has_baseline) for has_baseline in (True, False)]
        return multi_sample._leave_one_out(iwae_bound, jnp.asarray(log_w)), gradients

    baseline, gradients = look(np.zeros((3, 2)))
    expected = np.log((np.exp([-1.0, 0.5, 0.5]) + np.exp([-1.0, -1.0, 0.5])) / 3)
    expected[1] = np.log((np.exp(0.5) + np.exp(-0.25) + np.exp(-1.0)) / 3)
    chex.assert_trees_all_close(baseline[:, 0], expected, rtol=1e-5)
    chex.assert_trees_all_equal(baseline[0, 1], 0.0)  # no other draw says anything
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_no_weight_at_all_has_no_gradient_along_a_resampled_path(key):
    nothing = jnp.full((2, 1), -np.inf)

    def bound(theta):
        return multi_sample._resampled(
            key,
            lambda _: (jnp.zeros((2, 1)), jnp.zeros((2, 1))),
            lambda z, log_q: nothing,
            lambda z, log_q, ratio: jnp.where(log_q > 0, theta, -np.inf),
            iwae_bound,
            1.0,
        )[0]

    value, gradient = jax.value_and_grad(bound)(0.5)
    assert (value, gradient) == (-np.inf, 0.0)


def test_bad_arguments_are_refused(key):
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        iwae(key, GAUSSIAN, GAUSSIAN_PARAMS, X, num_samples=1, gradient="vimco")
    with pytest.raises(ValueError, match="gradient must be one of reparameterized"):
        iwae(key, GAUSSIAN, GAUSSIAN_PARAMS, X, num_samples=1, gradient="best")
    for gradient in ("vimco", "score_function"):
        with pytest.raises(ValueError, match=f"resample must be False for gradient='{gradient}'"):
            iwae(
                key,
                GAUSSIAN,
                GAUSSIAN_PARAMS,
                X,
                num_samples=2,
                gradient=gradient,
                resample=True,
            )
