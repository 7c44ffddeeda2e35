"""A training on files four times as large as all the memory it may still ask for."""

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
    fitted = jg.fit(jax.random.key(0), jnp.zeros(2048), loss_fn, source, optax.sgd(100.0),
                    num_steps=num_steps, batch_size=32)
    return fitted.params


train(jg.data.ArrayFiles(paths[:1]), 100)
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
    """Of 256 MiB; batches are small, as a dispatch's are read ahead and are memory, too."""
    for shard in range(8):
        np.save(tmp_path / f"{shard}.npy", np.full((16384, 2048), shard, np.uint8))
    command = [sys.executable, "-c", TRAINING, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    mean, whole = result.stdout.splitlines()
    assert abs(float(mean) - 3.5) < 0.5
    assert whole == "whole, they do not fit"
