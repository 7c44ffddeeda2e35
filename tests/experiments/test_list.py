import subprocess
import sys

import pytest

import experiments
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


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("digist", "perhaps you meant python -m experiments.digits"),
        ("digits", "perhaps you meant python -m experiments.digits\n"),
        ("experiments.vea", "perhaps you meant python -m experiments.vae"),
        ("autoregressive-images.py", "python -m experiments.autoregressive_images"),
        ("xyzzy", "python -m experiments names them all"),
        ("--lst", "'--lst' is no experiment"),
    ],
)
def test_a_misspelt_experiment_proposes_the_right_one(word, meant, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["experiments", word])
    with pytest.raises(SystemExit) as exit_info:
        listing.main()
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert meant in printed.err


def test_python_is_told_of_a_misspelt_module_before_it_says_that_there_is_none():
    found = subprocess.run(
        [sys.executable, "-m", "experiments.digist", "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "perhaps you meant python -m experiments.digits" in found.stderr
    experiments._check_name(["python", "-m", "experiments._tables", "--check"])


def test_a_misspelt_folder_of_experiments_is_answered_too(capsys):
    with pytest.raises(SystemExit):
        experiments._check_name(["python", "-m", "experiments.benchmarkz.samplers"])
    assert "perhaps you meant python -m experiments.benchmarks.samplers" in capsys.readouterr().err


def test_a_narrow_list_names_every_experiment(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["experiments", "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    listing.main()
    printed = capsys.readouterr().out
    assert [name for name in listing.discover() if name not in printed] == []
    assert "density.png" in printed
