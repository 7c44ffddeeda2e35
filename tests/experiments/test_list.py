import pytest

from experiments import __main__ as listing

SOURCE = '''"""Shows a thing.

    python -m experiments.thing

{time} on two CPU cores. Expected: 1.
"""
run.save_figure(draw(), "a.png")
if True:
    path = run.save_figure(figure, "b.png")
print("c.png")
'''


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("About 2 minutes", "2 minutes"),
        ("About half a minute (0.5 minutes)", "half a minute"),
        ("Less than a minute", "a minute"),
        ("It takes between 10\nminutes and 2 hours", "10 minutes to 2 hours"),
        ("No idea", ""),
    ],
)
def test_an_entry_is_read_off_the_source(time, expected, tmp_path):
    file = tmp_path / "thing.py"
    file.write_text(SOURCE.format(time=time))
    assert listing.describe(file) == ("Shows a thing.", expected, ["a.png", "b.png"])


@pytest.mark.parametrize("name", listing.discover())
def test_every_experiment_says_how_long_it_takes(name):
    entry = listing.describe(listing.discover()[name])
    assert entry.summary.endswith(".")
    assert entry.minutes


def test_a_narrow_list_names_every_experiment(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listing.main()
    printed = capsys.readouterr().out
    assert [name for name in listing.discover() if name not in printed] == []
    assert "density.png" in printed
