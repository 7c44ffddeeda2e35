import gzip
import hashlib

import chex
import numpy as np
import pytest

from jaxgen.data import _uci as uci
from jaxgen.data._content import KnownFile
from jaxgen.data._errors import DataFormatError

X = np.array([[1.5, -2.0, 3e-5], [0.25, 4.0, 7.0], [1.0, 5.0, 9.0]])
CONTENT = b"a\tb\tc\n1.5\t-2\t3E-05\n0.25\t4\t7\n1\t5\t9\n"
COLUMNS = ("a", "b", "c")


def known(content, name="made.data"):
    return KnownFile("uci", name, hashlib.sha256(content).hexdigest(), len(content), ())


@pytest.fixture
def place(tmp_path, monkeypatch):
    def place(content):
        table = uci.UCITable(known(CONTENT), 3, COLUMNS, frozenset({"b"}), "\t", has_header=True)
        (tmp_path / "made.data.gz").write_bytes(gzip.compress(content))
        monkeypatch.setattr(uci, "TABLES", {"made": table})
        monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))

    return place


def test_the_columns_of_the_protocol_are_what_is_left(place):
    place(CONTENT)
    table = uci.uci("made")
    assert table.columns == ("a", "c")
    chex.assert_trees_all_equal(table.x, X[:, [0, 2]])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"0.25\t", b"zero\t", r"line 3 has b'zero' as a, expected a number, at byte 19"),
        (b"\t7\n", b"\tnan\n", r"line 3 has b'nan' as c, expected a number, at byte 26"),
        (b"\t-2\t", b"\t", r"line 2 has 2 numbers, expected 3, at byte 6"),
        (b"a\tb\tc", b"a\tb\td", r"line 1 has the names .*expected \['a', 'b', 'c'\]"),
        (b"1\t5\t9\n", b"", "file has 2 rows, expected 3"),
        (b"0.25", b"0.26", "content has sha256"),
    ],
)
def test_a_damaged_file_is_refused_with_line_column_and_byte(place, old, new, words):
    place(CONTENT.replace(old, new))
    with pytest.raises(DataFormatError, match=words):
        uci.uci("made")


def test_lines_without_a_header_are_numbers_from_the_first():
    table = uci.UCITable(known(b""), 2, COLUMNS, frozenset())
    chex.assert_trees_all_equal(
        uci.parse_numbers(b"1,2,3\r\n4,5,6", "a", table), np.array([[1, 2, 3], [4, 5, 6]])
    )


def test_folds_test_every_row_once_and_share_none_within():
    x = np.arange(23.0)[:, None]
    table = uci.Table("made", ("a",), x)
    folds = [table.fold(k) for k in range(10)]
    chex.assert_trees_all_equal(np.sort(np.concatenate([f.test for f in folds]), axis=0), x)
    for k, fold in enumerate(folds):
        chex.assert_trees_all_equal(np.sort(np.concatenate(fold), axis=0), x)
        chex.assert_trees_all_equal(fold.valid, folds[(k + 1) % 10].test)


def test_the_order_of_rows_is_shuffled_by_the_seed_and_never_changes():
    table = uci.Table("made", ("a",), np.arange(12.0)[:, None])
    assert table.fold(0, num_folds=3).test.ravel().tolist() == [6.0, 4.0, 10.0, 2.0]
    assert table.fold(0, num_folds=3, seed=1).test.ravel().tolist() != [6.0, 4.0, 10.0, 2.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"index": 10}, "index must be in"),
        ({"index": 0, "num_folds": 2}, "num_folds must be at least 3"),
        ({"index": 0, "seed": -1}, "seed must be at least 0"),
    ],
)
def test_a_fold_that_is_none_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        uci.Table("made", ("a",), np.zeros((20, 1))).fold(**options)


def test_a_name_without_a_table_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of .*parkinsons.*got 'boston'"):
        uci.uci("boston")
