"""The README's code runs as it stands, and its tables are those of the results files."""

import re

import jax
import pytest

from experiments import _tables

README = (_tables.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_block_runs(block):
    with jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), {})


def test_tables_are_generated():
    assert _tables.regenerate(README) == README
    assert len(_tables.BLOCK.findall(README)) >= 2


def test_a_changed_number_is_noticed():
    changed = README.replace("made/test_nats | ", "made/test_nats | 1", 1)
    assert changed != README
    assert _tables.regenerate(changed) == README


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_link_leads_somewhere(path):
    assert (_tables.ROOT / path).exists()
