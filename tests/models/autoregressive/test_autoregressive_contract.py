"""Every autoregressive model through the conformance suite: a new model adds a row."""

import functools

import autoregressive_conformance as conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.types import AutoregressiveModel
from jaxgen.models import contracts
from jaxgen.models.autoregressive.linear_recurrence import LinearRecurrence
from jaxgen.models.autoregressive.made import MADE
from jaxgen.models.autoregressive.nade import NADE
from jaxgen.models.autoregressive.pixelcnn import GatedPixelCNN
from jaxgen.models.autoregressive.transformer import CausalTransformer
from jaxgen.models.layers import heads

ROWS = {
    "made": MADE(num_dims=4, num_symbols=3, hidden_sizes=(16,)),
    "made_three_layers": MADE(num_dims=5, num_symbols=2, hidden_sizes=(7, 13, 22)),
    "made_direct": MADE(4, 3, hidden_sizes=(3, 4), has_direct_connections=True),
    "made_logistic_mixture": MADE(
        num_dims=3, num_symbols=5, hidden_sizes=(8,), head=heads.LogisticMixture(5, 2)
    ),
    "made_one_coordinate": MADE(num_dims=1, num_symbols=5, hidden_sizes=(4,)),
    "nade": NADE(num_dims=5, num_symbols=2, hidden_size=9),
    "gated_pixelcnn": GatedPixelCNN(
        (2, 3), num_symbols=2, width=3, num_layers=2, first_kernel_size=3, head_width=4
    ),
    "plain_pixelcnn": GatedPixelCNN((2, 2), 2, width=6, num_layers=1, is_gated=False),
    "linear_recurrence": LinearRecurrence(num_dims=5, num_symbols=3, width=6, num_layers=2),
    "transformer_rotary": CausalTransformer(4, 3, 8, 2, 2, block_size=3),
    "transformer_learned": CausalTransformer(5, 2, 6, 1, 3, "learned", block_size=2),
    "transformer_image": CausalTransformer(6, 2, 12, 1, 3, image_shape=(3, 2)),
    "transformer_of_a_class": CausalTransformer(3, 4, 6, 1, 1, num_classes=3),
}


def random_params(module, scale=0.7):
    """Parameters with every bias away from zero, so that nothing agrees by being nought."""
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, module.num_dims), jnp.int32))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(structure, noisy)
    return contracts.conditioned(params, 1) if getattr(module, "num_classes", None) else params


@functools.cache
def built(name):
    return contracts.autoregressive(ROWS[name]), random_params(ROWS[name])


@pytest.mark.parametrize("check", conformance.ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ROWS)
def test_conforms(name, check):
    check(*built(name))


@pytest.mark.parametrize("name", ROWS)
def test_samples_follow_log_prob(name, key):
    conformance.check_samples(*built(name), key)


def test_equal_modules_share_their_functions():
    again = MADE(num_dims=4, num_symbols=3, hidden_sizes=(16,))
    assert contracts.autoregressive(again) is contracts.autoregressive(ROWS["made"])


# The suite itself is tried on models that are wrong in the ways published code is wrong.


def seeing_itself(model):
    """Masks off by one: row i sees x_i."""

    def logits(params, x):
        ahead = model.logits(params, x)
        return jnp.concatenate([ahead[..., 1:, :], ahead[..., :1, :]], axis=-2)

    return model._replace(logits=logits)


def missing_the_last_symbol(model):
    """Masks off by one the other way: row i does not see x_{i−1}."""

    def logits(params, x):
        return model.logits(params, x.at[..., -2].set(0))

    return model._replace(logits=lambda params, x: logits(params, jnp.asarray(x)))


def probabilities_as_logits(model):
    """A sampler that is fed probabilities where the density reads logits."""

    def step(params, cache, index, previous):
        logits, cache = model.step(params, cache, index, previous)
        return jax.nn.softmax(logits), cache

    return model._replace(step=step)


BROKEN = {
    "seeing_itself": (seeing_itself, conformance.check_causality),
    "joint_of_seeing_itself": (seeing_itself, conformance.check_sums_to_one),
    "missing_the_last_symbol": (missing_the_last_symbol, conformance.check_causality),
    "probabilities_as_logits": (
        probabilities_as_logits,
        conformance.check_step_agrees_with_logits,
    ),
    "code_of_probabilities_as_logits": (probabilities_as_logits, conformance.check_code),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model_is_caught(name):
    breaking, check = BROKEN[name]
    model, params = built("made")
    broken: AutoregressiveModel = breaking(model)
    with pytest.raises(AssertionError):
        check(broken, params)


def test_broken_sampler_is_caught(key):
    model, params = built("made")
    with pytest.raises(AssertionError):
        conformance.check_samples(probabilities_as_logits(model), params, key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_dims": 0}, "num_dims must be at least 1, got 0"),
        ({"num_symbols": 1}, "num_symbols must be at least 2, got 1"),
        ({"hidden_sizes": ()}, "hidden_sizes must name at least one layer"),
        ({"head": heads.Categorical(3)}, "head must be for num_symbols=2"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = MADE(**{"num_dims": 3, "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))


def test_wrong_data_is_refused():
    model, params = built("made")
    with pytest.raises(TypeError, match="x must hold integers"):
        model.logits(params, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"x must have shape \(2, 4\), got \(2, 5\)"):
        model.logits(params, jnp.zeros((2, 5), jnp.int32))


def test_dropout_acts_only_when_a_key_is_given(key):
    module = MADE(num_dims=4, num_symbols=3, hidden_sizes=(16,), dropout_rate=0.5)
    params = random_params(module)
    x = np.ones((2, 4), np.int32)
    plain = module.apply(params, x)
    np.testing.assert_array_equal(plain, contracts.autoregressive(module).logits(params, x))
    dropped = module.apply(params, x, rngs={"dropout": key})
    assert not np.allclose(plain, dropped)
