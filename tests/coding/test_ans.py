import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.coding import _ans as ans
from jaxgen.coding import _shares as shares

NUM = 40
WHOLE = 2**ans.PRECISION
push, interval = jax.jit(ans.push), jax.jit(shares.interval)
ends_of = jax.jit(shares.ends_of)


@jax.jit
def pop(state, words, ends):
    return ans.pop(state, words, jnp.int32(0), len(ends), shares.find(ends))


def reference(x, starts, sizes):
    """The same in integers of any size; the state and the words, the lowest on the stack first."""
    words = []
    for start, size in zip(starts[::-1], sizes[::-1], strict=True):
        while x >= int(size) << ans.PRECISION:
            words.append(x & 0xFFFF)
            x >>= 16
        x = (x // int(size) << ans.PRECISION) + int(start) + x % int(size)
    return x, words


def as_number(state):
    return (int(state.high) << ans.PRECISION) + int(state.low)


def edges(draw):
    """Ends of the intervals of four symbols, each with one slot at least."""
    slots = st.integers(1, WHOLE - 1) | st.sampled_from([1, 2, 3, WHOLE - 3, WHOLE - 2, WHOLE - 1])
    inner = draw(st.lists(slots, min_size=3, max_size=3, unique=True))
    return [*sorted(inner), WHOLE]


@st.composite
def pushes(draw):
    kinds = [edges(draw) for _ in range(5)]
    order = draw(st.lists(st.integers(0, 4), min_size=NUM, max_size=NUM))
    ends = np.array([kinds[i] for i in order], np.uint32)
    symbols = draw(st.lists(st.integers(0, 3), min_size=NUM, max_size=NUM))
    x = draw(st.integers(2**32, 2**48 - 1))
    return ends, np.array(symbols, np.int32), x


@given(pushes())
def test_pushing_is_the_arithmetic_of_whole_numbers_and_popping_undoes_it(case):
    ends, symbols, x = case
    begin = ans.unpack(x.to_bytes(6, "little"))
    starts, sizes = interval(ends, symbols)
    pushed = push(begin, starts, sizes)
    wanted, words = reference(x, np.asarray(starts), np.asarray(sizes))
    assert as_number(pushed.state) == wanted
    np.testing.assert_array_equal(pushed.words[: pushed.num_words], words)
    top_first = np.pad(np.array(words[::-1], np.uint16), (0, 2 * NUM - len(words)))
    popped = pop(pushed.state, top_first, ends)
    np.testing.assert_array_equal(popped.symbols, symbols)
    assert as_number(popped.state) == x
    assert popped.num_words == len(words)


@given(st.integers(2**32, 2**48 - 1), st.integers(0, 2**32 - 1))
def test_popping_whatever_is_there_and_pushing_it_again_changes_nothing(x, seed):
    rng = np.random.default_rng(seed)
    inner = np.sort(rng.choice(WHOLE - 1, 3, replace=False, shuffle=False) + 1)
    inner = inner if seed % 2 else [1, 2, WHOLE - 1]
    ends = np.tile(np.array([*inner, WHOLE], np.uint32), (NUM, 1))
    words = rng.integers(0, 2**16, 2 * NUM).astype(np.uint16)
    popped = pop(ans.unpack(x.to_bytes(6, "little")), words, ends)
    pushed = push(popped.state, *interval(ends, popped.symbols))
    assert as_number(pushed.state) == x
    assert pushed.num_words == popped.num_words
    put_back = np.asarray(pushed.words[: pushed.num_words])[::-1]
    chex.assert_trees_all_equal(put_back, words[: popped.num_words])


def test_states_are_packed_into_six_bytes():
    for x in (2**32, 2**48 - 1, 0x123456789ABC):
        assert ans.pack(ans.unpack(x.to_bytes(6, "little"))) == x.to_bytes(6, "little")
    assert as_number(ans.empty_state()) == 2**32
