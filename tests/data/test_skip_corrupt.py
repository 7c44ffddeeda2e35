import warnings

import numpy as np
import pytest

from jaxgen.data._errors import DataChangedError, DataFormatError
from jaxgen.data._skip_corrupt import SkipCorrupt
from jaxgen.data._source import Source


class Holey(Source):
    """Examples that are their indices; some are corrupt, and one has changed."""

    fingerprint = "holey"

    def __init__(self, corrupt, changed=None, size=10):
        self._corrupt, self._changed, self._size = set(corrupt), changed, size
        self.num_reads = 0

    def __len__(self):
        return self._size

    def _read(self, rows):
        self.num_reads += 1
        for row in rows:
            if row in self._corrupt:
                raise DataFormatError(f"file {row}", "torn")
            if row == self._changed:
                raise DataChangedError(f"file {row}: changed")
        return rows


def quiet(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return source[np.arange(len(source))].tolist()


def test_without_it_a_corrupt_example_is_fatal_and_named():
    with pytest.raises(DataFormatError, match="file 3: torn"):
        Holey([3])[np.arange(5)]


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ([3], [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]),
        ([3, 4, 7], [0, 1, 2, 5, 5, 5, 6, 8, 8, 9]),
        ([0, 8, 9], [1, 1, 2, 3, 4, 5, 6, 7, 1, 1]),
        (range(1, 10), [0] * 10),
    ],
)
def test_the_next_good_example_stands_for_a_corrupt_one(corrupt, expected):
    source = SkipCorrupt(Holey(corrupt))
    assert quiet(source) == expected
    assert source.corrupt == {i: f"file {i}: torn" for i in corrupt}
    assert len(source) == 10
    assert source.fingerprint == "holey"


def test_a_batch_does_not_depend_on_what_was_read_before():
    batches = [[3, 1], [7, 3], [4, 2], [8, 8], [9, 0]]
    whole = SkipCorrupt(Holey([3, 4, 7, 9]))
    with pytest.warns(RuntimeWarning, match="example 3 is corrupt"):
        one_by_one = [whole[batch].tolist() for batch in batches]
    assert one_by_one == [[5, 1], [8, 5], [5, 2], [8, 8], [0, 0]]
    for batch, found in zip(reversed(batches), reversed(one_by_one), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert SkipCorrupt(Holey([3, 4, 7, 9]))[batch].tolist() == found


def test_the_first_is_warned_of_and_others_are_counted():
    source = SkipCorrupt(Holey([2, 5]))
    with pytest.warns(RuntimeWarning) as record:
        source[np.tile(np.arange(10), 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source[np.arange(10)]
    assert len(record) == 1
    assert "example 2 is corrupt and left out" in str(record[0].message)
    assert "file 2: torn" in str(record[0].message)
    assert len(source.corrupt) == 2


def test_what_is_known_to_be_corrupt_is_not_read_again():
    holey = Holey([2])
    source = SkipCorrupt(holey)
    quiet(source)
    holey.num_reads = 0
    source[np.arange(10)]
    assert holey.num_reads == 1


@pytest.mark.parametrize(("corrupt", "limit"), [([1, 2, 3], 2), (range(10), 100), (range(10), 10)])
def test_too_many_end_it(corrupt, limit):
    source = SkipCorrupt(Holey(corrupt), limit)
    with pytest.raises(DataFormatError, match=r"of 10 examples are corrupt, more than.*torn"):
        quiet(source)


def test_changed_files_are_not_skipped():
    source = SkipCorrupt(Holey([3], changed=5))
    with pytest.raises(DataChangedError, match="file 5"):
        quiet(source)
    assert source.corrupt == {3: "file 3: torn"}


def test_a_part_finds_its_own_replacements():
    source = SkipCorrupt(Holey([4])[:5])
    assert quiet(source) == [0, 1, 2, 3, 0]


def test_a_source_without_a_fingerprint_has_none():
    assert SkipCorrupt(np.arange(3)).fingerprint is None
    with pytest.raises(ValueError, match="max_corrupt must be at least 1, got 0"):
        SkipCorrupt(np.arange(3), 0)
