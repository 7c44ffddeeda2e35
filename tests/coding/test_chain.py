import resource
import struct
import time
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import coding
from jaxgen.coding import _chain as chain
from jaxgen.coding import _file as file
from jaxgen.coding._stack import Stack
from jaxgen.models.autoregressive._independent import Independent, fit_independent
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._transformer import CausalTransformer
from jaxgen.objectives._likelihood import log_prob

MODEL = MADE(num_dims=6, num_symbols=4, hidden_sizes=(8,))
PARAMS = MODEL.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
X = np.random.default_rng(0).integers(0, 4, (50, 6)).astype(np.int32)
DATA = coding.encode(MODEL, PARAMS, X)
LONG = coding.encode(MODEL, PARAMS, np.resize(X, (1024, 6)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_round_trip_whatever_the_integers(dtype):
    data = coding.encode(MODEL, PARAMS, X.astype(dtype))
    assert data == DATA
    chex.assert_trees_all_equal(coding.decode(MODEL, PARAMS, data), X)


@pytest.mark.parametrize("num_rows", [0, 1, 1023, 1025])
def test_round_trip_at_the_edges_of_a_chunk(num_rows):
    x = np.resize(X, (num_rows, 6))
    decoded = coding.decode(MODEL, PARAMS, coding.encode(MODEL, PARAMS, x))
    chex.assert_trees_all_equal(decoded, x)
    assert decoded.shape == (num_rows, 6)


@pytest.mark.parametrize("num_rows", [0, 1, 1025])
def test_one_symbol_alone_costs_nothing(num_rows):
    model, params = Independent(3, 1), {"params": {"table": np.zeros((3, 1), np.float32)}}
    x = np.zeros((num_rows, 3), np.int32)
    data = coding.encode(model, params, x)
    assert len(data) == coding.HEADER_BYTES + num_rows // 64
    decoded = coding.decode(model, params, data)
    chex.assert_trees_all_equal(decoded, x)
    assert decoded.shape == x.shape
    with pytest.raises(ValueError, match=r"x must hold symbols in \[0, 1\), got \[1, 1\]"):
        coding.encode(model, params, x[:1] + 1 if num_rows else np.ones((1, 3), int))


def test_bits_may_be_booleans():
    model, params = Independent(2, 2), {"params": {"table": np.zeros((2, 2), np.float32)}}
    x = np.array([[True, False], [False, False]])
    assert coding.encode(model, params, x) == coding.encode(model, params, x.astype(np.int32))


def test_symbols_next_to_certain_need_hardly_a_word():
    model, params = Independent(6, 4), {"params": {"table": np.tile([60.0, 0, 0, 0], (6, 1))}}
    x = np.zeros((3000, 6), np.int32)
    data = coding.encode(model, params, x)
    assert len(data) <= coding.HEADER_BYTES + 3000 // 64 + 8
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)


def test_the_words_that_fill_a_short_code_up_are_zeros_and_no_more_than_needed():
    model, params = Independent(6, 4), {"params": {"table": np.tile([60.0, 0, 0, 0], (6, 1))}}
    x = np.zeros((3000, 6), np.int32)
    code = coding.encode(model, params, x)[40:]
    for other in (code + bytes(2), code[:-2], code[:-1] + b"\1", code[:-2] + b"\1\0"):
        with pytest.raises(coding.CodeError, match="damaged"):
            coding.decode(model, params, forged(3000, other, model, params, x))


def test_length_is_the_claim():
    x = np.resize(X, (2000, 6))
    claim = coding.claimed_bits(log_prob(MODEL, PARAMS, x))
    bits = 8 * (len(coding.encode(MODEL, PARAMS, x)) - coding.HEADER_BYTES)
    assert claim <= bits <= 1.0005 * claim + 64


def test_symbols_the_model_thinks_impossible_survive():
    model = Independent(2, 3)
    params = {"params": {"table": jnp.array([[0.0, -jnp.inf, 0.0], [-200.0, 0.0, 0.0]])}}
    x = np.array([[1, 0], [0, 1], [2, 2]], np.int32)
    chex.assert_trees_all_equal(coding.decode(model, params, coding.encode(model, params, x)), x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must start with a header of 40 bytes"),
        (b"PK" + DATA[2:], "must start with a header"),
        (DATA[:4] + b"\x02" + DATA[5:], "format version 2, this code reads 4"),
        (DATA[:-1], "damaged, cut short or goes on after its end"),
        (DATA[:-4], "damaged, cut short or goes on after its end"),
        (DATA[:40], "damaged, cut short or goes on after its end"),
        (DATA + bytes(4), "damaged, cut short or goes on after its end"),
        (DATA + DATA, "damaged, cut short or goes on after its end"),
        (DATA[:8] + (2**30).to_bytes(4, "little") + DATA[12:], "damaged, cut short or goes on"),
    ],
)
def test_damaged_data_is_refused(data, message):
    with pytest.raises(coding.CodeError, match=message):
        coding.decode(MODEL, PARAMS, data)


def test_every_flipped_bit_is_refused_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(chain, "decode", lambda *_: pytest.fail("decoded"))
    for bit in range(8 * len(DATA)):
        data = bytearray(DATA)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(coding.CodeError):
            coding.decode(MODEL, PARAMS, bytes(data))


def forged(num_rows, code, model=MODEL, params=PARAMS, x=X):
    """A file whose header and digest agree, though its code has not what the header says."""
    shape = (num_rows, model.num_dims, model.num_symbols)
    header = file._HEADER.pack(
        b"jxgC", file._VERSION, 0, *shape, file.checksum(x), file.fingerprint(params)
    )
    return header + file.digest(header, code) + code


def test_a_header_that_promises_more_than_the_code_holds_is_refused_at_once():
    coding.decode(MODEL, PARAMS, LONG)  # compiles
    for code in (b"", DATA[40:], bytes(8), b"\xff" * 64):
        # Of 537 rows no file was ever made, but a program for as many lanes.
        for num_rows in (537, 1024, 2**22, 2**30, 2**32 - 1):
            tracemalloc.start()
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            with pytest.raises(coding.CodeError, match="damaged"):
                coding.decode(MODEL, PARAMS, forged(num_rows, code))
            assert time.process_time() - start < 1
            assert tracemalloc.get_traced_memory()[1] < 2**20
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 2**16
            tracemalloc.stop()


def test_a_header_that_asks_for_more_than_its_code_has_is_refused_before_anything_is_done(
    monkeypatch,
):
    monkeypatch.setattr(chain, "decode", lambda *_: pytest.fail("decoded"))
    for num_rows, size in ((64, 0), (128, 1), (2**32 - 1, 1000)):
        with pytest.raises(coding.CodeError, match=f"{num_rows} rows have {num_rows // 64} bytes"):
            coding.decode(MODEL, PARAMS, forged(num_rows, bytes(size)))


def test_a_forged_header_over_a_code_without_words_is_refused():
    model, params = Independent(2, 1), {"params": {"table": np.zeros((2, 1), np.float32)}}
    with pytest.raises(coding.CodeError):
        coding.decode(model, params, forged(2**32 - 1, b"", model, params))
    with pytest.raises(coding.CodeError, match="must hold whole 2-byte words, got 9 bytes"):
        coding.decode(MODEL, PARAMS, forged(1, bytes(9)))


def test_the_most_rows_are_what_a_header_holds():
    def written(num_rows):
        return file.write("chain", {}, np.zeros((num_rows, 0), np.int32), 2, b"")

    assert file.parse(written(file.MAX_ROWS))[0].num_rows == file.MAX_ROWS
    with pytest.raises(struct.error):
        written(file.MAX_ROWS + 1)


def test_another_model_is_refused():
    other = jax.tree.map(lambda leaf: leaf + 1e-6, PARAMS)
    with pytest.raises(coding.CodeError, match="encoded with other parameters"):
        coding.decode(MODEL, other, DATA)
    wider = MADE(num_dims=7, num_symbols=4, hidden_sizes=(8,))
    with pytest.raises(coding.CodeError, match="holds 6 coordinates of 4 symbols, the model has 7"):
        coding.decode(wider, PARAMS, DATA)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x must hold symbols in \[0, 4\), got \[0, 4\]"):
        coding.encode(MODEL, PARAMS, np.array([[0, 1, 2, 3, 4, 0]]))
    with pytest.raises(ValueError, match=r"x must hold symbols in \[0, 4\), got \[-1, 3\]"):
        coding.encode(MODEL, PARAMS, np.array([[0, 1, 2, 3, -1, 0]]))
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 6\), got \(6,\)"):
        coding.encode(MODEL, PARAMS, X[0])
    with pytest.raises(TypeError, match="x must hold integers"):
        coding.encode(MODEL, PARAMS, X.astype(float))
    with pytest.raises(ValueError, match=r"context must be a scalar or have 50 rows, got .*\(49,"):
        coding.encode(MODEL, PARAMS, X, context=np.zeros(49, np.int32))
    with pytest.raises(ValueError, match=r"context must be a scalar or have 50 rows, got .*\(51,"):
        coding.decode(MODEL, PARAMS, DATA, context=np.zeros(51, np.int32))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    with pytest.raises(ValueError, match="NaN probabilities at coordinate 0"):
        coding.encode(MODEL, broken, X)
    half = {"params": {"table": np.array([[0.0] * 3, [np.nan] * 3], np.float32)}}
    with pytest.raises(ValueError, match="NaN probabilities at coordinate 1"):
        coding.encode(Independent(2, 3), half, np.zeros((1, 2), int))


def test_a_file_is_the_same_in_every_version():
    """Of probabilities that every device computes alike."""
    model, params = Independent(2, 4), {"params": {"table": np.zeros((2, 4), np.float32)}}
    data = coding.encode(model, params, np.array([[0, 1], [2, 3], [3, 0]]))
    header = "6a78674304000000030000000200000004000000160117b8b5e343a3f0e5fa65"
    assert data.hex() == header + "c14cee8faebae351" + "202822120010"


def test_a_program_of_one_row_has_two_lanes_and_does_not_copy_the_cache_at_each_step():
    assert [chain.num_lanes(n) for n in (1, 2, 3, 64, 65)] == [2, 2, 4, 64, 128]
    model = CausalTransformer(6, 3, width=8, num_layers=1, num_heads=2)
    x = np.zeros((1, 6), np.int32)
    params = model.init(jax.random.key(0), x)
    stack, lanes = Stack(), chain.num_lanes(1)
    cache = chain._resize(model, params, chain._init_cache(model, params, lanes, None), 6)
    rows = chain._Rows(np.int32(1), True, stack.state, stack.top(6 * lanes))
    previous, given = np.zeros(lanes, np.int32), np.zeros((6, lanes), np.int32)
    lowered = chain._code_block.lower(
        model, params, cache, previous, np.int32(0), given, rows, chain.Softmax()
    )
    program = lowered.compile().as_text().split("ENTRY")[0]
    assert f"f32[{lanes},2,6,4]" in program
    copies = [line for line in program.splitlines() if " copy(" in line]
    assert not any("6,4]" in line for line in copies)


def test_a_fingerprint_is_known_again_only_of_the_very_arrays(monkeypatch):
    params = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
    expected = file.fingerprint(params)
    monkeypatch.setattr(file, "_digest_of", lambda _: b"computed")
    assert file.fingerprint(dict(params)) == expected
    others = [{"a": jnp.arange(3.0), "b": params["b"]}, {"c": params["a"], "b": params["b"]}]
    for other in (*others, {"a": params["a"]}, {"a": params["b"], "b": params["a"]}, {}):
        assert file.fingerprint(other) == b"computed"


def test_a_fingerprint_of_arrays_that_are_written_to_follows_them():
    params = {"a": np.zeros(3)}
    before = file.fingerprint(params)
    params["a"][0] = 1
    assert file.fingerprint(params) != before


def test_independent_model_codes_at_its_entropy():
    x = np.random.default_rng(1).choice(3, (4000, 2), p=[0.7, 0.2, 0.1]).astype(np.int32)
    model, params = Independent(2, 3), fit_independent(x, 3)
    bits = 8 * (len(coding.encode(model, params, x)) - coding.HEADER_BYTES)
    p = np.array([np.bincount(column, minlength=3) / 4000 for column in x.T])
    entropy = -np.sum(p * np.log2(p)) * 4000
    assert entropy <= bits <= 1.001 * entropy + 64


def test_a_cache_that_grows_and_doubles_by_default_change_nothing():
    model = CausalTransformer(7, 3, width=8, num_layers=1, num_heads=2, block_size=3)
    params = model.init(jax.random.key(0), jnp.zeros((1, 7), jnp.int32))
    x = np.random.default_rng(2).integers(0, 3, (5, 7)).astype(np.int32)
    with jax.enable_x64(True):
        data = coding.encode(model, params, x)
        chex.assert_trees_all_equal(coding.decode(model, params, data), x)
    claim = coding.claimed_bits(log_prob(model, params, x))
    assert 8 * (len(data) - coding.HEADER_BYTES) <= claim + 64


def test_as_many_rows_as_a_header_holds_are_coded_and_no_more(monkeypatch):
    monkeypatch.setattr(file, "MAX_ROWS", len(X))
    assert coding.encode(MODEL, PARAMS, X) == DATA
    with pytest.raises(ValueError, match="x must have at most 50 rows, got 51"):
        coding.encode(MODEL, PARAMS, np.resize(X, (51, 6)))


def test_a_precision_is_refused_by_a_chain_of_symbols():
    with pytest.raises(TypeError, match=r"precision must be None unless the model is a chain over"):
        coding.encode(MODEL, PARAMS, X, precision=1)


def test_only_words_of_zero_are_dropped():
    for words, dropped in (([0, 0, 0], 3), ([0, 5, 0], 0), ([], 0)):
        stack = Stack(words=np.array(words, np.uint16))
        assert stack.drop_zeros() == dropped
        assert stack.size == len(words) - dropped
