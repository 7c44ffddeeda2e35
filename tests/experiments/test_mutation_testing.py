"""Changes to the library: each is one, is found again, and meets tests that are there."""

import ast
import json

import pytest

from experiments import mutation_testing
from experiments._harness import ROOT
from experiments.mutation_testing import Config


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a + b", "a - b"),
        ("a <= b", "a < b"),
        ("a and b", "a or b"),
        ("-a", "+a"),
        ("3", "4"),
        ("0.5", "0.85"),
        ("True", "False"),
        ("jnp.where(a, b, c)", "jnp.where(a, c, b)"),
        ("jnp.sum(a)", "jnp.mean(a)"),
        ("a if b else c", "a if not b else c"),
    ],
)
def test_one_thing_is_changed(before, after):
    node = ast.parse(before, mode="eval").body
    assert mutation_testing.is_changeable(node)
    mutation_testing.change(node)
    assert ast.unparse(node) == after


@pytest.mark.parametrize("text", ["'a string'", "None", "f(a)", "jnp.where(a)", "a in b", "a ** b"])
def test_what_has_no_such_change_is_left(text):
    assert not mutation_testing.is_changeable(ast.parse(text, mode="eval").body)


def test_every_module_has_tests():
    paths = [
        path.relative_to(ROOT)
        for package in mutation_testing.PACKAGES
        for path in (ROOT / "jaxgen" / package).rglob("_[!_]*.py")
    ]
    assert len(paths) > 50
    for path in paths:
        assert all((ROOT / file).is_file() for file in mutation_testing.tests_of(str(path)))


def test_a_sample_is_the_same_again_and_each_change_is_found_from_its_row():
    config = Config(num_mutants=5, package="criticism")
    mutants = mutation_testing.sampled(config)
    assert mutants == mutation_testing.sampled(config)
    for mutant in mutants:
        assert mutant.source != ast.unparse(mutation_testing.code_of(ROOT / mutant.path))
        assert mutation_testing.found_again(mutant._asdict()) == mutant
    for part in ("text", "before"):
        assert mutation_testing.found_again(mutants[0]._asdict() | {part: "no such text"}) is None


def test_types_are_not_changed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("x: int | None = 3\n")
    nodes = list(ast.walk(mutation_testing.code_of(path)))
    changeable = [ast.unparse(node) for node in nodes if mutation_testing.is_changeable(node)]
    assert changeable == ["3"]


def test_rows_are_those_of_a_finished_run(tmp_path):
    row = {"stage": "mutant", "path": "jaxgen/coding/_ans.py", "killed": True}
    other = {"stage": "unchanged", "file": "tests/coding/test_ans.py"}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n")
    with pytest.raises(ValueError, match="again must be the folder of a finished run"):
        mutation_testing.rows_of(tmp_path, "mutant")
    (tmp_path / "results.json").write_text("{}")
    rows = mutation_testing.rows_of(tmp_path, "mutant")
    assert rows == [row]
    scores = mutation_testing.scores([*rows, row | {"killed": False}], "killed")
    assert {name: metric.value for name, metric in scores.items()} == {
        "killed/coding": 0.5,
        "killed/all": 0.5,
    }
