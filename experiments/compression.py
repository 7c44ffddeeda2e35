"""Code the test sets with every published model, and hold the files against what is claimed.

    python -m experiments.compression

About 13 minutes on two CPU cores. Chains claim −Σ log₂ p(x), latent-variable models the evidence
lower bound, estimated from 50 samples an image; one of them also codes with 8 samples, and claims
the importance-weighted bound of those. Bits back adds random bits that choose the first latents,
once a file: they are counted in the file and stand apart beside it. Each file is read back and
compared. The images are a random part of the test set, which the metrics' number of examples says;
beside the models stand xz, bzip2, zstd, PNG and WebP on the same images, and on the text with the
training text to learn from. Expected: net bits within 1 % of the claim; images of bits in little
more than half of what the best of those compressors takes, of gray levels in three quarters; text
in fewer bits than by any of them, as its model is calibrated on the validation split. Models with a
posterior behind a flow have no code yet.
"""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _autoregressive_rows as autoregressive_rows
from experiments import _general_compressors as general
from experiments import _harness as harness
from experiments import _iwae_rows as iwae_rows
from experiments import _mnist as mnist
from experiments import _plots as plots
from experiments import shakespeare
from experiments._harness import Metric
from jaxgen.core import Params, check_count

CHAINS = (
    *("static/nade", "dynamic/nade", "dynamic/gated_pixelcnn", "dynamic/pixelsnail"),
    *("mnist/gated_pixelcnn", "fashion_mnist/gated_pixelcnn"),
)
LATENTS = (
    *("vae/1/k1", "iwae/1/k5", "iwae/1/k50", "vae/2/k1", "iwae/2/k5", "own/no_posterior"),
    "dynamic/deep_vae",
)
MULTI_SAMPLE = {"iwae/2/k5": 8}
NUM_SAMPLES = 50
TEXT_ROWS = 8  # parts of the text side by side, each of which begins without context


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of the choice of images and of the bound's samples."""
    run_dir: pathlib.Path = pathlib.Path("runs/compression")
    """Folder of the run."""
    num_images: int = 1000
    """Test images that each model codes."""
    num_characters: int | None = None
    """Characters of the test text; None takes all."""
    is_smoke: bool = False
    """Use made-up images and small models, to see that every part works."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_images", self.num_images)
        if self.num_characters is not None:
            check_count("num_characters", self.num_characters, minimum=TEXT_ROWS)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(num_images=5, is_smoke=True)


class Task(NamedTuple):
    """A model and what it codes.

    Attributes:
      name: of the model.
      data: of what it codes.
      model: the model.
      params: its parameters.
      x: symbols `[N, D]`.
      num_samples: posterior samples a data point.
    """

    name: str
    data: str
    model: Any
    params: Params
    x: np.ndarray
    num_samples: int = 1


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "compression")
    metrics: dict[str, Metric] = {}
    tasks = smoke_tasks(config) if config.is_smoke else all_tasks(config)
    with harness.progress_bar("files", len(tasks)) as update:
        for i, task in enumerate(tasks):
            update(i, task.name)
            metrics |= code(run, task)
    for data in sorted({task.data for task in tasks}):
        metrics |= peers(config, data, next(task.x for task in tasks if task.data == data))
    run.save_figure(figure(metrics), "compression.png")
    return run.finish(metrics)


def code(run: harness.Run, task: Task) -> dict[str, Metric]:
    """Write a file, read it back, and compare it with the data and with the claim."""
    start = time.monotonic()
    file = jg.encode(task.model, task.params, task.x, num_samples=task.num_samples)
    path = run.path / f"{task.name.replace('/', '_')}.jxg"
    harness.write_bytes(path, file)
    run.note("compressed", path)
    read = jg.decode(task.model, task.params, path.read_bytes())
    seconds = time.monotonic() - start
    if not np.array_equal(read, task.x):
        raise ArithmeticError(f"{task.name} decodes to other symbols than it encoded")
    info = jg.coding.inspect(file)
    bits = {
        "claimed": claimed_bits(run.config.seed, task),
        "net": info.net_bits,
        "initial": info.initial_bits,
        "file": 8 * len(file),
    }
    run.log(stage=task.name, seconds_both_ways=round(seconds, 1), **bits)
    n, split = len(task.x), f"{task.data}, test"
    return {
        f"{task.name}/{name}_bits_per_dim": Metric(value / task.x.size, None, n, split)
        for name, value in bits.items()
        if name != "initial" or value
    }


def claimed_bits(seed: int, task: Task) -> float:
    """Bits that the log-likelihood claims, or the evidence lower bound."""
    model, params = task.model, task.params
    if isinstance(model, jg.LatentVariableModel):

        @jax.jit
        def nats(key: jax.Array, x: jax.Array) -> jax.Array:
            if task.num_samples > 1:
                return jg.iwae(key, model, params, x, num_samples=task.num_samples)
            return jg.elbo(key, model, params, x, num_samples=NUM_SAMPLES, kl="monte_carlo").value

        key = jax.random.key(seed)
        value = jg.training.evaluate(nats, task.x, batch_size=50, key=key)
    else:
        log_prob = jax.jit(lambda x: model.log_prob(params, x))
        value = jg.training.evaluate(log_prob, task.x, batch_size=50)
    return jg.coding.claimed_bits(value)


def all_tasks(config: Config) -> list[Task]:
    """Every published model, with the test set it is judged on."""
    images = {
        "dynamic": mnist.dynamic_splits(is_smoke=False).test,
        "static": jg.data.binarized_mnist().test.x,
        "mnist": jg.data.mnist().test.x,
        "fashion_mnist": jg.data.fashion_mnist().test.x,
    }
    chosen = {data: some(config, x) for data, x in images.items()}
    rows: list[tuple[str, Any]] = [(name, autoregressive_rows.ROWS[name].model) for name in CHAINS]
    rows += [(name, iwae_rows.ROWS[name].model) for name in LATENTS]
    tasks = []
    for name, model in rows:
        data = name.partition("/")[0] if name in CHAINS else "dynamic"
        x = chosen[data]
        file = mnist.PRETRAINED / f"{name.replace('/', '_')}.safetensors"
        params = load(model, file)
        tasks.append(Task(name, data, model, params, x))
        if name in MULTI_SAMPLE:
            several = f"{name}/{MULTI_SAMPLE[name]}_samples"
            tasks.append(Task(several, data, model, params, x, MULTI_SAMPLE[name]))
    text = shakespeare.load("cpu")
    model = shakespeare.SETTINGS["cpu"].module(text.vocabulary.num_symbols)
    _, params = shakespeare.calibrated(model, load(model, shakespeare.FILE), text)
    length = (config.num_characters or len(text.test)) // TEXT_ROWS
    x = text.test[: TEXT_ROWS * length].reshape(TEXT_ROWS, length).astype(np.int32)
    whole = jg.models.SlidingWindow(model, length)
    return [*tasks, Task("shakespeare", "text", whole, params, x)]


def smoke_tasks(config: Config) -> list[Task]:
    """A chain and a latent-variable model with random weights, on made-up bits."""
    x = some(config, mnist.dynamic_splits(is_smoke=True).test)
    models = {"chain": jg.NADE(784, 2, 4), "latent": jg.VAE(784, 2, 2, (4,))}
    return [
        Task(name, "dynamic", model, jax.jit(model.init)(jax.random.key(0), x[:1]), x)
        for name, model in models.items()
    ]


def some(config: Config, x: np.ndarray) -> np.ndarray:
    """Random images: the first of the test set are easier than the rest."""
    chosen = np.random.default_rng(config.seed).permutation(len(x))[: config.num_images]
    return x[np.sort(chosen)].astype(np.int32)


def load(model: Any, file: pathlib.Path) -> Params:
    """The published weights of a model."""
    x = jnp.zeros((1, model.num_dims), jnp.int32)
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    return jg.training.load_weights(file, template)


def peers(config: Config, data: str, x: np.ndarray) -> dict[str, Metric]:
    """What compressors make of the same data that know nothing of it."""
    if data == "text":
        text = shakespeare.load("cpu")
        train = np.concatenate([text.train, text.valid])
        before, raw = (as_bytes(text.vocabulary.decode(part)) for part in (train, x.ravel()))
        sizes = general.of_bytes(raw, before)
    else:
        is_binary = data in ("static", "dynamic")
        sizes = general.of_images(x.reshape(-1, 28, 28).astype(np.uint8), is_binary=is_binary)
    return {
        f"{name}/{data}/file_bits_per_dim": Metric(8 * size / x.size, None, len(x), f"{data}, test")
        for name, size in sizes.items()
    }


def as_bytes(content: str | bytes) -> bytes:
    """Text as it stands in a file."""
    return content.encode() if isinstance(content, str) else content


def figure(metrics: dict[str, Metric]) -> Any:
    """Bars of what files take, with a mark at what is claimed; one panel for each kind of data."""
    files = {name: m for name, m in metrics.items() if name.endswith("/file_bits_per_dim")}
    kinds = sorted({str(metric.split) for metric in files.values()})
    columns = min(3, len(kinds))
    size = -(-len(kinds) // columns), columns
    panel, axes = plots.subplots(*size, figsize=(4.5 * size[1], 4 * size[0]), squeeze=False)
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    for axis, kind in zip(axes.flat, kinds, strict=False):
        rows = {
            name.removesuffix("/file_bits_per_dim"): m
            for name, m in files.items()
            if m.split == kind
        }
        for i, (name, metric) in enumerate(sorted(rows.items(), key=lambda row: row[1].value)):
            claimed = metrics.get(f"{name}/claimed_bits_per_dim")
            axis.barh(i, metric.value, color=plots.COLORS[0 if claimed else 5], height=0.7)
            if claimed:
                axis.plot([claimed.value] * 2, [i - 0.4, i + 0.4], color=plots.COLORS[1])
        labels = sorted(rows, key=lambda name: rows[name].value)
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
        axis.set_xlabel(f"bits a {'character' if 'text' in kind else 'pixel'}")
        axis.set_title(f"{kind}; marks: claimed", fontsize=9)
    return panel


if __name__ == "__main__":
    harness.run_experiment(Config, main)
