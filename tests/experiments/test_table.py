"""A person's CSV file: what its columns are taken for, and what is wrong with a bad one."""

import numpy as np
import pytest

from experiments._table_columns import TableError, read_csv, wine

NAMES = "sex,age,income,score,town"


def write(tmp_path, change=None, num_rows=60):
    """A table of 60 rows, of which one line may be another."""
    towns = ("Bonn", "Ulm", "Trier")
    lines = [NAMES]
    for i in range(num_rows):
        lines.append(f"{'mf'[i % 2]},{30 + i % 9},{1000.5 + i},{i - 30.5},{towns[i % 3]}")
    for line, text in (change or {}).items():
        lines[line - 1] = text
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_are_what_their_cells_look_like(tmp_path):
    table = read_csv(write(tmp_path, {3: "f,,1001.5,-29.5,Ulm"}), {})
    kinds = [column.kind for column in table.columns]
    assert kinds == ["category", "level", "positive", "real", "category"]
    np.testing.assert_array_equal(np.argwhere(np.isnan(table.x)), [[1, 1]])
    assert (table.lines[0], table.lines[-1]) == (2, 61)
    assert table.columns[4].labels == ("Bonn", "Trier", "Ulm")
    np.testing.assert_array_equal(table.x[:3, 4], [0, 2, 1])
    told = read_csv(write(tmp_path), {"age": "real", "income": "real"})
    assert [column.kind for column in told.columns][1:3] == ["real", "real"]
    assert told.columns[0].show(1.0) == "m"


@pytest.mark.parametrize(
    ("change", "kinds", "message"),
    [
        ({5: "m,31,1003.5"}, {}, "line 5: 5 cells expected, got 3"),
        ({5: "m,31,nan,2.5,Ulm"}, {}, "line 5, column 'income': 'nan' is not a finite number"),
        ({5: "m,31,5,inf,Ulm"}, {}, "line 5, column 'score': 'inf' is not a finite number"),
        ({5: "m,31,-5,2.5,Ulm"}, {"income": "positive"}, "line 5, column 'income': '-5' is not"),
        ({1: "sex,age,age,score,town"}, {}, "line 1: columns must have names of their own"),
        ({}, {"height": "real"}, "has no column 'height'"),
        ({}, {"income": "category"}, "line 2, column 'income': 60 values that differ are too"),
        ({}, {"town": "real"}, "line 2, column 'town': 'Bonn' is not a finite number"),
    ],
)
def test_a_bad_table_is_refused_by_line_and_column(change, kinds, message, tmp_path):
    with pytest.raises(TableError, match=message):
        read_csv(write(tmp_path, change), kinds)


def test_too_few_rows_and_constants_are_refused(tmp_path):
    with pytest.raises(TableError, match="must have 50 rows or more, got 20"):
        read_csv(write(tmp_path, num_rows=20), {})
    path = tmp_path / "constant.csv"
    path.write_text("a,b\n" + "\n".join(f"1,{i}.5" for i in range(60)))
    with pytest.raises(TableError, match="column 'a' holds one value alone"):
        read_csv(path, {})


def test_the_wines_are_a_table():
    table = wine()
    assert table.x.shape == (178, len(table.columns)) == (178, 14)
    assert np.isfinite(table.x).all()
