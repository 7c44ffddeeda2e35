import chex
import numpy as np
import pytest

from jaxgen.data._errors import DataFormatError
from jaxgen.data._records import Records
from jaxgen.data._skip_corrupt import SkipCorrupt


class Reader:
    """Records as a file of records gives them: bytes, one by one; a torn one raises."""

    def __init__(self, records, torn=()):
        self._records, self._torn = records, torn

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        assert type(index) is int
        if index in self._torn:
            raise RuntimeError(f"hash mismatch at {index}")
        return self._records[index]


class BatchReader(Reader):
    """The same, several at once."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


RECORDS = [bytes([i, 2 * i]) for i in range(10)]


def decode(record):
    first, second = np.frombuffer(record, np.uint8)
    return {"x": np.array([first, second]), "label": int(first)}


@pytest.mark.parametrize("reader", [Reader, BatchReader])
def test_records_are_decoded_and_stacked(reader):
    source = Records(reader(RECORDS), decode)
    assert len(source) == 10
    rows = np.array([3, -1, 3])
    batch = source[rows]
    chex.assert_trees_all_equal(batch["x"], np.array([[3, 6], [9, 18], [3, 6]]))
    chex.assert_trees_all_equal(batch["label"], np.array([3, 9, 3]))
    assert source[2]["label"] == 2
    assert len(source[5:]) == 5


def test_examples_need_no_decoding():
    chex.assert_trees_all_equal(
        Records(np.arange(6).reshape(3, 2))[[2, 0]], np.array([[4, 5], [0, 1]])
    )


@pytest.mark.parametrize("reader", [Reader, BatchReader])
def test_a_record_that_cannot_be_read_is_corrupt_and_named(reader):
    source = Records(reader(RECORDS, torn=[4]), decode)
    with pytest.raises(DataFormatError, match="record 4: unreadable: RuntimeError: hash mismatch"):
        source[np.arange(10)]
    with pytest.warns(RuntimeWarning, match="example 4 is corrupt"):
        batch = SkipCorrupt(source)[np.arange(10)]
    chex.assert_trees_all_equal(batch["label"], np.array([0, 1, 2, 3, 5, 5, 6, 7, 8, 9]))


def test_a_record_that_cannot_be_decoded_is_corrupt_and_named():
    source = Records([*RECORDS[:3], b"x", *RECORDS[4:]], decode)
    with pytest.raises(
        DataFormatError, match="record 3: cannot be decoded: ValueError: not enough"
    ):
        source[3]


def test_examples_of_two_shapes_are_refused():
    source = Records([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match=r"of one shape, got float64 \(2,\) of record 0 and"):
        source[[0, 1]]
    with pytest.raises(ValueError, match=r"len\(source\) must be at least 1"):
        Records([])


def test_memory_that_runs_out_is_no_corrupt_record():
    def decode(record):
        raise MemoryError

    with pytest.raises(MemoryError):
        Records(RECORDS, decode)


def test_the_fingerprint_is_of_the_examples():
    found = [
        Records(RECORDS, decode),
        Records(RECORDS[:9], decode),
        Records(RECORDS[::-1], decode),
        Records(RECORDS, lambda record: decode(record)["label"]),
        Records(Reader(RECORDS, torn=[0]), decode),
    ]
    assert len({source.fingerprint for source in found}) == len(found)
    assert Records(list(RECORDS), decode).fingerprint == found[0].fingerprint


def test_array_records_are_read_through_grain(tmp_path):
    import grain
    from array_record.python import array_record_module as module

    path = tmp_path / "a.array_record"
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in RECORDS:
        writer.write(record)
    writer.close()
    source = Records(grain.sources.ArrayRecordDataSource(str(path)), decode)
    chex.assert_trees_all_equal(source[np.arange(10)]["label"], np.arange(10))
    mapped = grain.MapDataset.source(RECORDS).map(decode)
    assert Records(mapped).fingerprint == source.fingerprint
