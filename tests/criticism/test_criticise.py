"""One call: right models pass, planted faults are found and named, and bad input is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from jaxgen.criticism import _criticise, uniformity
from jaxgen.criticism._criticise import of_uniforms
from jaxgen.criticism._findings import criticism, of_p_values, of_tilt
from jaxgen.criticism._tilt import Tilt

CHAIN = jg.MADE(4, 3, (6,), conditioning=jg.models.Labels(2))
POINTS = 300


@dataclasses.dataclass(frozen=True)
class Altered(jg.AutoregressiveModel):
    """The chain with other logits, in full passes or in steps."""

    scale: float = 1.0
    step_scale: float = 1.0
    num_dims: int = 4
    num_symbols: int = 3

    def logits(self, params, x, *, context=None):
        return self.scale * CHAIN.logits(params, x, context=context)

    def step(self, params, cache, index, previous):
        logits, cache = super().step(params, cache, index, previous)
        return self.step_scale * logits, cache


@pytest.fixture(scope="module")
def truth():
    """Parameters whose conditionals differ, and data with labels drawn from them."""

    @jax.jit
    def make(key):
        params = CHAIN.init(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves) + 1)
        leaves = [
            leaf + jax.random.normal(k, leaf.shape)
            for k, leaf in zip(keys[1:], leaves, strict=True)
        ]
        params = jax.tree.unflatten(treedef, leaves)
        labels = jnp.arange(POINTS) % 2
        return params, jg.sample(keys[0], CHAIN, params, POINTS, context=labels).x, labels

    params, x, labels = make(jax.random.key(0))
    return params, np.asarray(x), labels


def names(result):
    return {fault.name for fault in result.faults}


def ask(model, truth, **changes):
    params, x, labels = truth
    kwargs = {"context": labels, "num_samples": POINTS, "image_shape": (2, 2), **changes}
    return jg.criticise(jax.random.key(2), model, params, x, **kwargs)


def test_a_right_model_passes_with_every_finding(truth):
    result = ask(CHAIN, truth, train=truth[1][::-1])
    assert result.is_calibrated, str(result)
    assert len(result.findings) == 19
    assert str(result).startswith("calibrated: yes, nothing found at level 0.01")
    p_values = [f.p_value for f in result.findings]
    assert p_values == sorted(p_values)


@pytest.mark.parametrize(
    ("model", "change", "expected"),
    [
        (Altered(scale=1.3), {}, "temperature"),
        (Altered(step_scale=1.5), {}, "sampler's temperature"),
        (CHAIN, {"context": 1 - jnp.arange(POINTS) % 2}, "surprise of labels"),
        (CHAIN, {"context": jnp.full(POINTS, 2)}, "surprise of labels"),
    ],
    ids=["temperature", "sampler", "labels swapped", "labels ignored"],
)
def test_planted_faults_are_found_and_named(truth, model, change, expected):
    result = ask(model, truth, **change)
    assert expected in names(result), str(result)
    assert str(result).startswith("calibrated: no")


def test_a_fault_costs_what_mending_it_gains(truth):
    params, x, labels = truth
    right, wrong = (
        float(np.mean(jax.jit(jg.log_prob)(model, params, x, context=labels)))
        for model in (CHAIN, Altered(scale=1.3))
    )
    found = {f.name: f.nats for f in ask(Altered(scale=1.3), truth).findings}
    assert found["temperature"] == pytest.approx(right - wrong, abs=0.03)


GAUSSIAN = jg.models.LinearGaussian()


@pytest.fixture(scope="module")
def gaussian():
    """A linear-Gaussian model with its exact posterior, and data of it."""
    loadings = jnp.array([[1.0], [-1.0], [0.5]])
    start = jg.models.LinearGaussianParams(
        loadings, jnp.log(0.7), jnp.zeros((1, 3)), jnp.zeros((1, 1))
    )
    params = jax.jit(GAUSSIAN.exact_posterior)(start)
    generator = np.random.default_rng(0)
    z, noise = generator.normal(size=(400, 1)), generator.normal(size=(400, 3))
    return params, (z @ np.asarray(loadings).T + 0.7 * noise).astype(np.float32)


def test_the_posterior_of_a_right_latent_model_passes_and_a_narrow_one_is_found(
    gaussian, distrax_broadcasting
):
    params, x = gaussian

    def found(params):
        return names(jg.criticise(jax.random.key(3), GAUSSIAN, params, x, num_samples=400))

    assert found(params) == set()
    assert "posterior" in found(params._replace(posterior_factor=0.7 * params.posterior_factor))
    assert "samples beside data" in found(params._replace(log_noise=params.log_noise + 0.5))


def test_discrete_latents_have_samples_beside_data_alone(distrax_broadcasting):
    model = jg.DiscreteVAE(4, 2, 2, 3, hidden_sizes=(4,))
    x = np.random.default_rng(0).integers(0, 2, (30, 4))
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    result = jg.criticise(jax.random.key(1), model, params, x, num_samples=30)
    assert {f.name for f in result.findings} == {
        "samples beside data",
        "distance of samples from data",
    }


def test_the_costliest_fault_is_named_first():
    small = of_p_values("small", np.array([1e-20, 0.5]), "place")
    large = of_p_values("large", np.array(1e-9), "everywhere")._replace(nats=2.0)
    fine = of_p_values("fine", np.array([0.3, 0.2]), "place")
    result = criticism([fine, large, small], 0.01)
    assert [f.name for f in result.findings] == ["small", "large", "fine"]
    assert [f.name for f in result.faults] == ["large", "small"]
    assert fine.p_value == pytest.approx(0.4)
    assert fine.where == "place 1"
    assert "look first at large, everywhere" in str(result)


def test_a_tilted_group_is_told_in_words_and_what_all_would_gain_in_nats():
    tilt = Tilt(*(np.array(a) for a in ([0.5, 0.0, -0.2], [3.0, 0.0, 1.0], [0.1, 1.0, 0.01])))
    found = of_tilt("level", tilt, 10, "row")
    assert found.where == "row 2, too much expected, 0.100 nats"
    assert found.nats == pytest.approx((4 - 0.5 * 2) / 10)
    assert found.p_value == pytest.approx(0.03)


def test_the_report_says_of_each_finding_whether_it_fails():
    found = [of_p_values(name, np.array(p), "all") for name, p in (("good", 0.6), ("bad", 1e-6))]
    lines = str(criticism(found, 0.01)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["FAILS", "holds"]
    assert lines[1].endswith("bad: all")


def test_nats_paid_and_predicted_are_the_cross_entropy_and_the_entropy():
    p = np.array([[[0.5, 0.25, 0.25, 0.0], [0.9, 0.1, 0.0, 0.0]]] * 3)
    x = np.array([[0, 0], [1, 0], [2, 1]])
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    paid = -np.take_along_axis(log_p, x[..., None], -1).sum() / 3
    entropy = np.log(2) * 1.5 - 0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    where = _criticise.temperature("temperature", log_p, x).where
    assert where.startswith(f"{paid:.3f} nats paid, {entropy:.3f} predicted, temperature ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x + np.array([0, 0.8, 0]), "coordinate 1,"),
        (lambda x: x * np.array([1, 1, 2]), "square of coordinate 2,"),
        (lambda x: x[:, [0, 1, 1]] + 0.3 * x, "product of coordinates 1 and 2,"),
    ],
)
def test_what_differs_most_between_data_and_samples_is_named(change, expected):
    rng = np.random.default_rng(0)
    x, drawn = change(rng.normal(size=(100, 3))), rng.normal(size=(100, 3))
    found = _criticise.beside_data(jax.random.key(0), x, drawn, None, is_paired=False)[0]
    assert found.where.startswith(expected)
    assert found.where.endswith("errors below")
    assert found.p_value < 0.01
    other_way = _criticise.beside_data(jax.random.key(0), drawn, x, None, is_paired=False)[0]
    assert other_way.where.endswith("errors above")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image_shape": (3, 2)}, ValueError, r"image_shape must have 4 pixels, got \(3, 2\)"),
        ({"num_samples": 5}, ValueError, "num_samples must be at least 10, got 5"),
        ({"level": 0.0}, ValueError, "level must be in"),
        ({"level": 1.0}, ValueError, "level must be in"),
    ],
)
def test_bad_options_are_refused(truth, change, error, message):
    with pytest.raises(error, match=message):
        ask(CHAIN, truth, **change)


def test_bad_models_and_data_are_refused(truth):
    params, x, _ = truth

    def refused(error, message, model, params, x, key=None):
        with pytest.raises(error, match=message):
            jg.criticise(jax.random.key(0) if key is None else key, model, params, x)

    model = "AutoregressiveModel or a LatentVariableModel, got dict"
    refused(TypeError, model, params, params, x)
    refused(ValueError, "number of points of x must be at least 10, got 3", CHAIN, params, x[:3])
    refused(TypeError, "x must hold integers, got dtype float", CHAIN, params, x / 2)
    refused(TypeError, r"jax\.random\.key", CHAIN, params, x, key=0)


def test_a_model_of_mixed_columns_passes_and_data_of_another_do_not(key):
    columns = (jg.models.Bits(), jg.models.Mixture(num_components=2))
    model = jg.MADE(2, None, (4,), conditional=jg.models.Mixed(columns))
    x = jnp.stack([jnp.arange(300.0) % 2, jnp.linspace(40.0, 60.0, 300)], axis=1)
    params = jax.jit(model.init)(jax.random.key(3), x[:1])
    params = jg.models.set_output_bias(model, params, np.asarray(x))
    params["params"]["kernel_0"] = 3 + params["params"]["kernel_0"]
    keys = jax.random.split(key)
    own = jax.jit(lambda key: jg.sample(key, model, params, 300).x)(keys[0])
    ask = {"num_samples": 300, "batch_size": 300}
    assert jg.criticise(keys[1], model, params, own, **ask).faults == ()
    wrong = np.stack([own[:, 0], 50 + 2 * (np.asarray(own[:, 1]) - 50)], axis=1)
    found = jg.criticise(jax.random.key(5), model, params, wrong, **ask)
    assert {"uniforms", "spread of scores"} <= names(found)
    assert "sampler's uniforms" not in names(found)


def test_a_place_that_is_the_only_one_has_no_index_and_no_pair_counts_twice():
    assert of_p_values("one", np.array([0.5]), "everywhere").where == "everywhere"
    assert of_p_values("two", np.array([0.5, 0.1]), "place").where == "place 1"
    u = np.random.default_rng(0).random((200, 3))
    u[:, 1] = (u[:, 0] + 4 * u[:, 1]) / 5
    pairs = of_uniforms(u)[1]
    assert pairs.name == "pairs of uniforms"
    assert pairs.p_value == pytest.approx(3 * uniformity(u).pair.min())


def test_groups_of_latents_are_laid_side_by_side():
    z = _criticise._flat((np.zeros((5, 2)), np.arange(15.0).reshape(5, 3, 1)))
    chex.assert_trees_all_equal(z, np.concatenate([np.zeros((5, 2)), z[:, 2:]], axis=1))
    chex.assert_trees_all_equal(z[:, 2:], np.arange(15.0).reshape(5, 3))


@pytest.mark.parametrize("right", [1.0, 2.0])
def test_the_temperature_that_fits_is_told(right):
    """Two in three where the odds are 4 to the power of 1 / 2, and four in five as predicted."""
    x = np.array([[0, 0, 1]] if right == 2 else [[0, 0, 0, 0, 1]])
    log_p = np.broadcast_to(np.log([0.8, 0.2]), (*x.shape, 2))
    where = _criticise.temperature("temperature", log_p, x).where
    assert where.endswith(f"temperature {right:.3f} fits")


def test_every_entry_has_the_p_value_of_its_errors():
    z = np.array([0.0, -1.959964, 2.575829])
    found = _criticise._of_means("means", z, 0.03, ["a", "b", "c"])
    assert found.where == "c, 2.6 errors below"
    chex.assert_trees_all_close(found.p_values, np.array([1, 0.05, 0.01]), rtol=1e-5)
