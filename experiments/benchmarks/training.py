"""What `fit` costs over a bare scan of the same steps, what reading and saving cost, and Lightning.

    python -m experiments.benchmarks.training

About 4 minutes on one core. A small VAE on made-up bits: a scan written by hand, `fit` on arrays,
`fit` on an object read by indices, the products of matrices of a step with nothing between, and
PyTorch Lightning's `Trainer` in turn, each timed behind its first dispatch; then `fit` and
Lightning on a VAE of 64 bits, where layers take little of the time.
Row `lightning` is of the VAE of all other rows: 784 bits, 200 hidden units twice, 50 latents. Row
`lightning_64_bits` is of another: 64 bits, 50 hidden units twice, 8 latents.
Where Lightning is not installed (`pip install .[bench]`), a line says so and its rows are left out.
Expected: the scan's speed within a few hundredths, reading within a tenth of that, a checkpoint a
minute at a hundredth, three quarters of a step in products, and nearly twice Lightning's speed, on
64 bits many times.
"""

import dataclasses
import importlib.util
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments._harness import Metric
from experiments.benchmarks import _training_lightning
from experiments.benchmarks._timing import Row, as_metrics, print_rows, use_one_core
from jaxgen.core import Array, Key, Params, check_count

DISPATCH = 50  # steps, in `fit` and in the scan
SECONDS_BETWEEN_CHECKPOINTS = 60


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of data, weights and batches."""
    run_dir: pathlib.Path = pathlib.Path("runs/benchmarks_training")
    """Folder of the run."""
    num_steps: int = 1050
    """Steps of each training; the first 50 are not timed."""
    num_hidden: int = 200
    """Units of each hidden layer; of the VAE of 64 bits, a quarter."""
    num_repeats: int = 9
    """Trainings of each kind."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_hidden", "num_repeats"):
            check_count(name, getattr(self, name))
        check_count("num_steps", self.num_steps, DISPATCH + 1)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_steps=100, num_hidden=8, num_repeats=1)


class Task:
    """The training: a VAE with one sample and batches of 100."""

    batch_size = 100

    def __init__(self, config: Config, num_dims: int = 784, num_latents: int = 50) -> None:
        self.config = config
        self.model = jg.VAE(num_dims, 2, num_latents, (config.num_hidden,) * 2)
        rng = np.random.default_rng(config.seed)
        self.data = rng.integers(0, 2, (2000, num_dims)).astype(np.int32)
        self.key = jax.random.key(config.seed)
        self.params = jax.jit(self.model.init)(self.key, self.data[:1])
        self.optimizer = optax.adam(1e-3)

    def loss(self, key: Key, params: Params, x: Array, step: Array) -> Array:
        """The bound, negative."""
        return -jnp.mean(jg.elbo(key, self.model, params, x).value)

    def fit(self, source: Any) -> float:
        """Seconds of a step in `fit`."""
        times: list[tuple[int, float]] = []
        jg.fit(
            self.key,
            self.params,
            self.loss,
            source,
            self.optimizer,
            num_steps=self.config.num_steps,
            batch_size=self.batch_size,
            report_fn=lambda step, numbers: times.append((step, time.perf_counter())),
        )
        (first, start), (last, end) = times[0], times[-1]
        return (end - start) / (last - first)

    def bare(self, scan: Callable) -> float:
        """Seconds of a step in a scan by hand."""
        rows = np.random.default_rng(1).integers(0, len(self.data), (DISPATCH, self.batch_size))
        data, indices = jnp.asarray(self.data), jnp.asarray(rows)
        params = jax.tree.map(jnp.array, self.params)
        state = params, self.optimizer.init(params), jnp.zeros((), jnp.int32)
        state, losses = jax.block_until_ready(scan(self.key, state, data, indices))
        start, num_dispatches = time.perf_counter(), self.config.num_steps // DISPATCH - 1
        for _ in range(num_dispatches):
            state, losses = scan(self.key, state, data, indices)
            np.asarray(losses)
        return (time.perf_counter() - start) / (num_dispatches * DISPATCH)

    def scan(self) -> Callable:
        """Many steps with nothing else, compiled."""

        def scan(key: Key, state: Any, data: Array, indices: Array) -> Any:
            def body(state: Any, rows: Array) -> Any:
                params, opt_state, step = state
                loss, gradient = jax.value_and_grad(self.loss, argnums=1)(
                    jax.random.fold_in(key, step), params, data[rows], step
                )
                updates, opt_state = self.optimizer.update(gradient, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state, step + 1), loss

            return jax.lax.scan(body, state, indices)

        return jax.jit(scan, donate_argnums=1)

    def products(self) -> Callable:
        """Many times the products of matrices of a step, with nothing between, compiled.

        They are those of the gradient of the same layers without their units.
        """

        def loss(params: Params, x: Array) -> Array:
            kernels = {name: layer["kernel"] for name, layer in params["params"].items()}
            h = x @ kernels["encoder_0"] @ kernels["encoder_1"]
            z = h @ kernels["posterior_mean"] + h @ kernels["posterior_log_scale"]
            outputs = z @ kernels["decoder_0"] @ kernels["decoder_1"] @ kernels["outputs"]
            return jnp.sum(outputs**2)

        def scan(key: Key, state: Any, data: Array, indices: Array) -> Any:
            def body(state: Any, rows: Array) -> Any:
                gradient = jax.grad(loss)(self.params, data[rows].astype(jnp.float32))
                return (gradient, *state[1:]), 0.0

            return jax.lax.scan(body, state, indices)

        return jax.jit(scan, donate_argnums=1)

    def lightning(self) -> float:
        """Seconds of a step in Lightning."""
        return _training_lightning.seconds_a_step(
            self.data,
            self.config.num_hidden,
            self.model.num_latents,
            self.batch_size,
            DISPATCH,
            self.config.num_steps,
        )

    def save_seconds(self) -> float:
        """Seconds of a save of the state, the median of a few."""
        state = jg.training.init_state(self.params, self.optimizer)
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            checkpointer = jg.training.Checkpointer(pathlib.Path(folder))
            for step in range(5):
                start = time.perf_counter()
                checkpointer.save(step, state)
                seconds.append(time.perf_counter() - start)
            checkpointer.close()
        return statistics.median(seconds)

    def copies(self) -> float:
        """Memory of the program of `fit` at its peak, in copies of the parameters."""
        plan = jg.training.plan(
            self.key,
            self.params,
            self.loss,
            self.data,
            self.optimizer,
            num_steps=1,
            batch_size=self.batch_size,
        )
        return (plan.device_bytes - self.data.nbytes) / (4 * plan.num_params)


class Rows:
    """The data, read by indices."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.data)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Read some."""
        return self.data[indices]


def main(config: Config) -> dict[str, Metric]:
    """Time trainings; see the module docstring."""
    use_one_core()
    run = harness.start(config, "benchmarks.training")
    task = Task(config)
    scan, products, source = task.scan(), task.products(), Rows(task.data)
    task.bare(scan)
    found = [
        (task.bare(scan), task.fit(task.data), task.fit(source), task.bare(products))
        for _ in range(config.num_repeats)
    ]
    bare, memory, stream, alone = (np.array(column) for column in zip(*found, strict=True))
    saved = task.save_seconds()
    rows = [
        _row("overhead", memory, bare, "a bare scan"),
        _row("streaming", stream, memory, "arrays in memory"),
        _row("products", memory, alone, "its products of matrices alone"),
        *lightning_rows(config, task),
        _row(
            "checkpoints",
            np.array([1 + saved / SECONDS_BETWEEN_CHECKPOINTS]),
            np.ones(1),
            "no checkpoints",
        ),
    ]
    print_rows(rows)
    return run.finish(
        {
            **as_metrics(rows),
            "save_seconds": Metric(saved),
            "memory_in_copies_of_parameters": Metric(task.copies()),
            "first_dispatch_cpu_seconds": Metric(first_dispatch_seconds()),
        }
    )


def lightning_rows(config: Config, task: Task) -> list[Row]:
    """`fit` against Lightning in turn: the same VAE, and one with layers that cost little."""
    if importlib.util.find_spec("lightning") is None:
        print("lightning is not installed; its rows are left out")
        return []
    few = dataclasses.replace(config, num_hidden=-(-config.num_hidden // 4))
    rows = []
    for name, one in {"lightning": task, "lightning_64_bits": Task(few, 64, 8)}.items():
        found = [(one.fit(one.data), one.lightning()) for _ in range(config.num_repeats)]
        ours, peer = np.array(found).T
        rows.append(_row(name, ours, peer, "PyTorch Lightning"))
    return rows


def _row(name: str, ours: np.ndarray, peer: np.ndarray, who: str) -> Row:
    ours_ns, peer_ns = 1e9 * float(np.median(ours)), 1e9 * float(np.median(peer))
    return Row(name, float(np.median(peer / ours)), ours_ns, peer_ns, who)


def first_dispatch_seconds() -> float:
    """CPU seconds of a process that imports and takes 50 steps, its programs kept before."""
    script = (
        "from experiments._compilation_cache import keep_compiled_programs\n"
        "keep_compiled_programs()\n"
        "from experiments.benchmarks.training import Config, Task\n"
        "task = Task(Config())\n"
        "import jaxgen as jg\n"
        "jg.fit(task.key, task.params, task.loss, task.data, task.optimizer, num_steps=50, "
        "batch_size=task.batch_size)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):  # the first fills the cache
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", script], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    harness.run_experiment(Config, main)
