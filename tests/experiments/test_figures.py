"""Committed figures are those of their results files, drawn by the code as it is."""

import json
import shutil

import pytest

from experiments import _figures, _gallery
from experiments._harness import ROOT

SOURCE = '''
def width():
    return 3.0


def other():
    return 1


def draw(x) -> matplotlib.figure.Figure:
    """Draw it."""
    return plot(x, lw=width())
'''


def digest(folder, source):
    path = folder / "module.py"
    path.write_text(source)
    return _figures.drawing_digest(path)


def test_no_figure_is_stale():
    assert _figures.stale_figures(ROOT) == []


@pytest.mark.parametrize("old", ["lw=width", "3.0"])
def test_a_change_of_what_draws_is_seen(tmp_path, old):
    assert digest(tmp_path, SOURCE) != digest(tmp_path, SOURCE.replace(old, "4.0"))


OTHERS = {
    "Draw it.": "Draw.",
    "return 1": "return 2",
    "    return plot": "    # Why.\n    return plot",
}


@pytest.mark.parametrize(("old", "new"), OTHERS.items())
def test_other_changes_are_not(tmp_path, old, new):
    assert digest(tmp_path, SOURCE) == digest(tmp_path, SOURCE.replace(old, new))


def test_what_saves_counts_where_nothing_returns_a_figure(tmp_path):
    source = "def show(run):\n    run.save_figure(rows(2), 'rows.png')\n"
    assert digest(tmp_path, source) != digest(tmp_path, source.replace("2", "3"))


def test_stale_figures_are_named(tmp_path):
    figures, results = tmp_path / "docs" / "figures", tmp_path / "experiments" / "results"
    figures.mkdir(parents=True)
    results.mkdir(parents=True)
    module, picture = tmp_path / "experiments" / "show.py", figures / "show_curve.png"
    module.write_text(SOURCE)
    picture.write_bytes(b"a picture")
    record = {
        "sha256": _figures.file_digest(picture),
        "drawn_by": _figures.drawing_digest(module),
    }
    written = {"curve.png": record, "not_in_the_docs.png": record}
    content = {"metrics": {}, "run": {"experiment": "show"}, "figures": written}
    (results / "show.json").write_text(json.dumps(content))
    assert _figures.stale_figures(tmp_path) == []
    picture.write_bytes(b"another")
    module.write_text(SOURCE.replace("3.0", "4.0"))
    assert _figures.stale_figures(tmp_path) == [
        "show_curve.png is of another run than the results of show",
        "show_curve.png was drawn before the code of show changed",
    ]
    shutil.rmtree(figures)
    assert _figures.stale_figures(tmp_path) == []


def test_the_gallery_has_every_figure_of_an_experiment():
    figures = {path.name for path in (ROOT / "docs" / "figures").glob("*.png")}
    found = [entry.name for entry in _gallery.entries(ROOT)]
    others = {"own_files_drawn.png", "own_files_filled.png"}  # of a page that is a test
    assert sorted(found) == sorted(figures - others)
    place = "notes_results.md#estimating-px"
    assert f"`python -m experiments.density` ([numbers]({place}))" in _gallery.gallery(ROOT)
