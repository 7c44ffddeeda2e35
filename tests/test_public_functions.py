"""Contracts over every public function: keys, documentation, annotations, weight of imports."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import jaxgen

MODULES = [
    name
    for _, name, is_package in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.")
    if not is_package
]
# Functions that are given a key without drawing: they check it, or make another key from it.
TAKES_A_KEY_ELSEWHERE = {"check_key"}
# Stateless lookups of Flax modules; Flax defines these.
FLAX_METHODS = {"setup"}


def public(module, kind):
    return [
        (name, thing)
        for name, thing in inspect.getmembers(module, kind)
        if not name.startswith("_") and thing.__module__ == module.__name__
    ]


def functions(name):
    module = importlib.import_module(name)
    found = public(module, inspect.isfunction)
    for class_name, cls in public(module, inspect.isclass):
        found += [
            (f"{class_name}.{method}", f)
            for method, f in vars(cls).items()
            if inspect.isfunction(f) and not method.startswith("_") and method not in FLAX_METHODS
        ]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_and_public_names_are_documented(name):
    module = importlib.import_module(name)
    things = [(name, module), *functions(name), *public(module, inspect.isclass)]
    assert [n for n, thing in things if not inspect.getdoc(thing)] == []


@pytest.mark.parametrize("name", MODULES)
def test_parameters_and_results_are_annotated(name):
    bare = []
    for function_name, function in functions(name):
        signature = inspect.signature(function)
        missing = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        if missing or signature.return_annotation is signature.empty:
            bare.append((function_name, missing))
    assert bare == []


@pytest.mark.parametrize("name", MODULES)
def test_randomness_enters_by_the_first_parameter_called_key(name):
    wrong = []
    for function_name, function in functions(name):
        names = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        if function_name in TAKES_A_KEY_ELSEWHERE:
            continue
        if "rng" in names or ("key" in names and names[0] != "key"):
            wrong.append(function_name)
        if function_name.split(".")[-1].startswith("sample") and "key" not in names:
            wrong.append(function_name)
    assert wrong == []


@pytest.mark.parametrize("name", MODULES)
def test_no_legacy_key_is_made(name):
    source = inspect.getsource(importlib.import_module(name))
    assert "PRNGKey(" not in source.replace("jax.random.PRNGKey)", "")


def test_samplers_and_estimators_stay_light():
    code = (
        "import sys, pkgutil, importlib, jaxgen.core, jaxgen.samplers, jaxgen.estimators\n"
        "for p in (jaxgen.core, jaxgen.samplers, jaxgen.estimators):\n"
        "    for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.'):\n"
        "        importlib.import_module(m.name)\n"
        "heavy = {'distrax', 'tensorflow_probability', 'flax', 'matplotlib', 'sklearn', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
