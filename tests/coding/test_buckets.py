import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxgen.coding import _ans as ans
from jaxgen.coding import _buckets as buckets

NUM = 5
ALL = np.arange(2**buckets.BUCKET_BITS, dtype=np.int32)
REFERENCE = (np.float32([0, 1, -2, 0, 5]), np.float32([1, 2, 0.5, 1, 3]))
normals = jax.jit(buckets.normals, static_argnums=3)


@jax.jit
def all_shares(family):
    """Starts and sizes of the intervals of every bucket, `[2^14, N]` each."""
    return jax.vmap(lambda bucket: buckets.interval(family, jnp.full(NUM, bucket)))(ALL)


@jax.jit
def pop(state, words, family):
    return ans.pop(state, words, jnp.int32(0), NUM, buckets.find(family), stir=ans.STIR)


@jax.jit
def push(state, family, symbols):
    return ans.push(state, *buckets.interval(family, symbols), stir=ans.STIR)


reals = st.floats(-30, 30, width=32)
scales = st.floats(-25, 6).map(lambda x: np.float32(np.exp(x)))
families = st.tuples(
    st.lists(reals, min_size=NUM, max_size=NUM), st.lists(scales, min_size=NUM, max_size=NUM)
)


@given(families, st.sampled_from([0, 1]))
def test_shares_make_up_the_whole_whatever_the_normal(family, least):
    family = normals(np.float32(family[0]), np.float32(family[1]), REFERENCE, least)
    starts, sizes = (np.asarray(a).astype(np.int64) for a in all_shares(family))
    assert sizes.min() >= least
    chex.assert_trees_all_equal(starts[0], 0)
    chex.assert_trees_all_equal(starts[1:], (starts + sizes)[:-1])
    chex.assert_trees_all_equal((starts + sizes)[-1], 2**24)


@given(families, st.sampled_from([0, 1]), st.integers(2**32, 2**48 - 1), st.integers(0, 2**32 - 1))
def test_popping_whatever_is_there_and_pushing_it_again_changes_nothing(family, least, x, seed):
    family = normals(np.float32(family[0]), np.float32(family[1]), REFERENCE, least)
    words = np.random.default_rng(seed).integers(0, 2**16, 2 * NUM).astype(np.uint16)
    popped = pop(ans.unpack(x.to_bytes(6, "little")), words, family)
    assert popped.symbols.min() >= 0
    assert popped.symbols.max() < len(ALL)
    pushed = push(popped.state, family, popped.symbols)
    assert ans.pack(pushed.state) == x.to_bytes(6, "little")
    assert pushed.num_words == popped.num_words
    put_back = np.asarray(pushed.words[: pushed.num_words])[::-1]
    chex.assert_trees_all_equal(put_back, words[: popped.num_words])


@pytest.mark.parametrize("least", [0, 1])
def test_shares_are_those_of_the_normal_in_float64(least):
    mean = np.float32([0, 2, -2.3, 0.5, 5])
    scale = np.float32([1, 0.1, 0.02, 0.8, 0.3])
    _, sizes = all_shares(normals(mean, scale, REFERENCE, least))
    shares = np.asarray(sizes) / 2**24
    location, unit = (np.float64(a) for a in REFERENCE)
    edges = location + unit * stats.norm.ppf(np.linspace(0, 1, len(ALL) + 1))[:, None]
    exact = np.diff(stats.norm.cdf((edges - mean) / scale), axis=0)
    # What is popped comes from the shares, what is pushed from the normal. A slot for each bucket
    # is a thousandth of the whole; the table's cells cost less.
    costs = stats.entropy(exact, shares, base=2) if least else stats.entropy(shares, exact, base=2)
    assert np.all(costs <= (2e-3 if least else 2e-4)), costs
    values = np.asarray(buckets.centers(REFERENCE, jnp.tile(ALL[:, None], (1, NUM))))
    chex.assert_trees_all_close(
        np.sum(shares * values, axis=0), mean, atol=5e-3 if least else 2e-4, rtol=1e-7
    )


def test_the_tables_are_the_same_in_every_version():
    """They belong to the format of files."""
    found = [zlib.crc32(table.astype("<i4").tobytes()) for table in (buckets._EDGES, buckets._CDF)]
    assert found == [1914601136, 1385549371]


def test_buckets_stand_for_their_medians():
    values = np.asarray(buckets.centers(REFERENCE, jnp.tile(ALL[:, None], (1, NUM))))
    location, unit = REFERENCE
    middles = np.tile((ALL[:, None] + 0.5) / len(ALL), (1, NUM))
    chex.assert_trees_all_close(
        stats.norm.cdf((values - location) / unit), middles, atol=1e-6, rtol=1e-7
    )
