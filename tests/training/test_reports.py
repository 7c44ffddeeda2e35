import sys
import types

import pytest

import jaxgen as jg


def test_tensorboard_is_given_every_number_by_step(monkeypatch, tmp_path):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def flush(self):
            seen.append("flush")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    jg.training.tensorboard(tmp_path)(50, {"loss": 2.0, "kl": 1.0})
    assert seen == [str(tmp_path), ("loss", 2.0, 50), ("kl", 1.0, 50), "flush"]


def test_wandb_is_given_every_number_by_step(monkeypatch):
    seen = []
    run = types.SimpleNamespace(log=lambda numbers, step: seen.append((numbers, step)))
    module = types.SimpleNamespace(init=lambda **settings: seen.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    jg.training.wandb(project="p")(50, {"loss": 2.0})
    assert seen == [{"project": "p"}, ({"loss": 2.0}, 50)]


@pytest.mark.parametrize(
    ("name", "arguments"), [("tensorboard", {"folder": "x"}), ("wandb", {"project": "p"})]
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(monkeypatch, name, arguments):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    with pytest.raises(ImportError, match=rf"pip install 'jaxgen\[{name}\]'"):
        getattr(jg.training, name)(**arguments)
