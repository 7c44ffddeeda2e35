import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.training import _weights as weights

PARAMS = {
    "params": {
        "kernel": jnp.arange(6.0).reshape(2, 3),
        "layers": [{"bias": jnp.array([1.5, -2.0])}, {"bias": jnp.array([0.25])}],
    }
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    weights.save_weights(path, PARAMS)
    return path


def test_weights_come_back_as_they_were(path):
    loaded = weights.load_weights(path, jax.eval_shape(lambda: PARAMS))
    assert jax.tree.structure(loaded) == jax.tree.structure(PARAMS)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(PARAMS), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_half_precision_is_widened_to_what_the_model_has(tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), PARAMS)
    weights.save_weights(tmp_path / "half.safetensors", half)
    loaded = weights.load_weights(tmp_path / "half.safetensors", PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(loaded["params"]["kernel"], PARAMS["params"]["kernel"])


def test_another_model_is_refused_with_the_names(path):
    other = {"params": {"kernel": PARAMS["params"]["kernel"], "scale": jnp.zeros(1)}}
    with pytest.raises(
        weights.WeightsError, match=r"lacks \['params/scale'\] and has \['params/la"
    ):
        weights.load_weights(path, other)
    other = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, 1)), PARAMS)
    with pytest.raises(weights.WeightsError, match=r"kernel of shape \(2, 3\), the model has \(2"):
        weights.load_weights(path, other)


def test_a_damaged_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(weights.WeightsError, match="not a whole safetensors file"):
        weights.load_weights(path, PARAMS)
    with pytest.raises(FileNotFoundError):
        weights.load_weights(path.with_name("none"), PARAMS)
