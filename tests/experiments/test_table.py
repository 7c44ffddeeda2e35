"""A person's CSV file: what its columns are taken for, and what is wrong with a bad one."""

import csv

import chex
import numpy as np
import pytest

import jaxgen as jg
from experiments import table
from experiments._table_columns import Column, TableError, read_csv, wine
from experiments._table_model import _summed_up

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
    read = read_csv(write(tmp_path, {3: "f,,1001.5,-29.5,Ulm"}), {})
    kinds = [column.kind for column in read.columns]
    assert kinds == ["category", "level", "positive", "real", "category"]
    chex.assert_trees_all_equal(np.argwhere(np.isnan(read.x)), np.array([[1, 1]]))
    assert (read.lines[0], read.lines[-1]) == (2, 61)
    assert read.cells[1] == ["f", "", "1001.5", "-29.5", "Ulm"]
    assert read.columns[4].labels == ("Bonn", "Trier", "Ulm")
    chex.assert_trees_all_equal(read.x[:3, 4], np.array([0, 2, 1]))
    told = read_csv(write(tmp_path), {"age": "real", "income": "real"})
    assert [column.kind for column in told.columns][1:3] == ["real", "real"]
    assert told.columns[0].show(1.0) == "m"
    zeros = read_csv(write(tmp_path, {3: "f,3,0,-29.5,Ulm"}), {"income": "nonnegative"})
    assert zeros.columns[2].conditional(4) == jg.models.TruncatedMixture(num_components=4)
    turned = read_csv(write(tmp_path), {"age": "degrees", "score": "degrees"})
    assert turned.columns[1].turn == (0.0, 360.0)
    assert turned.columns[3].turn == (-180.0, 180.0)
    assert turned.columns[3].conditional(4) == jg.models.Angles((-180.0, 180.0), num_components=4)


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
        ({5: "m,31,NA,2.5,Ulm"}, {}, "line 5, column 'income': 'NA' is no number, where others"),
        ({5: "m,31,5,-181,Ulm"}, {"score": "degrees"}, "line 5, column 'score': '-181' is not on"),
        (
            {},
            {"income": "radians"},
            "line 2, column 'income': '1000.5' is not on the turn from 0 to",
        ),
        (
            {5: "m,31,-1,2,Ulm"},
            {"income": "nonnegative"},
            "'-1' is not a finite number from zero on",
        ),
        ({}, {"town": "real"}, "line 2, column 'town': 'Bonn' is not a finite number"),
    ],
)
def test_a_bad_table_is_refused_by_line_and_column(change, kinds, message, tmp_path):
    with pytest.raises(TableError, match=message):
        read_csv(write(tmp_path, change), kinds)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1"] * 60, "line 2 and all behind it, column 'a': every cell that is filled holds '1'"),
        ([""] * 60, "lines 2 to 61, column 'a': 0 cells are filled, at least 20 must be"),
        (["1", "2", "3"] * 6 + [""] * 42, "column 'a': 18 cells are filled, at least 20 must be"),
        ([f"word {i}" for i in range(10_000)], "line 2, column 'a': 10000 values that differ are"),
    ],
)
def test_a_column_that_tells_nothing_or_too_much_is_refused(cells, message, tmp_path):
    path = tmp_path / "column.csv"
    path.write_text("a,b\n" + "\n".join(f"{cell},{i}.5" for i, cell in enumerate(cells)))
    with pytest.raises(TableError, match=message):
        read_csv(path, {})


def test_too_few_rows_are_refused(tmp_path):
    message = "must have 50 rows or more with a cell that is filled, got 20"
    with pytest.raises(TableError, match=message):
        read_csv(write(tmp_path, num_rows=20), {})
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n" + "1.5,2\n" * 20 + ",\n" * 60)
    with pytest.raises(TableError, match=message):
        read_csv(empty, {})
    empty.write_text("")
    with pytest.raises(TableError, match="must have a first line that names the columns, got none"):
        read_csv(empty, {})


def test_rows_with_empty_cells_are_trained_on_and_filled_in_from_both_sides(tmp_path):
    """No row is complete, the first cell follows from the last, and the file keeps what is told."""
    generator = np.random.default_rng(0)
    side = np.arange(400) % 2
    x = 10.0 * side + generator.normal(size=400)
    whole = [[f"{a:.6g}", f"{b:.6g}", "ab"[c]] for a, b, c in zip(x, -x, side, strict=True)]
    told = [
        ["" if j == i % 3 else cell for j, cell in enumerate(row)] for i, row in enumerate(whole)
    ]
    path = tmp_path / "told.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["x", "minus x", "side"], *told])
    sizes = {"hidden_size": 16, "num_components": 1, "num_steps": 500, "num_fills": 20}
    metrics = table.main(table.Config(csv=path, run_dir=tmp_path / "run", **sizes))
    assert metrics["saved_nats"].value > 0.7  # of log 2 and more that two cells share
    with (tmp_path / "run" / "filled.csv").open(newline="") as file:
        names, *filled = csv.reader(file)
    assert names == ["x", "minus x", "side"]
    for i, (row, known) in enumerate(zip(filled, told, strict=True)):
        assert [cell for j, cell in enumerate(row) if j != i % 3] == [c for c in known if c]
    missed = [
        abs(float(row[i % 3]) - float(whole[i][i % 3])) for i, row in enumerate(filled) if i % 3 < 2
    ]
    assert (
        np.mean(missed) < 2.5
    )  # ten apart are the sides: a column that knows no other misses by 5
    assert all(row[2] == whole[i][2] for i, row in enumerate(filled) if i % 3 == 2)


def test_draws_of_angles_are_summed_up_around_their_direction():
    """Those about north, some of them west of it, do not have their middle in the south."""
    north = np.array([350.0, 355.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 358.0, 0.0, 4.0])
    drawn = np.stack([north, np.arange(11.0)], axis=-1)[:, None]
    columns = (Column("wind", "degrees", None, (0.0, 360.0)), Column("speed", "real", None))
    fills = _summed_up(drawn, columns)
    chex.assert_trees_all_close(
        np.stack(fills)[:, 0], np.array([[2, 5], [355, 1], [9, 9]]), atol=1e-3, rtol=1e-7
    )


def test_the_wines_are_a_table():
    read = wine()
    assert read.x.shape == (178, len(read.columns)) == (178, 14)
    assert np.isfinite(read.x).all()
