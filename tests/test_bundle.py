"""A model, its weights and its vocabulary in one file: whole, or refused with the reason."""

import importlib
import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from jaxgen import _bundle as bundle
from jaxgen.training import WeightsError
from jaxgen.training import _weights as weights

autoregressive = importlib.import_module("models.autoregressive.test_autoregressive_contract")
latent = importlib.import_module("models.latent.test_latent_contract")

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

CONVOLUTIONS = jg.models.Convolutions((4, 4), (3, 4))
AUTOENCODER = jg.VectorQuantizedVAE(16, 2, CONVOLUTIONS, num_codes=5, code_size=3)
NORMALS = jg.models.Mixture(num_components=2)
PARTS = (AUTOENCODER, jg.MADE(1, 5, (4,), conditioning=jg.models.Covariates(2)))
MODELS = {
    **{f"autoregressive_{n}": m for n, m in autoregressive.ROWS.items()},
    **{f"conditioned_{n}": m for n, m in autoregressive.CONDITIONED.items()},
    **{f"latent_{n}": row.model for n, row in latent.ROWS.items() if n != "vae_tables"},
    "reals": jg.VAE(2, None, 1, (3,)),
    "half_precision": jg.CausalTransformer(3, 2, 4, 1, 1, block_size=None, dtype=jnp.bfloat16),
    "vector_quantized": jg.models.VectorQuantizedModel(*PARTS),
    "linear_gaussian": jg.models.LinearGaussian(),
    "flow": jg.models.NormalizingFlow(
        2, jg.models.MaskedAutoregressive(1, (3,)), base=jg.MADE(2, None, (3,), conditional=NORMALS)
    ),
}


def random_params(model):
    random = np.random.default_rng(0)
    if isinstance(model, jg.models.LinearGaussian):
        sizes = ((3, 2), (), (2, 3), (2, 2))
        return jg.models.LinearGaussianParams(*(jnp.asarray(random.random(s)) for s in sizes))
    if isinstance(model, jg.models.VectorQuantizedModel):
        parts = zip(("autoencoder", "code_prior"), PARTS, strict=True)
        return {name: random_params(part) for name, part in parts}
    is_real = isinstance(model, jg.models.NormalizingFlow) or model.num_symbols is None
    x = jnp.zeros((1, model.num_dims), jnp.float32 if is_real else jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(random.random(leaf.shape, "f4")), shapes)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_as_it_was(name, tmp_path):
    path, model = tmp_path / "new" / "model.safetensors", MODELS[name]
    params = random_params(model)
    jg.save(path, model, params)
    again, loaded = jg.load(path)
    assert again == model
    assert hash(again) == hash(model)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    chex.assert_trees_all_equal(loaded, params)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


MADE = jg.MADE(3, 4, (2,))
PARAMS = random_params(MADE)
VOCABULARIES = [
    jg.data.CharacterVocabulary('\n"aé'),
    jg.data.GrayLevels((1, 3), num_symbols=4),
    None,
]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_what_symbols_mean_and_notes_come_back(vocabulary, tmp_path):
    path, notes = tmp_path / "model", {"nats": 1.5, "steps": [1, 2], "of": {"é": None}}
    jg.save(str(path), MADE, PARAMS, vocabulary=vocabulary, metadata=notes)
    found = jg.read_bundle(str(path))
    assert (found.model, found.vocabulary, found.metadata) == (MADE, vocabulary, notes)


def test_the_file_holds_the_weights_for_others(tmp_path):
    jg.save(tmp_path / "model", MADE, PARAMS)
    loaded = jg.training.load_weights(tmp_path / "model", PARAMS)
    chex.assert_trees_all_equal(loaded, PARAMS)
    jg.training.save_weights(tmp_path / "model", PARAMS)
    with pytest.raises(WeightsError, match="does not say what model it is of"):
        jg.load(tmp_path / "model")


def test_what_no_other_program_could_open_is_not_written(tmp_path):
    path = tmp_path / "model"
    tables = latent.ROWS["vae_tables"].model
    with pytest.raises(TypeError, match=r"model.posterior_family.log_density_fn must be a plain"):
        jg.save(path, tables, {})
    with pytest.raises(
        TypeError, match=r"model must be of a public class.*OnlyLogits, which other"
    ):
        jg.save(path, autoregressive.OnlyLogits(), PARAMS)
    with pytest.raises(TypeError, match=r"model must be one of jaxgen.models, got dict"):
        jg.save(path, PARAMS, MADE)
    with pytest.raises(
        ValueError, match=r"params must be those of the model: params/bias_0 is 2\]"
    ):
        jg.save(path, MADE.clone(hidden_sizes=(5,)), PARAMS)
    with pytest.raises(ValueError, match="params must be those of the model: it lacks params/bi"):
        jg.save(path, MADE, {})
    with pytest.raises(TypeError, match="params must hold arrays alone, got str"):
        jg.save(path, MADE, {"params": "text"})
    with pytest.raises(ValueError, match="vocabulary must have the model's num_symbols=4, got 256"):
        jg.save(path, MADE, PARAMS, vocabulary=jg.data.ByteVocabulary())
    for notes in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(TypeError, match="metadata must be what JSON has"):
            jg.save(path, MADE, PARAMS, metadata=notes)
    assert not path.exists()


def test_flipped_bits_are_seen_wherever_they_are(tmp_path):
    path = tmp_path / "model"
    jg.save(path, MADE, PARAMS)
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 25):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(WeightsError):
            jg.load(path)
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        jg.load(path)


def made_node(**changes):
    return {"class": "MADE", "fields": {"num_dims": 3, "num_symbols": 4, **changes}}


BAD = {
    "newer": ({"format": 2, "jaxgen": "9.1"}, r"a newer jaxgen, 9.1, wrote it, in format 2; this"),
    "class": ({"model": {"class": "Popen", "fields": {}}}, "this jaxgen has no class 'Popen'"),
    "function": ({"model": {"class": "fit_independent", "fields": {}}}, "no class 'fit_indep"),
    "private": ({"model": {"class": "_chain", "fields": {}}}, "no class '_chain'"),
    "tuple": ({"model": {"class": "GaussianMixture", "fields": {}}}, "no class 'GaussianMix"),
    "no_model": ({"model": {"class": "Bits", "fields": {}}}, "Bits is no model"),
    "field": ({"model": made_node(depth=3)}, "MADE has no field depth in this jaxgen"),
    "lacking": ({"model": {"class": "MADE", "fields": {"num_dims": 3}}}, "missing 1 required"),
    "kind": ({"model": {"eval": "1"}}, "has a value of unknown kind 'eval'"),
    "nested": ({"model": made_node(conditional={"class": "os", "fields": {}})}, "no class 'os'"),
    "vocabulary": ({"vocabulary": made_node()}, "MADE is no vocabulary"),
    "dtype": ({"model": made_node(num_dims={"dtype": "code"})}, "code"),
    "params": ({"params": {"dict": {"a": "array"}}}, "its arrays are not those of its parameters"),
    "params_class": ({"params": {"class": "MADE", "fields": {}}}, "part of unknown kind 'class'"),
    "list": ([], "list indices"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_description_of_something_else_is_refused(name, tmp_path):
    changes, message = BAD[name]
    path = tmp_path / "model"
    jg.save(path, MADE, PARAMS)
    about = json.loads(weights.read(path)[2])
    about = {**about, **changes} if isinstance(changes, dict) else changes
    weights.write(path, PARAMS, json.dumps(about))
    with pytest.raises(
        WeightsError, match=f"model is no bundle that this jaxgen can open: .*{message}"
    ):
        jg.load(path)
    weights.write(path, PARAMS, "[" * 100_000)
    with pytest.raises(WeightsError, match="is no bundle"):
        jg.load(path)


def test_opening_an_autoregressive_model_does_not_load_distrax(tmp_path):
    jg.save(tmp_path / "model", MADE, PARAMS)
    code = (
        "import sys, jaxgen as jg; jg.load(sys.argv[1]);"
        "print({'distrax', 'orbax', 'constriction'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"


def test_every_class_that_a_model_may_have_is_known():
    for name in jg.models.__all__:
        cls = getattr(jg.models, name)
        if isinstance(cls, type) and issubclass(cls, jg.models.Conditional):
            assert name == "Conditional" or bundle._public_class(name) is cls
