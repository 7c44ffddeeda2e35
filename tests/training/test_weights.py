import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from training_trees import assert_same, every_kind

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
    assert_same(loaded, PARAMS)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_leaves_of_every_kind_come_back_as_they_were(path):
    tree = every_kind()
    weights.save_weights(path, tree)
    assert_same(weights.load_weights(path, tree), tree)
    for tree in (jnp.asarray(np.ones(2)), {"": np.ones(1), "é/ü.x": np.ones(2)}, {}):
        weights.save_weights(path, tree)
        assert_same(weights.load_weights(path, tree), tree)
    tree = every_kind()
    abstract = jax.eval_shape(lambda: {"key": jax.random.key(0), "one": jnp.zeros(())})
    weights.save_weights(path, {"key": tree["key"], "one": tree["scalar"]})
    loaded = weights.load_weights(path, abstract)
    assert_same(loaded, {"key": tree["key"], "one": tree["scalar"]})


def test_loading_compiles_nothing(path):
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), PARAMS)
    weights.save_weights(path, half)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    try:
        weights.load_weights(path, PARAMS)
    finally:
        jax.monitoring.clear_event_listeners()
    assert [name for name in compiled if "compile" in name] == []


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_widened_to_what_the_model_has(tmp_path, dtype):
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), PARAMS)
    weights.save_weights(tmp_path / "half.safetensors", half)
    assert_same(weights.load_weights(tmp_path / "half.safetensors", PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [("float32", "int32"), ("int32", "float32"), ("float32", "float16"), ("float16", "bfloat16"),
     ("bool", "float32"), ("int8", "int32")],
)  # fmt: skip
def test_another_dtype_is_refused_and_not_cast(path, stored, wanted):
    weights.save_weights(path, {"a": np.ones(2, jnp.dtype(stored))})
    with pytest.raises(
        weights.WeightsError, match=rf"a is {stored}\[2\] there and {wanted}\[2\] here"
    ):
        weights.load_weights(path, {"a": np.ones(2, jnp.dtype(wanted))})


def test_what_jax_would_cut_to_32_bits_is_refused(path):
    weights.save_weights(path, {"a": np.ones(2)})
    with pytest.raises(TypeError, match="a is float64, which needs jax_enable_x64"):
        weights.load_weights(path, {"a": jax.ShapeDtypeStruct((2,), np.float64)})


def test_another_model_is_refused_with_the_names(path):
    other = {"params": {"kernel": PARAMS["params"]["kernel"], "scale": jnp.zeros(1)}}
    with pytest.raises(
        weights.WeightsError, match=r"lacks params/scale and has params/layers/0/bias, params/la"
    ):
        weights.load_weights(path, other)
    other = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 1), np.float32), PARAMS)
    with pytest.raises(
        weights.WeightsError, match=r"kernel is float32\[2, 3\] there and float32\[2, 3, 1\] here"
    ):
        weights.load_weights(path, other)


def test_what_the_format_cannot_hold_is_refused_by_name(path):
    with pytest.raises(TypeError, match=r"safetensors cannot hold a of int4\[2\]"):
        weights.save_weights(path, {"a": np.ones(2, jnp.int4)})
    with pytest.raises(TypeError, match="leaves must be arrays or numbers, got str"):
        weights.save_weights(path, {"a": "text"})
    with pytest.raises(ValueError, match="different names, got two of a/b"):
        weights.save_weights(path, {"a/b": np.ones(1), "a": {"b": np.ones(1)}})
    assert_same(weights.load_weights(path, PARAMS), PARAMS)


def test_a_damaged_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(weights.WeightsError, match="not a whole safetensors file"):
        weights.load_weights(path, PARAMS)
    with pytest.raises(FileNotFoundError):
        weights.load_weights(path.with_name("none"), PARAMS)


def test_flipped_bits_are_seen_wherever_they_are(tmp_path):
    path, params = tmp_path / "a.safetensors", {"a": np.arange(3.0), "b": np.zeros((), np.int32)}
    weights.save_weights(path, params)
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 3):  # every byte, and every place in one
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(weights.WeightsError):
            weights.load_weights(path, params)
    size = int.from_bytes(content[:8], "little")
    path.write_bytes(content[: 8 + size] + b"\xff" + content[9 + size :])
    with pytest.raises(weights.WeightsError, match=r"damaged: its digests are not those of [ab]$"):
        weights.load_weights(path, params)


def test_a_file_of_another_program_is_read_with_a_warning(path):
    params = {"a": np.arange(3.0), "b": np.zeros((), np.int32)}
    path.write_bytes(safetensors.numpy.save(params, metadata={"format": "pt"}))
    with pytest.warns(UserWarning, match="has no digests of its arrays"):
        assert_same(weights.load_weights(path, params), params)
    path.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(weights.WeightsError, match="not a whole safetensors file"):
        weights.load_weights(path, params)
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with pytest.raises(weights.WeightsError, match=r"holds an array of type .*F8_E8M0"):
        weights.load_weights(path, params)
