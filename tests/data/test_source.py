import chex
import numpy as np
import pytest

from jaxgen.data._source import Source, Subset


class Squares(Source):
    """Examples (i, i²) of ten."""

    fingerprint = "squares"

    def __len__(self):
        return 10

    def _read(self, rows):
        assert rows.dtype == np.int64
        return {"i": rows, "square": rows[:, None] ** 2}


def test_an_integer_gives_an_example_and_integers_give_a_batch():
    source = Squares()
    assert source[3] == {"i": 3, "square": np.array([9])}
    assert source[np.int32(-1)]["i"] == 9
    batch = source[np.array([4, -10, 4], np.int16)]
    chex.assert_trees_all_equal(batch["i"], np.array([4, 0, 4]))
    chex.assert_trees_all_equal(batch["square"], np.array([[16], [0], [16]]))
    assert source[[]]["square"].shape == (0, 1)
    assert [example["i"] for example in source] == list(range(10))


@pytest.mark.parametrize("index", [10, -11, [0, 10], np.array([-11])])
def test_an_index_out_of_range_is_named(index):
    with pytest.raises(IndexError, match=r"index (10|-11) is out of range for 10 examples"):
        Squares()[index]


@pytest.mark.parametrize("index", [1.0, "1", [True, False], [[1]], None, [0.5]])
def test_an_index_that_is_none_is_refused(index):
    with pytest.raises(TypeError, match=r"an index must be an integer, a slice or integers \[B\]"):
        Squares()[index]


@pytest.mark.parametrize("cut", [slice(3, 8), slice(None, None, 3), slice(7, 2, -2), slice(20, 30)])
def test_a_slice_is_a_part_that_reads_the_same_examples(cut):
    part = Squares()[cut]
    expected = list(range(10))[cut]
    assert isinstance(part, Subset)
    assert len(part) == len(expected)
    np.testing.assert_array_equal(part[np.arange(len(part))]["i"], expected)
    if expected:
        assert part[-1]["i"] == expected[-1]
        assert part[1:][0]["i"] == expected[1]


def test_rows_in_any_order_are_a_part():
    order = np.random.default_rng(0).permutation(10)
    train, valid = Subset(Squares(), order[:7]), Subset(Squares(), order[7:])
    found = np.concatenate([train[np.arange(7)]["i"], valid[np.arange(3)]["i"]])
    chex.assert_trees_all_equal(found, order)
    assert Subset(Squares(), [-1])[0]["i"] == 9
    assert len(Subset(Squares(), [])) == 0


@pytest.mark.parametrize("rows", [[10], range(5, 12), range(-11, 0), np.array([0, -11])])
def test_rows_that_the_source_has_not_are_refused(rows):
    with pytest.raises(IndexError, match="out of range for 10"):
        Subset(Squares(), rows)


@pytest.mark.parametrize("rows", [3, [0.5], [[1]], [True]])
def test_rows_that_are_no_integers_are_refused(rows):
    with pytest.raises(TypeError, match="integers"):
        Subset(Squares(), rows)


def test_the_fingerprint_of_a_part_tells_parts_apart():
    parts = [
        Squares()[:5],
        Squares()[5:],
        Squares()[:5][1:],
        Subset(Squares(), [0, 1]),
        Subset(Squares(), [1, 0]),
    ]
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert Squares()[:5].fingerprint == parts[0].fingerprint
    assert Subset(np.arange(3), [0]).fingerprint is None
