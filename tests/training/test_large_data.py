"""A training on files four times as large as all the memory it may still ask for."""

import os
import subprocess
import sys

import numpy as np
import pytest

# Private memory alone is limited: pages of mapped files go when others are needed. Threads have
# their stacks, and programs their code, before the limit is set.
TRAINING = """
import pathlib, resource, sys
import jax, jax.numpy as jnp, numpy as np, optax
import jaxgen as jg

paths = sorted(pathlib.Path(sys.argv[1]).glob("*.npy"))
source = jg.data.ArrayFiles(paths)
num_bytes = sum(path.stat().st_size for path in paths)


def loss_fn(key, params, batch, step):
    return jnp.mean((jnp.float32(batch) - params[None]) ** 2)


def train(source, num_steps):
    fitted = jg.fit(jax.random.key(0), jnp.ones(2048), loss_fn, source, optax.sgd(100.0),
                    num_steps=num_steps, batch_size=256)
    return fitted.params


train(source[:25600], 100)
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
held = 1024 * int(dict(line.split(":") for line in lines)["VmData"].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (held + num_bytes // 4, -1))
print(np.asarray(train(source, 100)).mean())  # nothing more is compiled
try:
    np.concatenate([np.load(path) for path in paths])
except MemoryError:
    print("whole, they do not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_data_may_be_four_times_the_memory_allowed(tmp_path):
    """Of 2 GiB, in batches from all of them; what is left is room to compile in."""
    for shard in range(8):  # files with holes, which read as zeros and take no disk
        shape = (131072, 2048)
        np.lib.format.open_memmap(tmp_path / f"{shard}.npy", "w+", np.uint8, shape)
    command = [sys.executable, "-c", TRAINING, tmp_path]
    one_arena = os.environ | {"MALLOC_ARENA_MAX": "1"}  # each thread's own would be counted whole
    result = subprocess.run(
        command, env=one_arena, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    mean, whole = result.stdout.splitlines()
    assert abs(float(mean)) < 0.01
    assert whole == "whole, they do not fit"
