"""Every latent-variable model through the conformance suite: a new model adds a row."""

import copy
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest

from jaxgen.core import _quadrature as quadrature
from jaxgen.core._log_mean_exp import log_mean_exp
from jaxgen.models._context import Covariates, Labels
from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._shared_normal import SharedNormal
from jaxgen.models.latent._deep_hierarchical import DeepHierarchicalVAE, Scale
from jaxgen.models.latent._discrete import DiscreteVAE
from jaxgen.models.latent._hierarchical import HierarchicalVAE
from jaxgen.models.latent._posteriors import FlowPosterior, InverseCDFPosterior
from jaxgen.models.latent._priors import FlowPrior, MixtureOfNormals, VampPrior
from jaxgen.models.latent._vae import VAE
from jaxgen.models.layers._convolutions import Convolutions
from jaxgen.models.layers._flows import InverseAutoregressive, SplineCoupling
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._multi_sample import log_weights
from jaxgen.objectives._quadrature import quadrature_log_prob

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")


class Row(NamedTuple):
    """A model, its space of z, and what estimates its ELBO's gradient."""

    model: Any
    z_space: conformance.Space
    estimators: tuple[str, ...] = ()
    tolerance: float = 1e-5
    noise: float = 0.4
    context: Any = None


def two_modes(theta, y):
    """A density that no location and scale make normal."""
    return jnp.logaddexp(theta[0] - 0.5 * (y - 1.0) ** 2, -0.5 * (y + 1.0) ** 2)


SPLINE = SplineCoupling(num_steps=2, num_bins=3, hidden_size=3)
IAF = FlowPosterior(InverseAutoregressive(num_steps=2, hidden_size=4))
TABLES = InverseCDFPosterior(two_modes, (0.5,))
LINE, PLANE = conformance.line(), conformance.plane()
ROWS = {
    "vae_bernoulli": Row(VAE(3, 2, 1, (5,)), LINE, ("analytic",)),
    "vae_categorical": Row(VAE(2, 3, 1, (6, 4)), LINE),
    "vae_convolutional": Row(
        VAE(4, 2, 1, (3,), Convolutions((2, 2), (2,)), prior_family=VampPrior(2)),
        LINE,
        ("monte_carlo",),
    ),
    "vae_logistic": Row(
        VAE(1, 6, 1, (3,), conditional=LogisticMixture(6, 2), prior_family=MixtureOfNormals(2)),
        LINE,
    ),
    "vae_tables": Row(
        VAE(1, None, 1, (3,), posterior_family=TABLES),
        LINE,
        ("monte_carlo",),
    ),
    "vae_flows": Row(
        VAE(2, 2, 2, (3,), prior_family=FlowPrior(SPLINE), posterior_family=IAF),
        PLANE,
        ("monte_carlo",),
        tolerance=4e-4,  # the rule's nodes do not know the splines' knots
        noise=0.3,
    ),
    "hierarchical": Row(
        HierarchicalVAE(2, 2, (1, 1), ((3,), (2,))),
        conformance.pair(),
        ("doubly_reparameterized",),
        tolerance=1e-4,
    ),
    "deep_hierarchical": Row(
        DeepHierarchicalVAE(4, 2, (2, 2), (Scale(2, 3, 2, 2, 1),)),
        conformance.pair(),
        ("analytic", "reparameterized"),
        tolerance=1e-4,
    ),
    "discrete": Row(
        DiscreteVAE(2, 2, 2, 3, None, (4,)), conformance.every_symbol(2, 3), ("vimco",)
    ),
    "labels": Row(
        VAE(2, 2, 1, (3,), conditioning=Labels(2)), LINE, ("analytic",), noise=0.6, context=1
    ),
    "covariates": Row(
        DiscreteVAE(2, 2, 2, 2, None, (4,), conditioning=Covariates(2)),
        conformance.every_symbol(2, 2),
        noise=1.0,
        context=np.array([0.5, -1.0], np.float32),
    ),
    "relaxed": Row(
        DiscreteVAE(2, 2, 1, 2, 0.7, (4,)),
        conformance.simplex(),
        ("reparameterized",),
        1e-4,
        noise=1.0,
    ),
}
# Tables compile for longest; gradients through their draws are held against closed forms in
# tests/samplers/test_inverse_cdf.py.
SLOW = {"vae_tables": pytest.mark.slow}
GRADIENTS = [
    pytest.param(name, estimator, marks=SLOW.get(name, ()))
    for name, row in ROWS.items()
    for estimator in row.estimators
]


@functools.cache
def built(name):
    row = ROWS[name]
    model = row.model
    if model.num_symbols is None:
        x_space = conformance.line()
        x = np.array([[-1.2], [0.3], [2.0]], np.float32)
    else:
        x_space = conformance.every_symbol(model.num_dims, model.num_symbols)
        x = x_space.points
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: row.noise * random.normal(size=leaf.shape).astype(np.float32), shapes
    )
    return conformance.Case(model, params, x, x_space, row.z_space, row.context)


@functools.cache
def measured(name):
    return conformance.measure(built(name), jax.random.key(2))


@pytest.mark.parametrize("name", ROWS)
def test_sums_to_one(name):
    conformance.check_sums_to_one(built(name), measured(name), ROWS[name].tolerance)


@pytest.mark.parametrize("name", ROWS)
def test_a_model_is_traced_once_however_often_it_is_built(name):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda model, x: x + model.num_dims, n=1))
    for again in (ROWS[name].model, copy.deepcopy(ROWS[name].model)):
        traced(again, 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_shapes(name):
    conformance.check_shapes(built(name))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "check",
    [
        conformance.check_samples,
        conformance.check_weights_are_unbiased,
        conformance.check_bounds_are_ordered,
    ],
)
def test_draws(name, check):
    check(built(name), measured(name))


@pytest.mark.parametrize(("name", "estimator"), GRADIENTS)
def test_elbo_gradient(name, estimator, key):
    conformance.check_gradient(built(name), key, estimator)


# The suite itself is tried on models that are wrong in the ways published code is wrong.


class _Changed:
    """A distribution with some methods replaced."""

    def __init__(self, distribution, **methods):
        self._distribution, self._methods = distribution, methods

    def __getattr__(self, name):
        return self._methods.get(name) or getattr(self._distribution, name)


class UnnormalizedLikelihood(conformance.Wrapped):
    """A likelihood off by a factor, as when probabilities are fed for logits."""

    def likelihood(self, params, z, *, context=None):
        inner = self.inner.likelihood(params, z, context=context)
        return _Changed(inner, log_prob=lambda x: inner.log_prob(x) * 0.9)


class ForgottenLogDeterminant(conformance.Wrapped):
    """A posterior that scales its sample and forgets the log-determinant."""

    def posterior(self, params, x, *, context=None):
        inner = self.inner.posterior(params, x, context=context)

        def sample_and_log_prob(seed, sample_shape):
            z, log_q = inner.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
            return 1.3 * z, log_q

        return _Changed(inner, sample_and_log_prob=sample_and_log_prob)


class FlippedKL(conformance.Wrapped):
    """A KL term that is added where it should be taken off."""

    def posterior(self, params, x, *, context=None):
        inner = self.inner.posterior(params, x, context=context)
        return _Changed(inner, kl_divergence=lambda prior: -inner.kl_divergence(prior))


def test_unnormalized_likelihood_is_caught():
    case = built("vae_bernoulli")
    case = case._replace(model=UnnormalizedLikelihood(case.model))
    with pytest.raises(AssertionError, match="the joint sums to"):
        conformance.check_sums_to_one(case, conformance.measure(case, jax.random.key(2)))


def test_forgotten_log_determinant_is_caught():
    case = built("vae_bernoulli")
    case = case._replace(model=ForgottenLogDeterminant(case.model))
    measured = conformance.measure(case, jax.random.key(2))
    with pytest.raises(AssertionError, match="standard errors away"):
        conformance.check_weights_are_unbiased(case, measured)
    with pytest.raises(AssertionError):
        conformance.check_samples(case, measured)


def test_flipped_kl_is_caught(key):
    case = built("vae_bernoulli")
    case = case._replace(model=FlippedKL(case.model))
    with pytest.raises(AssertionError, match="standard errors away"):
        conformance.check_gradient(case, key, "analytic")


def test_softmax_over_losses_is_caught():
    log_w = measured("vae_bernoulli").log_w
    swapped = [-log_mean_exp(-log_w.reshape(-1, k, log_w.shape[1]), axis=1) for k in (1, 5, 50)]
    with pytest.raises(AssertionError, match="exceeds the next"):
        conformance.check_bounds_are_ordered(
            built("vae_bernoulli"), measured("vae_bernoulli")._replace(bounds=tuple(swapped))
        )


def test_wrong_data_is_refused():
    case = built("vae_bernoulli")
    with pytest.raises(TypeError, match="x must hold integers, got dtype float32"):
        case.model.posterior(case.params, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"conditional must be over num_symbols=2, got SharedNor"):
        VAE(3, 2, 1, (5,), conditional=SharedNormal()).init(jax.random.key(0), jnp.zeros((1, 3)))


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (VAE(4, 2, 1, (3,)), "bool"),
        (VAE(4, 256, 1, (3,)), "uint8"),
        (VAE(4, 257, 1, (3,), conditional=LogisticMixture(257, 1)), "uint8"),
        (DeepHierarchicalVAE(4, 128, (2, 2), (Scale(2, 3, 2, 2, 1),)), "int8"),
        (DiscreteVAE(4, 256, 2, 3, None, (4,)), "uint8"),
    ],
    ids=["bits", "256", "257", "deep_128", "discrete_256"],
)
def test_symbols_of_a_narrow_dtype_are_the_same(model, dtype):
    """Also where V is no number of the dtype."""
    largest = 1 if dtype == "bool" else min(model.num_symbols - 1, np.iinfo(dtype).max)
    x = np.array([[largest, 0, 1, 0], [1, largest, largest, 0]])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes)

    @functools.partial(jax.jit, compiler_options=conformance.QUICK)
    def weigh(params, x):
        return log_weights(jax.random.key(1), model, params, x, num_samples=2)

    narrow, wide = weigh(params, x.astype(dtype)), weigh(params, x)
    chex.assert_trees_all_equal(narrow, wide)
    assert np.isfinite(wide).all()


def test_each_row_has_its_context():
    case = built("labels")
    rule = quadrature.gauss_legendre(-9.0, 9.0, 12, num_panels=12)
    exact = jax.jit(
        lambda p, context: quadrature_log_prob(case.model, p, case.x, rule, context=context)
    )
    none, zero, one = (np.asarray(exact(case.params, label)) for label in (None, 0, 1))
    found = exact(case.params, jnp.array([0, 1, 1, 2]))
    expected = np.array([zero[0], one[1], one[2], none[3]])  # the last label stands for no class
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-7)
    assert np.abs(zero - one).min() > 0.01
    chex.assert_trees_all_close(one, measured("labels").log_prob, atol=1e-4, rtol=1e-7)


@pytest.mark.parametrize("name", ["vae_convolutional", "hierarchical", "relaxed", "vae_logistic"])
def test_every_model_takes_a_context(name):
    """What enters the model changes what it says, of a posterior as of a likelihood."""
    model, x = ROWS[name].model.clone(conditioning=Covariates(1)), built(name).x
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)

    @functools.partial(jax.jit, compiler_options=conformance.QUICK)
    def means(params, context):
        posterior = model.posterior(params, x, context=context)
        z = model.prior(params).sample(seed=jax.random.key(1), sample_shape=(len(x),))
        log_prob = model.likelihood(params, z, context=context).log_prob(x)
        return posterior.sample(seed=jax.random.key(0)), log_prob

    both = [means(params, jnp.array([value])) for value in (-1.0, 1.0)]
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        assert np.abs(one - other).max() > 1e-3
    with pytest.raises(ValueError, match="context must be given"):
        model.posterior(params, x)
    with pytest.raises(ValueError, match="context must be None for a model without conditioning"):
        built(name).model.posterior(built(name).params, x, context=jnp.array([1.0]))


@pytest.mark.parametrize("name", [name for name in ROWS if name != "vae_tables"])
def test_no_rows_give_no_bounds(name):
    model = ROWS[name].model
    context = ROWS[name].context
    x = jnp.zeros((0, model.num_dims), jnp.int32)

    def bounds(key):
        params = model.init(key, jnp.zeros((1, model.num_dims), jnp.int32), context)
        value = elbo(key, model, params, x, kl="monte_carlo", context=context).value
        return value, log_weights(key, model, params, x, num_samples=2, context=context)

    with jax.debug_key_reuse(False):
        value, log_w = jax.eval_shape(bounds, jax.random.key(0))
    assert (value.shape, log_w.shape) == ((0,), (2, 0))


def test_what_does_not_fit_a_model_is_refused():
    model = ROWS["vae_bernoulli"].model
    params = model.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    for method, data in ((model.posterior, [np.zeros((2, 3), int)]), (model.prior, [])):
        with pytest.raises(ValueError, match="context must be None for a model without cond"):
            method(params, *data, context=1)
    with pytest.raises(ValueError, match="context must be None for a model without cond"):
        model.likelihood(params, jnp.zeros((2, 1)), context=1)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 3\), got \(4, 3, 1\); flatten"):
        model.posterior(params, np.zeros((4, 3, 1), int))
    with pytest.raises(TypeError, match=r"model must have prior, .*parameters stand after"):
        elbo(jax.random.key(0), params, model, np.zeros((2, 3), int))
    for sizes in ([5], 5):
        with pytest.raises(TypeError, match="hidden_sizes must be a tuple"):
            VAE(3, 2, 1, sizes).init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
