import logging

import jax.numpy as jnp
import pytest

from jaxgen.training._checkpoint import Checkpointer, CheckpointError


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
def test_loggers_are_left_as_they_were(tmp_path, level):
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        checkpointer = Checkpointer(tmp_path)
        checkpointer.save(1, {"x": jnp.zeros(2)})
        assert checkpointer.load({"x": jnp.ones(2)})[0] == 1
        with pytest.raises(CheckpointError):
            checkpointer.load({"y": jnp.ones(3)})
        checkpointer.close()
        assert [logger.level for logger in loggers] == [level, level]
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


def test_nothing_is_warned_of_where_all_is_well(tmp_path, caplog):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 1, 2, 3, 4):
        checkpointer.save(step, {"x": jnp.zeros(2)})
    assert checkpointer.load({"x": jnp.zeros(2)})[0] == 4
    checkpointer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
