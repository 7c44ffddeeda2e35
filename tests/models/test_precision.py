"""Two fields of models that are no chains of equal layers: in what, and whether, units are kept."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import latent_conformance as conformance
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import models
from jaxgen.models._context import Labels
from jaxgen.models._normalizing_flow import NormalizingFlow
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.autoregressive._nade import NADE
from jaxgen.models.autoregressive._order_agnostic import OrderAgnostic
from jaxgen.models.latent._deep_hierarchical import DeepHierarchicalVAE
from jaxgen.models.latent._deep_layers import Scale
from jaxgen.models.latent._discrete import DiscreteVAE
from jaxgen.models.latent._hierarchical import HierarchicalVAE
from jaxgen.models.latent._vae import VAE
from jaxgen.models.latent._vector_quantized import VectorQuantizedVAE
from jaxgen.models.layers._convolutions import Convolutions
from jaxgen.models.layers._flows import InverseAutoregressive, SplineCoupling
from jaxgen.models.layers._masked_flows import MaskedAutoregressive
from jaxgen.objectives._elbo import elbo

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")
jitted = functools.partial(jax.jit, compiler_options=conformance.QUICK)
X = np.random.default_rng(0).integers(0, 2, (8, 16)).astype(np.int32)
IMAGES = Convolutions((4, 4), (3,))
DEEP = DeepHierarchicalVAE(16, 2, (4, 4), (Scale(2, 4, 4, 1, 1),))
CHAINS = {
    "nade": NADE(16, 2, 64, conditioning=Labels(2), remat=False),
    "made": MADE(16, 2, (64, 32), has_direct_connections=True, conditioning=Labels(2)),
    "order_agnostic": OrderAgnostic(16, 2, (64, 32), conditioning=Labels(2)),
}
LATENTS = {
    "vae_of_images": VAE(16, 2, 2, (8,), IMAGES),  # of the others' parts
    "vae": VAE(16, 2, 2, (64, 32), conditioning=Labels(2)),
    "discrete": DiscreteVAE(16, 2, 3, 2, hidden_sizes=(64,), temperature=0.7),
    "hierarchical": HierarchicalVAE(16, 2, (3, 2), ((64,), (32,))),
    "deep_hierarchical": DEEP,
    "vector_quantized": VectorQuantizedVAE(16, 2, IMAGES, num_codes=3, code_size=2),
}
FLOWS = {
    "masked": NormalizingFlow(16, MaskedAutoregressive(2, (64, 32), num_bins=None)),
    "coupling": NormalizingFlow(16, SplineCoupling(2, 2, 512)),
    "inverse_autoregressive": NormalizingFlow(16, InverseAutoregressive(2, 128)),
}
MODELS = CHAINS | LATENTS | FLOWS


def changed(model, **fields):
    """The model with other fields, which of a flow are those of its steps."""
    if isinstance(model, NormalizingFlow):
        return model.copy(flow=model.flow.copy(**fields))
    return model.copy(**fields)


def random_params(model):
    context = None if model.conditioning is None else np.zeros(8, np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, context)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda p: 0.4 * random.normal(size=p.shape).astype(np.float32), shapes)


def score(model, params, x):
    """Something that depends on all parameters: log p(x), or a term of its bound."""
    context = None if model.conditioning is None else jnp.arange(len(x)) % 2
    if isinstance(model, LinenAutoregressiveModel | NormalizingFlow):
        return model.log_prob(params, x, context=context)
    if isinstance(model, VectorQuantizedVAE):
        h = model.encode(params, x)
        return model.decode(params, h).log_prob(x)
    key = jax.random.key(2)
    return elbo(key, model, params, x, context=context, kl="monte_carlo").value


@functools.cache
def scores_and_gradient(model):
    """Log p(x) or its bound of each row, and the gradient of their mean by random parameters."""

    def mean(params):
        scores = score(model, params, X)
        return jnp.mean(scores), scores

    gradient_fn = jitted(jax.value_and_grad(mean, has_aux=True))
    (_, scores), gradient = gradient_fn(random_params(model))
    return scores, gradient


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vae_of_images"])
def test_bfloat16_changes_parameters_not_at_all_and_scores_by_its_precision(name):
    model = MODELS[name]
    half, params = changed(model, dtype=jnp.bfloat16), random_params(model)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, random_params(half))
    ours, gradient = scores_and_gradient(half)
    theirs, expected = scores_and_gradient(model)
    chex.assert_trees_all_equal_dtypes((ours, gradient), (theirs, params))
    assert np.any(ours != theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=0.02, atol=0.05)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        chex.assert_trees_all_close(one, other, rtol=0.1, atol=0.1 * (1e-3 + np.abs(other).max()))


@pytest.mark.parametrize("name", CHAINS)
def test_steps_of_a_chain_agree_with_a_pass_in_bfloat16_and_its_conditionals_sum_to_one(name):
    model, context = CHAINS[name].copy(dtype=jnp.bfloat16), jnp.ones(8, int)
    params = random_params(model)
    logits = jitted(model.logits)(params, X, context=context)
    assert logits.dtype == jnp.float32
    chex.assert_trees_all_close(jnp.exp(jax.nn.log_softmax(logits)).sum(-1), 1.0, rtol=1e-5)
    step, cache = jitted(model.step), model.init_cache(params, 8, context=context)
    for i in range(16):
        outputs, cache = step(params, cache, i, X[:, max(i - 1, 0)])
        stepped = model.conditional_or_default.logits(outputs)
        chex.assert_trees_all_close(stepped, logits[:, i], rtol=0.02, atol=0.05)


def test_hidden_units_are_kept_in_bfloat16():
    for name, model in MODELS.items():
        whole, half = (kept_bytes(m) for m in (model, changed(model, dtype=jnp.bfloat16)))
        assert half < 0.8 * whole, (name, half, whole)


@pytest.mark.parametrize("name", MODELS)
def test_rematerialised_networks_change_no_number_and_are_not_kept(name):
    model = MODELS[name]
    again, params = changed(model, remat=True), random_params(model)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, random_params(again))
    expected = scores_and_gradient(model)
    chex.assert_trees_all_close(scores_and_gradient(again), expected, rtol=1e-4, atol=1e-4)
    assert kept_bytes(again) < 0.4 * kept_bytes(model)


def test_every_public_module_with_hidden_units_has_both_fields():
    of_parts = {"NormalizingFlow", "FlowPosterior", "FlowPrior"}  # the flow has them
    of_encoder = {"DiagonalNormal", "VampPrior"}
    without = {"Independent", "InverseCDFPosterior", "MixtureOfNormals", "StandardNormal"}
    bases = {"LinenAutoregressiveModel", "LinenLatentVariableModel"}
    modules = {name: getattr(models, name) for name in dir(models)}
    lacking = {
        name
        for name, module in modules.items()
        if isinstance(module, type) and issubclass(module, nn.Module)
        if not {"dtype", "remat"} <= {field.name for field in dataclasses.fields(module)}
    }
    assert lacking == of_parts | of_encoder | without | bases


def kept_bytes(model, num_rows=512):
    """What JAX keeps of the scores of many rows for their gradient; XLA may keep less."""
    x = np.repeat(X, num_rows // len(X), axis=0)

    def kept(params):
        return jax.vjp(lambda params: score(model, params, x), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(kept, random_params(model)))
    arrays = [a for a in leaves if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
