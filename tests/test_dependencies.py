"""What an installation needs: the lock has it all, and most of the library runs on less."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from experiments._tables import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = {
    name.lower(): version
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
}


def required(extra=None):
    """The requirements of the package or of an extra, with those of extras that it names."""
    found = []
    for text in PROJECT["dependencies"] if extra is None else EXTRAS[extra]:
        one = Requirement(text)
        found += (
            [r for e in sorted(one.extras) for r in required(e)] if one.name == "jaxgen" else [one]
        )
    return found


@pytest.mark.parametrize("one", [*required(), *required("test")], ids=str)
def test_the_lock_has_what_is_required(one):
    assert one.specifier.contains(LOCKED[one.name.lower()])


def test_the_tests_bring_the_extras_of_the_library():
    extras = ("mcmc", "grain", "experiments")
    assert {r.name for e in extras for r in required(e)} <= {r.name for r in required("test")}


PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

ABSENT = {"distrax", "tensorflow_probability", "blackjax", "sklearn", "matplotlib"}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import jax, numpy as np
import jaxgen as jg
import jaxgen.core, jaxgen._cli, jaxgen.models.autoregressive, pathlib, tempfile
names = (jg.core, jg.samplers, jg.estimators, jg.coding, jg.criticism, jg.objectives, jg.training,
         jg.data, jaxgen.models.autoregressive, jaxgen._cli)
for package in names:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "jaxgen.objectives._diagnostics":  # is of latent variables
            importlib.import_module(module.name)
from jaxgen import __main__
from jaxgen.estimators import _annealed
x = jg.data.digits().test.x[:2, 24:28]
model = jg.MADE(4, 17, (3,))
path = pathlib.Path(tempfile.mkdtemp()) / "model"
jg.save(path, model, model.init(jax.random.key(0), x))
model, params = jg.load(path)
assert jg.log_prob(model, params, x).shape == (2,)
assert (jg.decode(model, params, jg.encode(model, params, x)) == x).all()
try:
    _annealed.hmc_step(None, None, np.zeros(1), 1.0, 1)
except ModuleNotFoundError as error:
    print(error)
assert not ABSENT & set(sys.modules)
"""


def test_all_but_latent_variables_runs_without_distrax_and_extras():

    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        'blackjax is not installed: pip install "jaxgen[mcmc]" brings it'
    ]
