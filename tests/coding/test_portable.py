import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import coding
from jaxgen.coding import _ans as ans
from jaxgen.coding import _decisions as decisions
from jaxgen.coding import _file as file
from jaxgen.coding import _portable as portable
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.latent._vae import VAE
from jaxgen.objectives._likelihood import log_prob

WHOLE = 2**24
MODEL = MADE(num_dims=6, num_symbols=5, hidden_sizes=(8,))
PARAMS = MODEL.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
X = np.random.default_rng(0).integers(0, 5, (400, 6)).astype(np.int32)
DATA = coding.encode(MODEL, PARAMS, X, is_portable=True)


def nudged(nats):
    """Parameters moved a little, as a stand-in for a machine that rounds otherwise."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: leaf + np.float32(nats) * rng.choice([-1, 1], leaf.shape).astype("f4"), PARAMS
    )


def read_elsewhere(monkeypatch, params):
    monkeypatch.setattr(file, "fingerprint", lambda _: file.parse(DATA)[0].fingerprint)
    return coding.decode(MODEL, params, DATA)


def test_round_trip_at_the_bits_of_the_model():
    chex.assert_trees_all_equal(coding.decode(MODEL, PARAMS, DATA), X)
    info = coding.inspect(DATA)
    assert info.method == "portable"
    assert 2**-17 <= info.tolerance < 1e-4
    claim = coding.claimed_bits(log_prob(MODEL, PARAMS, X))
    assert 0.999 * claim <= info.net_bits <= 1.005 * claim + 96


def test_logits_with_other_last_bits_read_the_file(monkeypatch):
    """What no plain file survives: weights that are moved by about as much as is tolerated."""
    params = nudged(coding.inspect(DATA).tolerance / 20)
    assert not np.array_equal(MODEL.logits(params, X), MODEL.logits(PARAMS, X))
    chex.assert_trees_all_equal(read_elsewhere(monkeypatch, params), X)


def test_logits_that_differ_by_more_are_told(monkeypatch):
    with pytest.raises(coding.CodeError, match=r"checksum|log-odds differ here"):
        read_elsewhere(monkeypatch, nudged(3e-2))


@pytest.mark.parametrize("num_symbols", [2, 3, 5, 64, 65])
def test_decisions_find_every_symbol_whose_interval_holds_the_slot(num_symbols):
    rng = np.random.default_rng(num_symbols)
    logits = (
        rng.normal(size=(7, num_symbols)).astype("f4") * np.array([0, 1, 1, 3, 9, 40, 99])[:, None]
    )
    logits = logits.astype("f4")
    logits[2, 1:] = -np.inf
    offsets = rng.integers(0, 256, 7).astype(np.uint8)
    every = np.tile(np.arange(num_symbols, dtype=np.int32), (7, 1))

    @jax.jit
    def intervals(logits, offsets):
        grid = decisions.Grid(
            jnp.int32(16), jnp.asarray(decisions.shares_of_cells(16)), offsets[None]
        )
        taken = grid.take(jnp.int32(0), logits)
        levels = tuple(level[:, None] for level in decisions.levels(logits))
        levels = tuple(jnp.repeat(level, num_symbols, axis=1) for level in levels)
        places = decisions.path(levels, every).reshape(7 * num_symbols, -1)
        flat = grid._replace(offsets=jnp.repeat(offsets, num_symbols))
        found = decisions.interval(every.ravel(), flat.shares_at(places), num_symbols)
        starts, sizes = (a.reshape(7, num_symbols) for a in found)
        rows = jnp.repeat(jnp.arange(7), num_symbols)
        again = [
            jax.vmap(taken.find_fn)(rows, slots.ravel())[0].reshape(7, num_symbols)
            for slots in (starts, starts + sizes - 1)
        ]
        return starts, sizes, again

    starts, sizes, again = intervals(logits, offsets)
    sizes = np.asarray(sizes).astype(int)
    assert sizes.min() >= 1
    chex.assert_trees_all_equal(starts, np.cumsum(sizes, axis=1) - sizes)
    chex.assert_trees_all_equal(sizes.sum(axis=1), WHOLE)
    for found in again:
        chex.assert_trees_all_equal(found, every)
    p = np.asarray(jax.nn.softmax(logits[[1, 3, 4]]), float)
    cost = np.sum(p * np.log2(p * WHOLE / sizes[[1, 3, 4]]), axis=1)
    assert np.all(cost < 0.02), cost


def test_shares_of_cells_are_those_of_their_middles():
    table = decisions.shares_of_cells(8)
    assert table.shape == (256, 511)
    assert table[128, 8] == WHOLE // 2  # even odds
    middle = (2.5 - 0.25) / 8  # the cell from 2 − ¼ to 3 − ¼ eighths
    odds = (1 - middle) ** 4
    assert abs(table[64, 10] - WHOLE / (1 + odds)) <= 1
    mirrored = table[192, 16 - 10]  # boundaries moved the other way
    assert abs(int(table[64, 10]) + int(mirrored) - WHOLE) <= 1
    assert np.all(np.diff(table[:, :17].astype(int), axis=1) >= 0)


def test_no_decision_stands_next_to_a_boundary_of_its_group():
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (5000, 2)).astype("f4")
    part = portable._Seen(np.zeros(5000, np.int32), places, np.ones((5000, 2), bool), 0.0)
    tolerance, cells = 1e-4, 24
    chosen = portable._first_free(part, tolerance, cells, 8)
    assert len(chosen) % 2 == 1
    assert chosen.min() >= 0
    assert chosen.max() > 0
    offsets = portable._dealt(chosen, 5000).astype(float)[:, None] / 256
    at = places.astype(float) * cells + offsets
    distance = np.abs(at - np.round(at)) / cells
    assert np.all(distance >= tolerance * (1 - np.abs(places)) / 4)
    # Where groups are large, none has a free one.
    assert portable._first_free(part, tolerance, cells, 12).min() == -1


@pytest.mark.parametrize("success", [1, 77, 255])
def test_offsets_have_shares_that_fill_the_whole(success):
    sizes = np.diff(portable._ends(success).astype(int), prepend=0)
    assert sizes.min() >= 1
    assert sizes.sum() == WHOLE
    assert abs(sizes[0] / WHOLE - success / 256) < 1e-4


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_few_rows_and_one_symbol_alone(num_rows):
    data = coding.encode(MODEL, PARAMS, X[:num_rows], is_portable=True)
    chex.assert_trees_all_equal(coding.decode(MODEL, PARAMS, data), X[:num_rows])
    assert (coding.inspect(data).tolerance > 0) == (num_rows > 0)
    alone, params = Independent(3, 1), {"params": {"table": np.zeros((3, 1), np.float32)}}
    x = np.zeros((num_rows, 3), np.int32)
    data = coding.encode(alone, params, x, is_portable=True)
    assert len(data) == coding.HEADER_BYTES
    chex.assert_trees_all_equal(coding.decode(alone, params, data), x)


def test_symbols_the_model_thinks_impossible_survive():
    model = Independent(2, 3)
    params = {"params": {"table": jnp.array([[0.0, -jnp.inf, 0.0], [-200.0, 0.0, 0.0]])}}
    x = np.array([[1, 0], [0, 1], [2, 2]], np.int32)
    data = coding.encode(model, params, x, is_portable=True)
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)


def test_what_cannot_be_portable_is_refused():
    with pytest.raises(TypeError, match=r"must be autoregressive for a portable file.*got VAE"):
        coding.encode(VAE(6, 2, 2, (4,)), {}, X % 2, is_portable=True)
    for deviation, said in ((1.0, r"1\.0e\+00"), (float("nan"), "nan")):
        places, is_open = np.zeros((6, 3), np.float32), np.ones((6, 3), bool)
        seen = portable._Seen(X[0], places, is_open, deviation)
        with pytest.raises(ValueError, match=f"log-odds that differ by {said} nats"):
            portable._settle([seen])


def test_forged_settings_are_refused():
    for settings in (b"", b"\x10\x05\x40", b"\x00\x05\x40\x80", b"\x10\x05\x00\x80"):
        with pytest.raises(coding.CodeError, match="damaged"):
            portable.read_settings(settings)
    code = file.parse(DATA)[1]
    for settings in (b"\xff\xff\xff\xff", b"\x01\x00\x01\x00"):
        with pytest.raises(coding.CodeError, match="log-odds differ here"):
            portable.decode(MODEL, PARAMS, X.shape, settings + code[4:], None)


def test_settings_and_states_are_where_they_were():
    """A file of probabilities that every device computes alike is the same in every version."""
    model, params = Independent(2, 4), {"params": {"table": np.zeros((2, 4), np.float32)}}
    x = np.array([[0, 1], [2, 3], [3, 0]])
    data = coding.encode(model, params, x, is_portable=True)
    assert data[:40].hex()[:12] == "6a7867430400"
    assert portable.read_settings(file.parse(data)[1]).tolerance == 2**-17
    chex.assert_trees_all_equal(coding.decode(model, params, data), x)
    assert ans.STATE_BYTES + 4 <= len(data) - 40 <= 20


def test_tolerances_go_up_to_a_nat_and_not_beyond():
    symbols, places = np.zeros(9, np.int32), np.ones((9, 1), np.float32)  # certain
    seen = [portable._Seen(symbols, places, np.ones((9, 1), bool), 0.25)]
    assert portable._settle(seen)[0].tolerance == 1
    with pytest.raises(ValueError, match=r"log-odds that differ by 2\.6e-01 nats"):
        portable._settle([seen[0]._replace(deviation=0.26)])


def random_decisions(num, num_levels=1):
    """Decisions that stand anywhere, with the sides that their odds say."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (num, num_levels))
    ratio = (1 - np.abs(places)) ** decisions.ROOT
    right = np.where(places > 0, ratio, 1) / (1 + ratio)
    sides = rng.random(places.shape) < right
    symbols = sides @ 2 ** np.arange(num_levels)[::-1]
    is_open = np.ones(places.shape, bool)
    return portable._Seen(symbols.astype(np.int32), places.astype("f4"), is_open, 0.0)


def test_the_less_tolerance_is_needed_the_more_cells_are_chosen():
    seen = [random_decisions(4000)]
    chosen = [portable._choose_cells(seen, tolerance)[0] for tolerance in (0.1, 1e-3, 1e-5)]
    assert chosen[0] == portable._CELLS_A_UNIT[0]
    assert chosen[0] < chosen[1] < chosen[2]


def test_neighbors_are_as_many_as_are_counted_and_cost_the_bits_that_cells_are_chosen_by():
    part, tolerance = random_decisions(20_000, num_levels=3), 1e-2
    cells, neighbors = portable._choose_cells([part], tolerance)
    at = part.places.astype(float) * cells
    nearest = np.abs(at - np.round(at)) / cells
    counted = np.mean(np.sum(nearest < portable._reach(part.places, tolerance), axis=1))
    assert neighbors == pytest.approx(counted, rel=0.05)
    settings, (chosen,) = portable._settle([part._replace(deviation=tolerance / 4)])
    sizes = np.diff(portable._ends(settings.success).astype(int), prepend=0)
    bits = -np.sum(np.log2(sizes[chosen] / WHOLE))
    counted = portable._choose_cells([part], settings.tolerance)[1] * len(part.symbols)
    assert bits == pytest.approx(portable._BITS_A_NEIGHBOR * counted, rel=0.2)
