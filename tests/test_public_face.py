"""The public face: what is exported, in which order arguments stand, and what an import costs."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import jaxgen as jg

ROOT = pathlib.Path(jg.__file__).parent
PACKAGES = ["coding", "core", "data", "estimators", "models", "objectives", "samplers", "training"]
MODULES = [
    name for _, name, is_package in pkgutil.walk_packages(jg.__path__, "jaxgen.") if not is_package
]
PUBLIC = {
    f"{package}.{name}": getattr(importlib.import_module(f"jaxgen.{package}"), name)
    for package in PACKAGES
    for name in importlib.import_module(f"jaxgen.{package}").__all__
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
CLASSES = {
    name: thing
    for name, thing in PUBLIC.items()
    if inspect.isclass(thing) and thing.__module__.startswith("jaxgen")
}
METHODS = {
    f"{name}.{method}": function
    for name, cls in CLASSES.items()
    for method, function in vars(cls).items()
    if inspect.isfunction(function) and not method.startswith("_") and method != "setup"
}

# Arguments whose kinds stand in one order: what is static, then parameters, then data.
STATIC = {
    "model",
    "f",
    "log_prob_fn",
    "loss_fn",
    "sample_fn",
    "value_fn",
    "integrand_fn",
}
DATA = {"x", "data", "u", "z", "logits", "log_weights", "values", "batch", "source"}
# A method of a table is called on what it is set up with; a model's own methods take params first.
# `fit` takes the loss beside the optimizer; `evaluate` an optional key, by its name.
ORDER_EXCEPTIONS = {"training.fit", "training.plan", "training.evaluate"}


def parameters(function):
    return [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]


def rank(parameter):
    if parameter == "key":
        return 0
    if parameter in STATIC or (parameter.endswith("_fn") and parameter != "transform_fn"):
        return 1
    return {"params": 2}.get(parameter, 3 if parameter in DATA else None)


@pytest.mark.parametrize("name", ["", *PACKAGES])
def test_every_exported_name_is_there_and_every_private_one_is_not(name):
    module = importlib.import_module(f"jaxgen.{name}".rstrip("."))
    assert module.__all__ == sorted(module.__all__)
    assert not [n for n in module.__all__ if n.startswith("_") or not hasattr(module, n)]
    stub = pathlib.Path(module.__file__).with_suffix(".pyi").read_text()
    reexported = re.findall(r"import (\w+) as (\w+)$", stub, re.MULTILINE)
    assert {a for a, b in reexported if a == b} == set(module.__all__)


def test_every_module_is_private():
    assert [name for name in MODULES if not name.rpartition(".")[2].startswith("_")] == []


def test_every_public_name_is_used_by_an_experiment_or_a_page():
    documents = [*ROOT.parent.glob("docs/*.md"), ROOT.parent / "README.md"]
    sources = [*ROOT.parent.glob("experiments/**/*.py"), *documents]
    text = "\n".join(path.read_text() for path in sources)
    words = set(re.findall(r"\w+", text))
    # `core` is for those who write samplers and models of their own.
    unused = [n for n in PUBLIC if not n.startswith("core.") and n.rpartition(".")[2] not in words]
    assert unused == []


def test_no_two_public_names_are_one():
    short = [n for n in PUBLIC if not n.startswith("core.")]
    names = [n.rpartition(".")[2] for n in short]
    assert sorted({n for n in names if names.count(n) > 1}) == []


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS])
def test_public_name_is_documented_and_annotated(name):
    thing = PUBLIC.get(name, METHODS.get(name))
    if not callable(thing) or not hasattr(thing, "__module__"):
        return
    if getattr(thing, "__module__", "").startswith("jaxgen"):
        assert inspect.getdoc(thing), f"{name} has no docstring"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        bare = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        assert bare == []
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_arguments_stand_in_one_order(name):
    names = parameters(FUNCTIONS.get(name, METHODS.get(name)))
    if name not in ORDER_EXCEPTIONS:
        assert "key" not in names or names[0] == "key" or name.endswith("check_key")
        positional = [
            p.name
            for p in inspect.signature(FUNCTIONS.get(name, METHODS.get(name))).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        ranks = [r for r in map(rank, positional) if r is not None]
        assert ranks == sorted(ranks), f"{name}({', '.join(names)})"
    assert "rng" not in names


@pytest.mark.parametrize("name", MODULES)
def test_no_legacy_key_is_made(name):
    source = inspect.getsource(importlib.import_module(name))
    assert "PRNGKey(" not in source.replace("jax.random.PRNGKey)", "")


def in_a_new_process(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    return result.stdout.strip()


HEAVY = {
    "jaxgen": {"jax", "numpy", "flax", "distrax", "optax", "matplotlib", "orbax"},
    "jaxgen.samplers._ancestral, jaxgen.estimators._monte_carlo, jaxgen.core": {
        "distrax",
        "tensorflow_probability",
        "flax",
        "optax",
        "matplotlib",
        "sklearn",
        "orbax",
        "blackjax",
    },
    "jaxgen as jg; jg.MADE; jg.CausalTransformer; jg.sample; jg.encode; jg.log_prob": {
        "distrax",
        "tensorflow_probability",
        "matplotlib",
        "sklearn",
        "orbax",
    },
}


@pytest.mark.parametrize("what", HEAVY)
def test_an_import_brings_no_more_than_it_needs(what):
    code = f"import sys, {what}\nprint(sorted({HEAVY[what]!r} & set(sys.modules)))"
    assert in_a_new_process(code) == "[]"


def test_samplers_and_estimators_stay_light():
    code = (
        "import sys, pkgutil, importlib, jaxgen.core, jaxgen.samplers, jaxgen.estimators\n"
        "for p in (jaxgen.core, jaxgen.samplers, jaxgen.estimators):\n"
        "    for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.'):\n"
        "        importlib.import_module(m.name)\n"
        "heavy = {'distrax', 'tensorflow_probability', 'flax', 'matplotlib', 'sklearn', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert in_a_new_process(code) == "[]"


def test_importing_jaxgen_adds_less_than_50_ms_of_processor_time():
    code = (
        "import time\nstart = time.process_time()\nimport jaxgen\n"
        "print(time.process_time() - start)"
    )
    assert min(float(in_a_new_process(code)) for _ in range(5)) < 0.05
