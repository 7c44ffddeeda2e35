"""What the conformance suite does not see of the deep hierarchical VAE."""

import functools

import chex
import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest
import sampling_checks

from jaxgen.models._context import Covariates, Labels
from jaxgen.models._output_bias import set_output_bias
from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.latent._deep_hierarchical import DeepHierarchicalVAE, Scale
from jaxgen.objectives._diagnostics import diagnose
from jaxgen.objectives._elbo import elbo
from jaxgen.objectives._kl_weights import free_bits
from jaxgen.objectives._multi_sample import log_weights

jitted = functools.partial(jax.jit, compiler_options=conformance.QUICK)

# A group of 3 at the top, then two groups on 2×2 maps with one latent a position.
SCALES = (Scale(2, 3, 2, 2, 1), Scale(2, 4, 3, 1, 3))
MODEL = DeepHierarchicalVAE(16, 2, (4, 4), SCALES)
REALS = DeepHierarchicalVAE(16, None, (4, 4), SCALES)
SIZES = (3, 4, 4)
X = (np.random.default_rng(0).random((3, 16)) < 0.4).astype(np.int32)


@functools.cache
def random_params(model=MODEL, scale=0.7):
    x = X[:1] if model.num_symbols else np.float32(X[:1])
    context = None if model.conditioning is None else np.zeros(1, np.float32)
    with jax.debug_key_reuse(False):
        shapes = jax.eval_shape(model.init, jax.random.key(0), x, context)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda p: scale * random.normal(size=p.shape).astype(np.float32), shapes)


def test_posterior_is_the_prior_to_begin_with(key):
    """Exactly, so that the first step has no divergence to come down from."""

    @jitted
    def begin(key, x):
        params = MODEL.init(jax.random.key(0), x)
        z = MODEL.prior(params).sample(seed=jax.random.key(1), sample_shape=(len(x),))
        apart = MODEL.posterior(params, x).log_prob(z) - MODEL.prior(params).log_prob(z)
        return elbo(key, MODEL, params, x), apart

    bound, apart = begin(key, X)
    chex.assert_trees_all_equal(apart, np.zeros(3))
    chex.assert_trees_all_equal(bound.group_kl, np.zeros((3, 3)))
    assert free_bits(bound.group_kl, 0.5) == 1.5
    chex.assert_trees_all_equal(bound.value, bound.log_likelihood)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_gradients_are_finite_at_large_inputs(scale, key):
    """At the start, and with weights such that every layer makes its inputs larger."""
    x = np.float32([1e4, -1e4, 1.0])[:, None] * np.random.default_rng(0).normal(size=(3, 16))
    params = random_params(REALS, scale)
    if not scale:
        params = jitted(REALS.init)(jax.random.key(0), x[:1])
    loss, gradient = loss_and_gradient(key, params, x.astype(np.float32))
    assert np.isfinite(loss)
    for name, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), name


@jitted
def loss_and_gradient(key, params, x):
    return jax.value_and_grad(lambda p: -jnp.mean(elbo(key, REALS, p, x).value))(params)


def test_one_pass_says_what_three_distributions_say(key):
    params, apart = random_params(), conformance.Wrapped(MODEL)

    @jitted
    def both(key, params):
        options = {"num_samples": 4}
        first, second = (log_weights(key, m, params, X, **options) for m in (MODEL, apart))
        bounds = [
            elbo(key, m, params, X, **options, kl="monte_carlo").value for m in (MODEL, apart)
        ]
        return first, second, bounds

    with jax.debug_key_reuse(False):
        one, three, bounds = both(key, params)
    chex.assert_trees_all_close(one, three, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(*bounds, rtol=1e-5, atol=1e-4)


def test_kl_of_a_group_is_what_its_draws_say(key):
    params = random_params()
    terms = jitted(lambda key: MODEL.evidence_terms(key, params, X, num_samples=8000))(key)
    excess = terms.log_ratios - terms.kl
    sampling_checks.assert_mean(np.moveaxis(excess, 1, 0), 0.0, rounding=1e-4)
    assert np.mean(terms.kl, axis=1).min() > 0.05


def test_top_groups_are_drawn_and_the_rest_stands_at_its_mean(key):
    params = random_params()

    @jitted
    def draw(key):
        prior = MODEL.prior(params)
        full = prior.sample(seed=key, sample_shape=(5,))
        some = [prior.sample_top(key, 5, k) for k in range(4)]

        def group_sums(z):
            return jnp.stack([jnp.sum(terms) for terms in prior.group_log_probs(z)])

        return full, some, [jax.jacobian(group_sums)(z) for z in some]

    with jax.debug_key_reuse(False):
        full, some, slopes = draw(key)
    assert [leaf.shape for leaf in full] == [(5, size) for size in SIZES]
    for k in range(4):
        for group in range(3):
            slope = slopes[k][group][group]  # of log p(z_group | above) in z_group
            if group < k:
                chex.assert_trees_all_close(some[k][group], full[group], atol=1e-6, rtol=1e-7)
                assert np.abs(slope).max() > 0.1
            else:
                chex.assert_trees_all_close(slope, np.zeros_like(slope), atol=1e-5, rtol=1e-7)
    with pytest.raises(ValueError, match="num_groups must be in"):
        MODEL.prior(params).sample_top(key, 5, 4)


def test_diagnose_tells_groups_apart():
    params = jax.tree.map(np.array, jitted(MODEL.init)(jax.random.key(0), X[:1]))
    x = np.tile(X, (10, 1))
    networks = params["params"]["blocks_1"]["of_change"]
    kernel = np.random.default_rng(2).normal(size=networks["Dense_1"]["kernel"].shape)
    networks["Dense_1"]["kernel"] = 3 * kernel.astype(np.float32)  # the second group listens
    found = jitted(lambda key: diagnose(key, MODEL, params, x, num_samples=60))(jax.random.key(1))
    assert found.group_kl.shape == (3, 30)
    assert found.is_collapsed.tolist() == [True, False, True]
    chex.assert_trees_all_equal(found.group_kl[np.array([0, 2])], np.zeros((2, 30)))
    assert found.group_kl[1].mean() > 0.1
    assert MODEL.group_shapes == [(1, 1, 3), (2, 2, 1), (2, 2, 1)]


def test_prior_posterior_and_likelihood_take_a_context():
    model = DeepHierarchicalVAE(16, 2, (4, 4), SCALES, conditioning=Labels(2))
    params = _conditioned(model, 0)

    @jitted
    def look(context):
        prior = model.prior(params, context=context)
        z = jax.tree.map(lambda size: jnp.linspace(-1.0, 1.0, size), SIZES)
        z = tuple(jnp.broadcast_to(group[None], (3, group.size)) for group in z)
        posterior = model.posterior(params, X, context=context)
        likelihood = model.likelihood(params, z, context=context)
        drawn = prior.sample(seed=jax.random.key(0), sample_shape=(2,))
        return [prior.log_prob(z), posterior.log_prob(z), likelihood.log_prob(X)], drawn

    zero, one, rows = (look(np.array(labels)) for labels in (0, 1, [0, 1, 1]))
    for of_zero, of_one, of_rows in zip(zero[0], one[0], rows[0], strict=True):
        chex.assert_trees_all_close(
            of_rows, np.array([of_zero[0], *of_one[1:]]), rtol=1e-5, atol=1e-5
        )
        assert np.abs(of_zero - of_one).min() > 1e-3
    assert (zero[1][0].shape, rows[1][0].shape) == ((2, 3), (2, 3, 3))
    with pytest.raises(ValueError, match="context must be None for a model without cond"):
        MODEL.prior(random_params(), context=1)
    model = DeepHierarchicalVAE(16, 2, (4, 4), SCALES, conditioning=Covariates(1))
    params = _conditioned(model, np.zeros(1, np.float32))
    for context, shape in ((np.zeros(1, np.float32), ()), (np.zeros((3, 1), np.float32), (3,))):
        prior = model.prior(params, context=context)
        drawn = jax.eval_shape(lambda prior=prior: prior.sample(seed=jax.random.key(0)))
        assert [leaf.shape for leaf in drawn] == [(*shape, size) for size in SIZES]


def _conditioned(model, context):
    with jax.debug_key_reuse(False):
        shapes = jax.eval_shape(model.init, jax.random.key(0), X[:1], jnp.asarray(context))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), shapes)


def test_pixels_stand_where_their_position_is():
    """The top left position alone speaks of the top left pixels."""
    params = random_params()
    z = tuple(np.zeros((1, size), np.float32) for size in SIZES)
    moved = (*z[:2], z[2] + np.float32([[1, 0, 0, 0]]))
    for layer in ("Dense_0", "Convolution_0"):  # a convolution sees its neighbors
        params = jax.tree.map(np.array, params)
        params["params"]["blocks_2"]["after"][layer]["kernel"] *= 0
    means = [np.asarray(jitted(MODEL.likelihood)(params, each).mean())[0] for each in (z, moved)]
    changed = (means[0] != means[1]).reshape(4, 4)
    assert changed[:2, :2].all()
    assert not changed[2:].any()
    assert not changed[:, 2:].any()


def test_gray_levels_and_colors_are_a_choice_of_the_conditional():
    family = LogisticMixture(256, 2)
    model = DeepHierarchicalVAE(48, 256, (4, 4), SCALES, family)
    x = np.random.default_rng(0).integers(0, 256, (5, 48), np.uint8)
    with jax.debug_key_reuse(False):
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = set_output_bias(
        model, jax.tree.map(lambda p: np.zeros(p.shape, np.float32), shapes), x
    )
    outputs = np.asarray(params["params"]["outputs"]["bias"]).reshape(48, family.num_outputs)
    z = tuple(np.zeros((1, size), np.float32) for size in SIZES)
    found = jitted(model.likelihood)(params, z).log_prob(x)
    chex.assert_trees_all_close(found, family.log_prob(outputs[None], x).sum(-1), rtol=1e-5)

    def many(keys):
        return jax.vmap(lambda k: model.evidence_terms(k, params, x, num_samples=2).kl)(keys)

    assert jax.eval_shape(many, jax.random.split(jax.random.key(0), 7)).shape == (7, 3, 2, 5)


def test_what_does_not_fit_is_refused():
    def init(*fields):
        model = DeepHierarchicalVAE(*fields)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.num_dims), jnp.int32))

    with pytest.raises(ValueError, match=r"factor must divide the size \(4, 4\), got Scale\(fac"):
        init(16, 2, (4, 4), (Scale(3, 1, 1, 1, 1),))
    with pytest.raises(ValueError, match=r"image_shape \(4, 4\) must divide num_dims=15"):
        init(15, 2, (4, 4), SCALES)
    with pytest.raises(ValueError, match="the number of scales must be"):
        init(16, 2, (4, 4), ())
    with pytest.raises(ValueError, match="num_groups must be"):
        Scale(2, 1, 1, 0, 1)
    z = tuple(np.zeros((1, size), np.float32) for size in SIZES)
    with pytest.raises(ValueError, match=r"z must be a tuple of groups .* \[3, 4, 4\], got"):
        MODEL.prior(random_params()).log_prob(z[::-1])


def test_conditionals_make_the_joint_and_see_no_group_below(key):
    params = random_params()

    @jitted
    def both(key, params):
        apart = []
        for distribution in (MODEL.prior(params), MODEL.posterior(params, X)):
            z = MODEL.prior(params).sample(seed=key, sample_shape=(len(X),))
            terms = []
            for group in distribution.draw_order:
                above = tuple(a * (i < group) for i, a in enumerate(z))
                now = z[group]
                terms.append(distribution.conditional(group, above).log_prob(now))
            apart.append((jnp.stack(terms), jnp.stack(distribution.group_log_probs(z))))
        return apart

    for conditionals, groups in both(key, params):
        chex.assert_trees_all_close(conditionals, groups, rtol=1e-4, atol=1e-4)
    assert MODEL.prior(params).draw_order == (0, 1, 2)
