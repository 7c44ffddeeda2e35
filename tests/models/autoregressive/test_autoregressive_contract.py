"""Every autoregressive model through the conformance suite: a new model adds a row."""

import copy
import dataclasses
import functools
import itertools

import autoregressive_conformance as conformance
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import coding
from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.models._context import Covariates, Labels
from jaxgen.models.autoregressive._committee import Committee
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.models.autoregressive._linear_recurrence import LinearRecurrence
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._nade import NADE
from jaxgen.models.autoregressive._order_agnostic import OrderAgnostic
from jaxgen.models.autoregressive._pixelcnn import GatedPixelCNN
from jaxgen.models.autoregressive._pixelsnail import PixelSNAIL
from jaxgen.models.autoregressive._transformer import CausalTransformer
from jaxgen.models.conditionals._logistic_levels import LogisticMixture
from jaxgen.models.conditionals._symbols import Categorical
from jaxgen.samplers import _ancestral as ancestral

ROWS = {
    "made": MADE(num_dims=4, num_symbols=3, hidden_sizes=(16,)),
    "made_three_layers": MADE(num_dims=5, num_symbols=2, hidden_sizes=(7, 13, 22)),
    "made_direct": MADE(4, 3, hidden_sizes=(3, 4), has_direct_connections=True),
    "made_logistic_mixture": MADE(
        num_dims=3, num_symbols=5, hidden_sizes=(8,), conditional=LogisticMixture(5, 2)
    ),
    "made_one_coordinate": MADE(num_dims=1, num_symbols=5, hidden_sizes=(4,)),
    "nade": NADE(num_dims=5, num_symbols=2, hidden_size=9),
    "order_agnostic": OrderAgnostic(4, 3, hidden_sizes=(7, 5)),
    "gated_pixelcnn": GatedPixelCNN(
        (2, 3), num_symbols=2, width=3, num_layers=2, first_kernel_size=3, head_width=4
    ),
    "plain_pixelcnn": GatedPixelCNN((2, 2), 2, width=6, num_layers=1, is_gated=False),
    "pixelcnn_of_channels": GatedPixelCNN(
        (1, 2, 2), 2, width=3, num_layers=1, first_kernel_size=3, head_width=4
    ),
    "pixelcnn_of_coupled_channels": GatedPixelCNN(
        (2, 1, 2), 3, 3, 1, 3, 3, head_width=4, conditional=LogisticMixture(3, 2)
    ),
    "pixelsnail": PixelSNAIL((2, 2), 3, 8, 2, 1, first_kernel_size=3, head_width=4),
    "pixelsnail_of_channels": PixelSNAIL(
        (1, 2, 2), 2, 4, 1, 1, first_kernel_size=3, num_heads=1, head_width=4
    ),
    "linear_recurrence": LinearRecurrence(num_dims=5, num_symbols=3, width=6, num_layers=2),
    "transformer_rotary": CausalTransformer(4, 3, 8, 2, 2, block_size=3),
    "transformer_learned": CausalTransformer(5, 2, 6, 1, 3, "learned", block_size=2),
    "transformer_image": CausalTransformer(6, 2, 12, 1, 3, image_shape=(3, 2)),
}
LABELS = Labels(3)
CONDITIONED = {
    "independent": Independent(3, 2, conditioning=LABELS),
    "made": MADE(3, 3, hidden_sizes=(16,), conditioning=LABELS),
    "made_direct": MADE(3, 2, hidden_sizes=(12,), has_direct_connections=True, conditioning=LABELS),
    "nade": NADE(3, 3, hidden_size=5, conditioning=LABELS),
    "order_agnostic": OrderAgnostic(3, 3, (9,), conditioning=LABELS),
    "gated_pixelcnn": GatedPixelCNN(
        (2, 2), 2, width=6, num_layers=2, first_kernel_size=3, conditioning=LABELS
    ),
    "pixelsnail": PixelSNAIL(
        (2, 2), 2, 4, 1, 1, first_kernel_size=3, num_heads=1, conditioning=LABELS
    ),
    "linear_recurrence": LinearRecurrence(3, 3, width=6, num_layers=1, conditioning=LABELS),
    "transformer": CausalTransformer(3, 4, 6, 1, 1, conditioning=LABELS),
}
GIVEN = {
    **{
        f"{name}_of_a_class": (module, 1)
        for name, module in CONDITIONED.items()
        if "ind" not in name
    },
    "made_of_covariates": (MADE(3, 2, (12,), conditioning=Covariates(2)), (0.5, -1.0)),
}


def random_params(module, scale=0.5):
    """Parameters with every bias away from zero, so that nothing agrees by being zero."""
    x = jnp.zeros((1, module.num_dims), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    generator = np.random.default_rng(3)

    def draw(leaf):
        return jnp.asarray(scale * generator.standard_normal(leaf.shape, "f4"))

    return jax.tree.map(draw, shapes)


@dataclasses.dataclass(frozen=True)
class OnlyLogits(AutoregressiveModel):
    """A model that comes without a cached step: all else follows from its logits."""

    num_dims: int = 4
    num_symbols: int = 3

    def logits(self, params, x, *, context=None):
        return ROWS["made"].logits(params, x)


@functools.cache
def built(name):
    if name == "committee":
        members = ROWS["made_direct"], Independent(4, 3)
        return Committee(members), tuple(random_params(member) for member in members)
    if name == "only_logits":
        return OnlyLogits(), random_params(ROWS["made"])
    if name in GIVEN:
        module, context = GIVEN[name]
        return conformance.Given(module, context), random_params(module)
    return ROWS[name], random_params(ROWS[name])


@functools.cache
def measured(name):
    return conformance.measure(*built(name))


ALL = [*ROWS, *GIVEN, "committee", "only_logits"]
# Those of a class are coded below, each row with a label of its own.
CODED = [*ROWS, "made_of_covariates", "committee", "only_logits"]
# Portable files read steps and passes alike: a row for each kind of cache.
PORTABLE = ["made", "gated_pixelcnn", "linear_recurrence", "transformer_rotary", "only_logits"]


def first(names):
    """All rows, those that are not named where time does not matter."""
    mark = pytest.mark.slow
    return [name if name in names else pytest.param(name, marks=mark) for name in ALL]


@pytest.mark.parametrize("check", conformance.ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ALL)
def test_conforms(name, check):
    check(measured(name))


@pytest.mark.parametrize("name", first(CODED))
def test_code(name):
    conformance.check_code(measured(name))


@pytest.mark.parametrize("name", first(PORTABLE))
def test_portable_code(name):
    conformance.check_portable_code(measured(name))


NARROW = {
    "bits": (MADE(3, 2, hidden_sizes=(4,)), "bool"),
    "128": (MADE(3, 128, hidden_sizes=(4,)), "int8"),
    "256": (MADE(3, 256, hidden_sizes=(4,)), "uint8"),
    "257": (MADE(3, 257, hidden_sizes=(4,)), "uint8"),
    "recurrence": (LinearRecurrence(3, 256, width=4, num_layers=1), "uint8"),
    "transformer": (CausalTransformer(3, 256, 4, 1, 1), "uint8"),
}


@pytest.mark.parametrize("name", NARROW)
def test_symbols_of_a_narrow_dtype_are_the_same(name):
    """Also where V, or the index after the last symbol, is no number of the dtype."""
    model, dtype = NARROW[name]
    params = random_params(model)
    largest = 1 if dtype == "bool" else min(model.num_symbols - 1, np.iinfo(dtype).max)
    x = np.array([[largest, 0, 1], [1, largest, largest]])

    @jax.jit
    def results(params, x):
        return model.log_prob(params, x), model.prefill(params, x)

    narrow, wide = results(params, x.astype(dtype)), results(params, x)
    chex.assert_trees_all_equal(narrow, wide)
    assert np.isfinite(wide[0]).all()


@pytest.mark.parametrize("num_symbols", [2, 128, 256, 257])
def test_symbols_of_every_dtype_are_the_same(num_symbols):
    model = MADE(3, num_symbols, (4,))
    params = random_params(model)
    names = ("int8", "uint8", "int16", "uint16", "int32", "uint32", *["bool"] * (num_symbols == 2))
    largest = [1 if n == "bool" else min(num_symbols - 1, np.iinfo(n).max) for n in names]
    wide = [np.array([[most, 0, 1], [1, most, most]]) for most in largest]
    narrow = [x.astype(name) for x, name in zip(wide, names, strict=True)]
    log_probs = jax.jit(lambda params, xs: [model.log_prob(params, x) for x in xs])
    expected = log_probs(params, wide)
    chex.assert_trees_all_equal(log_probs(params, narrow), expected)
    chex.assert_tree_all_finite(expected)


def test_labels_of_every_integer_dtype_are_the_same():
    labels = Labels(256)
    for name in ("int8", "uint8", "int16", "uint32"):
        largest = min(256, np.iinfo(name).max)
        some = np.array([0, 1, largest])
        one_hot = labels.features(some.astype(name), (3,))
        chex.assert_trees_all_equal(one_hot, np.eye(257)[some])


@pytest.mark.parametrize("name", [*ROWS, *GIVEN, "committee"])
def test_a_model_is_traced_once_however_often_it_is_built(name):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda model, x: x + model.num_dims, n=1))
    model = ROWS[name] if name in ROWS else built(name)[0]
    for again in (model, copy.deepcopy(model)):
        traced(again, 0.0)


@pytest.mark.parametrize("name", CONDITIONED)
def test_rows_have_contexts_of_their_own(name):
    module = CONDITIONED[name]
    params = random_params(module)
    x = np.random.default_rng(0).integers(0, module.num_symbols, (5, module.num_dims))
    u, labels = np.random.default_rng(1).random(x.shape, np.float32), np.array([2, 0, 1, 3, 0])

    @jax.jit
    def look(params, x, u, labels):
        each = jnp.arange(4)
        alone = jax.lax.map(lambda label: module.logits(params, x, context=label), each)
        both_ways = jnp.stack([u, u[::-1]]), jnp.stack([labels, labels[::-1]])
        drawn = jax.lax.map(
            lambda a: ancestral.quantile(module, params, a[0], context=a[1]), both_ways
        )
        at_once = ancestral.quantile_parallel(module, params, u, context=labels).draws
        log_prob = module.log_prob(params, drawn.x[0], context=labels)
        shaped = module.logits(params, x[None], context=labels[None])[0]
        return alone, module.logits(params, x), shaped, drawn, at_once, log_prob

    alone, of_none, together, drawn, at_once, log_prob = look(params, x, u, labels)
    for one, other in itertools.combinations(np.asarray(alone), 2):
        assert np.abs(one - other).max(axis=-1).min() > 1e-4
    chex.assert_trees_all_close(of_none, alone[3], atol=1e-6, rtol=1e-7)
    chex.assert_trees_all_close(
        together, np.asarray(alone)[labels, np.arange(5)], atol=1e-5, rtol=1e-7
    )
    chex.assert_trees_all_equal(drawn.x[0], drawn.x[1][::-1])
    chex.assert_trees_all_equal(drawn.x[0], at_once.x)
    chex.assert_trees_all_close(np.sum(drawn.log_probs[0], 1), log_prob, atol=1e-5, rtol=1e-7)
    data = coding.encode(module, params, x, context=labels)
    chex.assert_trees_all_equal(coding.decode(module, params, data, context=labels), x)


def test_a_wrong_label_shows():
    module = CONDITIONED["made"]
    x, labels = np.zeros((4, 3), int), np.array([0, -1, 4, 3])
    logits = jax.jit(module.logits)(random_params(module), x, context=labels)
    is_right = np.array([True, False, False, True])
    chex.assert_trees_all_equal(np.isfinite(logits).all(axis=(1, 2)), is_right)
    chex.assert_trees_all_equal(np.isnan(logits).all(axis=(1, 2)), ~is_right)


def test_a_context_of_another_kind_or_shape_is_refused():
    x, labelled = np.zeros((5, 3), int), CONDITIONED["made"]
    params = random_params(labelled)
    with pytest.raises(TypeError, match="context must hold integers, got dtype float32"):
        labelled.logits(params, x, context=jnp.ones(5))
    with pytest.raises(ValueError, match=r"context must be labels of shape \(5,\), or one for all"):
        labelled.logits(params, x, context=jnp.zeros(4, int))
    measured = GIVEN["made_of_covariates"][0]
    with pytest.raises(ValueError, match="context must be given to a model with Covariates"):
        measured.logits(random_params(measured), x)
    plain, plain_params = built("made")
    with pytest.raises(ValueError, match="context must be None for a model without conditioning"):
        plain.logits(plain_params, np.zeros((5, 4), int), context=0)


# The suite itself is tried on models that are wrong in the ways published code is wrong.


class Broken(conformance.Given):
    def log_prob(self, params, x, *, context=None):
        return AutoregressiveModel.log_prob(self, params, x)


class SeeingItself(Broken):
    """Masks off by one: row i sees x_i."""

    def outputs(self, params, x, *, context=None):
        ahead = self.model.outputs(params, x)
        return jnp.concatenate([ahead[..., 1:, :], ahead[..., :1, :]], axis=-2)


class MissingTheLastSymbol(Broken):
    """Masks off by one the other way: row i does not see x_{i−1}."""

    def outputs(self, params, x, *, context=None):
        return self.model.outputs(params, jnp.asarray(x).at[..., -2].set(0))


class ProbabilitiesAsLogits(Broken):
    """A sampler that is fed probabilities where the density reads logits."""

    def step(self, params, cache, index, previous):
        outputs, cache = self.model.step(params, cache, index, previous)
        return jax.nn.softmax(outputs), cache


class ALittleWarmer(Broken):
    """A sampler at a temperature of 1.1, where the density is at 1."""

    def step(self, params, cache, index, previous):
        outputs, cache = self.model.step(params, cache, index, previous)
        return outputs / 1.1, cache


@functools.cache
def measured_of(breaking):
    model, params = built("made")
    return conformance.measure(breaking(model), params)


BROKEN = {
    "seeing_itself": (SeeingItself, conformance.check_causality, "see x_"),
    "joint_of_seeing_itself": (SeeingItself, conformance.check_sums_to_one, "the joint sums"),
    "missing_the_last_symbol": (MissingTheLastSymbol, conformance.check_causality, "do not see"),
    "probabilities_as_logits": (
        ProbabilitiesAsLogits,
        conformance.check_step_agrees_with_outputs,
        "Not equal",
    ),
    "code_of_probabilities_as_logits": (ProbabilitiesAsLogits, conformance.check_code, "bits for"),
    "samples_of_probabilities_as_logits": (
        ProbabilitiesAsLogits,
        conformance.check_samples,
        "χ²",
    ),
    "samples_a_little_warmer": (ALittleWarmer, conformance.check_samples, "χ²"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model_is_caught(name):
    breaking, check, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        check(measured_of(breaking))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_dims": 0}, "num_dims must be at least 1, got 0"),
        ({"num_symbols": 1}, "num_symbols must be at least 2, got 1"),
        ({"hidden_sizes": ()}, "hidden_sizes must name at least one layer"),
        ({"conditional": Categorical(3)}, "conditional must be over num_symbols=2"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    module = MADE(**{"num_dims": 3, "num_symbols": 2, **fields})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))


@pytest.mark.parametrize("sizes", [[8], 8])
def test_hidden_sizes_are_a_tuple(sizes):
    with pytest.raises(TypeError, match="hidden_sizes must be a tuple"):
        MADE(3, 2, hidden_sizes=sizes).init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))


def test_wrong_data_is_refused():
    model, params = built("made")
    with pytest.raises(TypeError, match="x must hold integers"):
        model.logits(params, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"x must have shape \(..., 4\), got \(2, 5\)"):
        model.logits(params, jnp.zeros((2, 5), jnp.int32))
    with pytest.raises(ValueError, match=r"flatten images with x.reshape\(-1, 4\)"):
        model.logits(params, jnp.zeros((3, 2, 2), jnp.int32))


def test_dropout_acts_only_when_a_key_is_given(key):
    module = MADE(num_dims=4, num_symbols=3, hidden_sizes=(16,), dropout_rate=0.5)
    params = random_params(module)
    x = np.ones((2, 4), np.int32)

    @jax.jit
    def three(params, x, key):
        without = module.copy(dropout_rate=0.0).log_prob(params, x)
        dropped = module.log_prob(params, x, dropout_key=key)
        return module.log_prob(params, x), without, dropped

    plain, without, dropped = three(params, x, key)
    chex.assert_trees_all_equal(plain, without)
    assert not np.allclose(plain, dropped)
