import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.coding import _chain as chain
from jaxgen.models.autoregressive._independent import Independent, fit_independent
from jaxgen.models.autoregressive._made import MADE

MODEL = MADE(num_dims=6, num_symbols=4, hidden_sizes=(8,))
PARAMS = MODEL.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
X = np.random.default_rng(0).integers(0, 4, (50, 6)).astype(np.int32)
DATA = chain.encode(MODEL, PARAMS, X)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_round_trip_whatever_the_integers(dtype):
    data = chain.encode(MODEL, PARAMS, X.astype(dtype))
    assert data == DATA
    np.testing.assert_array_equal(chain.decode(MODEL, PARAMS, data), X)


@pytest.mark.parametrize("num_rows", [0, 1, 1023, 1025])
def test_round_trip_at_the_edges_of_a_chunk(num_rows):
    x = np.resize(X, (num_rows, 6))
    decoded = chain.decode(MODEL, PARAMS, chain.encode(MODEL, PARAMS, x))
    np.testing.assert_array_equal(decoded, x)
    assert decoded.shape == (num_rows, 6)


def test_length_is_the_claim():
    x = np.resize(X, (2000, 6))
    claim = chain.claimed_bits(MODEL.log_prob(PARAMS, x))
    bits = 8 * (len(chain.encode(MODEL, PARAMS, x)) - chain.HEADER_BYTES)
    assert claim <= bits <= 1.0005 * claim + 64


def test_symbols_the_model_thinks_impossible_survive():
    model = Independent(2, 3)
    params = {"params": {"table": jnp.array([[0.0, -jnp.inf, 0.0], [-200.0, 0.0, 0.0]])}}
    x = np.array([[1, 0], [0, 1], [2, 2]], np.int32)
    np.testing.assert_array_equal(chain.decode(model, params, chain.encode(model, params, x)), x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must start with a header of 40 bytes"),
        (b"PK" + DATA[2:], "must start with a header"),
        (DATA[:4] + b"\x09" + DATA[5:], "format version 9, this code reads 1"),
        (DATA[:-1], "must hold whole 4-byte words"),
        (DATA[:-4], "damaged|checksum"),
        (DATA[:45] + bytes([DATA[45] ^ 1]) + DATA[46:], "damaged|checksum"),
    ],
)
def test_damaged_data_is_refused(data, message):
    with pytest.raises(chain.CodeError, match=message):
        chain.decode(MODEL, PARAMS, data)


def test_another_model_is_refused():
    other = jax.tree.map(lambda leaf: leaf + 1e-6, PARAMS)
    with pytest.raises(chain.CodeError, match="encoded with other parameters"):
        chain.decode(MODEL, other, DATA)
    wider = MADE(num_dims=7, num_symbols=4, hidden_sizes=(8,))
    with pytest.raises(chain.CodeError, match="holds 6 coordinates of 4 symbols, the model has 7"):
        chain.decode(wider, PARAMS, DATA)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must hold symbols in \[0, 4\), got \[0, 4\]"):
        chain.encode(MODEL, PARAMS, np.array([[0, 1, 2, 3, 4, 0]]))
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 6\), got \(6,\)"):
        chain.encode(MODEL, PARAMS, X[0])
    with pytest.raises(TypeError, match="x must hold integers"):
        chain.encode(MODEL, PARAMS, X.astype(float))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    with pytest.raises(ValueError, match="NaN probabilities at coordinate 0"):
        chain.encode(MODEL, broken, X)


def test_independent_model_codes_at_its_entropy():
    x = np.random.default_rng(1).choice(3, (4000, 2), p=[0.7, 0.2, 0.1]).astype(np.int32)
    model, params = Independent(2, 3), fit_independent(x, 3)
    bits = 8 * (len(chain.encode(model, params, x)) - chain.HEADER_BYTES)
    p = np.array([np.bincount(column, minlength=3) / 4000 for column in x.T])
    entropy = -np.sum(p * np.log2(p)) * 4000
    assert entropy <= bits <= 1.001 * entropy + 64
