"""Every gradient estimator of every bound against the exact gradient.

Continuous: z ~ N(0, 1), x | z ~ N(a z, 0.7²), q(z | x) = N(m x, s²). With K = 2 the expectation of
a bound is a two-dimensional integral over the noise, which quadrature gives. Discrete: a Bernoulli
latent, where it is a sum over 2^K cases.
"""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_checks

from jaxgen.core import _quadrature as quadrature
from jaxgen.core._contracts import LatentVariableModel
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives import _multi_sample as multi_sample
from jaxgen.objectives._multi_sample import elbo_bound, iwae, iwae_bound, multi_sample_bound

pytestmark = pytest.mark.usefixtures("distrax_broadcasting", "optimized")

# Enough that four standard errors are below 1 % of the gradient.
NUM_DRAWS = {
    "reparameterized": 750_000,
    "doubly_reparameterized": 750_000,
    "score_function": 9_000_000,
    "vimco": 1_500_000,
}
CHUNK = 750_000
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


def exact_gaussian_gradient(bound_fn, beta=1.0):
    rule = quadrature.gauss_hermite(40)
    first, second = (grid.ravel() for grid in np.meshgrid(rule.nodes, rule.nodes))
    noise = np.stack([first, second], 1)[..., None, None].astype(np.float32)
    weights = np.outer(rule.weights, rule.weights).ravel().astype(np.float32)

    def expected(params):
        def one(eps):
            z = params["m"] * X[None] + jnp.exp(params["log_s"]) * eps
            return bound_fn(log_w_at(GAUSSIAN, params, z, beta))[0]

        return jnp.sum(weights * jax.vmap(one)(noise))

    return jax.jit(jax.grad(expected))(GAUSSIAN_PARAMS)


def exact_bernoulli_gradient(bound_fn, num_samples):
    cases = np.stack(np.meshgrid(*[[0, 1]] * num_samples), -1).reshape(-1, num_samples, 1)

    def expected(params):
        def one(z):
            log_q = jnp.sum(BERNOULLI.posterior(params, X).log_prob(z))
            return jnp.exp(log_q) * bound_fn(log_w_at(BERNOULLI, params, z))[0]

        return jnp.sum(jax.vmap(one)(cases))

    return jax.jit(jax.grad(expected))(BERNOULLI_PARAMS)


def draws(key, model, params, bound_fn, num_samples, gradient, num_draws=None, **options):
    """Independent gradients of the bound of X, a dict of `[num_draws]`.

    A draw is a data point, each with parameters of its own.
    """
    options |= {"num_samples": num_samples, "gradient": gradient}
    num_draws = num_draws or NUM_DRAWS[gradient]
    chunk = min(CHUNK, num_draws)
    shape = (chunk, 1) if isinstance(model, Gaussian) else (chunk,)
    own = jax.tree.map(lambda leaf: np.full(shape, leaf), params)
    x = np.full((chunk, 1), X)

    @jax.jit
    @jax.grad
    def gradients(params, key):
        return jnp.sum(multi_sample_bound(key, bound_fn, model, params, x, **options))

    chunks = [gradients(own, k) for k in jax.random.split(key, num_draws // chunk)]
    return {name: np.concatenate([c[name].ravel() for c in chunks]) for name in params}


def assert_unbiased(sampled, exact):
    """Means agree, with errors small enough to see a fault of 1 % of the gradient."""
    size = np.linalg.norm([float(value) for value in exact.values()])
    for name in exact:
        values = np.asarray(sampled[name], np.float64)
        error = values.std() / len(values) ** 0.5
        assert 4 * error < 0.01 * size, f"error {error / size:.3g} of {name} is too large"
        sampling_checks.assert_mean(values, exact[name], rounding=1e-4)


@pytest.mark.parametrize(
    ("bound_fn", "beta"), [(elbo_bound, 1.0), (iwae_bound, 1.0), (iwae_bound, 0.5)]
)
@pytest.mark.parametrize(
    "gradient", ["reparameterized", "doubly_reparameterized", "score_function", "vimco"]
)
def test_unbiased_on_a_gaussian_latent(key, bound_fn, beta, gradient):
    sampled = draws(key, GAUSSIAN, GAUSSIAN_PARAMS, bound_fn, 2, gradient, beta=beta)
    assert_unbiased(sampled, exact_gaussian_gradient(bound_fn, beta))


def sinking_bound(log_w):
    """A bound below the ELBO that falls where a weight is large; slopes may be negative."""
    return 3 * elbo_bound(log_w) - 2 * iwae_bound(log_w)


@pytest.mark.parametrize(("bound_fn", "beta"), [(iwae_bound, 0.5), (sinking_bound, 1.0)])
@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_unbiased_through_one_resampled_sample(key, bound_fn, beta, gradient):
    # Many data points, each of which must be given the sample that was chosen for it.
    options = {"beta": beta, "resample": True}
    sampled = draws(key, GAUSSIAN, GAUSSIAN_PARAMS, bound_fn, 2, gradient, **options)
    assert_unbiased(sampled, exact_gaussian_gradient(bound_fn, beta))


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_resampling_evaluates_one_sample_backwards(key, gradient):
    def work(resample):
        def value(p, key):
            options = {"num_samples": 50, "gradient": gradient, "resample": resample}
            return jnp.sum(iwae(key, model, p, jnp.zeros((4, 20), jnp.int32), **options))

        return jax.jit(jax.grad(value)).lower(params, key).cost_analysis()["flops"]

    model = VAE(num_dims=20, num_symbols=2, num_latents=3, hidden_sizes=(64,))
    params = jax.jit(model.init)(jax.random.clone(key), jnp.zeros((1, 20), jnp.int32))
    assert work(True) < 0.5 * work(False)


@pytest.mark.parametrize("bound_fn", [elbo_bound, iwae_bound])
@pytest.mark.parametrize("gradient", ["score_function", "vimco"])
def test_unbiased_on_a_discrete_latent(key, bound_fn, gradient):
    sampled = draws(key, BERNOULLI, BERNOULLI_PARAMS, bound_fn, 3, gradient, 1_500_000)
    assert_unbiased(sampled, exact_bernoulli_gradient(bound_fn, 3))


def test_the_learning_signal_is_the_bound_less_that_with_a_weight_put_to_the_mean_of_others():
    log_w = np.float32([[0.3], [-1.2], [0.9]])

    def total(log_q):
        return jnp.sum(
            multi_sample._scored(jnp.asarray(log_w), log_q, iwae_bound, has_baseline=True)
        )

    expected = []
    for k in range(3):
        without = log_w.copy()
        without[k] = np.delete(log_w, k, axis=0).mean()
        expected.append(np.log(np.mean(np.exp(log_w))) - np.log(np.mean(np.exp(without))))
    found = jax.grad(total)(jnp.zeros((3, 1)))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)


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
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_iwae_is_the_importance_weighted_bound_and_a_model_is_no_static_argument(key):
    again = jax.random.clone(key)
    value = bound_of_four(key, GAUSSIAN, GAUSSIAN_PARAMS, X)
    bound = jax.jit(functools.partial(multi_sample_bound, num_samples=4), static_argnums=1)
    expected = bound(again, iwae_bound, GAUSSIAN, GAUSSIAN_PARAMS, X)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_resampling_leaves_the_value_a_draw_of_the_bound(key, gradient):
    sample_key, _ = jax.random.split(jax.random.clone(key))
    options = {"gradient": gradient}
    value = bound_of_four(key, GAUSSIAN, GAUSSIAN_PARAMS, X, **options, resample=True)
    expected = bound_of_four(sample_key, GAUSSIAN, GAUSSIAN_PARAMS, X, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_softmax_over_losses_would_be_seen(key):
    """The fault of a popular implementation: weights that favour the worst samples."""

    def wrong(log_w):
        return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(-log_w, axis=0)) * log_w, axis=0)

    sampled = draws(key, GAUSSIAN, GAUSSIAN_PARAMS, wrong, 2, "reparameterized")
    with pytest.raises(AssertionError):
        assert_unbiased(sampled, exact_gaussian_gradient(iwae_bound))


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
    log_w = jnp.array([[0.5, -jnp.inf, -1.0], [0.5, -jnp.inf, -jnp.inf], [-jnp.inf] * 3]).T
    baseline = multi_sample._leave_one_out(iwae_bound, log_w)
    expected = np.log((np.exp([-1.0, 0.5, 0.5]) + np.exp([-1.0, -1.0, 0.5])) / 3)
    expected[1] = np.log((np.exp(0.5) + np.exp(-0.25) + np.exp(-1.0)) / 3)
    np.testing.assert_allclose(baseline[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(baseline[0, 1], 0.0)  # no other draw says anything

    def surrogate(log_q, has_baseline):
        return multi_sample._scored(log_w[:, :2], log_q, iwae_bound, has_baseline=has_baseline)[0]

    for has_baseline in (True, False):
        gradient = jax.grad(surrogate)(jnp.zeros((3, 2)), has_baseline)
        assert np.isfinite(gradient).all()


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
