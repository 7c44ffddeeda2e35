"""The documents' code runs as it stands, their tables are the results files', their links lead."""

import ast
import importlib
import inspect
import operator
import re
import tomllib

import jax
import pytest

import jaxgen as jg
from experiments import _tables
from experiments.__main__ import describe, discover

DOCUMENTS = {path.relative_to(_tables.ROOT).as_posix(): path for path in _tables.DOCUMENTS}
TEXTS = {name: path.read_text() for name, path in DOCUMENTS.items()}
README = TEXTS["README.md"]
NOTES = TEXTS["docs/notes.md"]


def found(pattern, flags=0):
    return [(n, match) for n, text in TEXTS.items() for match in re.findall(pattern, text, flags)]


BLOCKS = found(r"```python\n(.*?)```", re.DOTALL)
# Where a reader begins, and what no other test has: the frameworks of others.
QUICK = ("README.md", "docs/index.md", "docs/integrations.md")
ANCHORS = [(n, *match) for n, match in found(r"\]\(([^)#:]*)#([^)]+)\)")]


def blocks_to_run():
    """All blocks; those that `make test` leaves out are marked."""
    return [
        pytest.param(name, block, marks=() if name in QUICK else pytest.mark.slow, id=str(i))
        for i, (name, block) in enumerate(BLOCKS)
    ]


@pytest.mark.parametrize(("name", "block"), blocks_to_run())
# Warnings of the frameworks are theirs.
@pytest.mark.filterwarnings("default")
def test_code_block_runs(name, block):
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        exec(compile(block, name, "exec"), {})


def check_names(block, name="a block"):
    """Raise where a program names what is not there, or an argument that a function lacks."""
    nodes, names = list(ast.walk(ast.parse(block, name))), {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
    for node in nodes:
        if not isinstance(node, ast.Attribute | ast.Call):
            continue
        path = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        if path.partition(".")[0] not in names or not re.fullmatch(r"[\w.]+", path):
            continue
        thing = eval(path, names)
        if isinstance(node, ast.Call) and getattr(thing, "__module__", "").startswith("jaxgen"):
            words = [word.arg for word in node.keywords if word.arg]
            inspect.signature(thing).bind_partial(**dict.fromkeys(words))


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.filterwarnings("default")
def test_code_block_names_what_there_is(name, block):
    check_names(block, name)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("jg.objectives.elbow", AttributeError),
        ("jg.elbo(key, model, params, x, num_sample=3)", TypeError),
        ("import jaxgen.objective", ModuleNotFoundError),
        ("from jaxgen.models import Made", ImportError),
    ],
)
def test_a_wrong_name_in_a_code_block_is_seen(line, error):
    check_names("import jaxgen as jg\njg.elbo(key, model, params, x, num_samples=3)\n")
    with pytest.raises(error):
        check_names(f"import jaxgen as jg\n{line}\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_are_generated(name):
    assert _tables.regenerate(TEXTS[name]) == TEXTS[name]


def test_every_results_file_is_shown():
    shown = {block[1] for text in TEXTS.values() for block in _tables.BLOCK.findall(text)}
    assert shown == {path.stem for path in _tables.RESULTS.glob("*.json")}


def test_a_changed_number_is_noticed():
    changed = README.replace("made/test_nats | ", "made/test_nats | 1", 1)
    assert changed != README
    assert _tables.regenerate(changed) == README


@pytest.mark.parametrize(("name", "link"), found(r"\]\(([^)#:]+)\)"))
def test_link_leads_somewhere(name, link):
    assert (DOCUMENTS[name].parent / link).exists()


@pytest.mark.parametrize(("name", "link", "anchor"), ANCHORS)
def test_link_leads_to_a_heading(name, link, anchor):
    page = (DOCUMENTS[name].parent / link) if link else DOCUMENTS[name]
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]


@pytest.mark.parametrize(("name", "command"), sorted(set(found(r"-m experiments\.([a-z_.]+)"))))
def test_command_exists(name, command):
    assert command in discover() or importlib.util.find_spec(f"experiments.{command}")


@pytest.mark.parametrize("row", re.findall(r"experiments\.(\w+)`\s+draws\s+`(\w+\.png)", NOTES))
def test_the_notes_name_the_figure_that_is_drawn(row):
    command, figure = row
    assert figure in describe(discover()[command]).figures


@pytest.mark.parametrize(
    "name",
    sorted(set(re.findall(r"`((?:models|estimators|objectives|samplers)\.[\w.]+)`", NOTES))),
)
def test_the_notes_name_what_there_is(name):
    assert operator.attrgetter(name)(jg)


def test_typing_marker_is_in_the_wheel():
    project = tomllib.loads((_tables.ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["jaxgen"]}  # the whole package, nothing left out
    assert (_tables.ROOT / "jaxgen" / "py.typed").is_file()
