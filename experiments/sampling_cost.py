"""What a sample costs as it gets longer: full passes, cached steps, fixed point, recurrence.

    python -m experiments.sampling_cost

About half a minute on two CPU cores. Batches of sequences of 49 to 3,136 bits are drawn in four
ways from models with random weights: MADE by a full pass for each symbol, by cached steps and by
fixed-point iteration over full passes, and a gated linear recurrence by cached steps. Expected
slopes of log time against log length, over the longer half of the lengths: 2 for full passes (as
many passes as symbols, each over all symbols), 1 for both kinds of cached steps, and between 1 and
2 for the fixed point, which takes about as many passes as its longest chain of coordinates that
depend on each other.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import scipy.stats
from flax import linen as nn

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, AutoregressiveModel, Key, Params, check_count


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of weights and uniforms."""
    run_dir: pathlib.Path = pathlib.Path("runs/sampling_cost")
    """Folder of the run."""
    lengths: tuple[int, ...] = (49, 98, 196, 392, 784, 1568, 3136)
    """Symbols in a sample, ascending; slopes are fitted over the longer half."""
    batch_size: int = 16
    """Samples drawn at once."""
    num_hidden: int = 64
    """Units of MADE's hidden layer."""
    width: int = 32
    """Channels of the linear recurrence, which has two layers."""
    num_repeats: int = 5
    """Timings, of which the median counts."""

    def __post_init__(self) -> None:
        """Check what would make the fit meaningless."""
        for name in ("batch_size", "num_hidden", "width", "num_repeats"):
            check_count(name, getattr(self, name))
        if len(self.lengths) < 5 or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must be five or more, ascending, got {self.lengths}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(lengths=(2, 3, 4, 6, 8), batch_size=2, num_hidden=4, width=4, num_repeats=1)


def full_passes(model: AutoregressiveModel, params: Params, u: Array) -> tuple[Array, Array]:
    """Symbols of `jg.samplers.quantile`, by all logits anew for each; and the number of passes."""

    def draw(i: Array, x: Array) -> Array:
        logits = jax.lax.dynamic_index_in_dim(model.logits(params, x), i, 1, keepdims=False)
        u_i = jax.lax.dynamic_index_in_dim(u, i, 1, keepdims=False)
        return x.at[:, i].set(jg.samplers.categorical_quantile(logits, u_i))

    x = jax.lax.fori_loop(0, model.num_dims, draw, jnp.zeros(u.shape, jnp.int32))
    return x, jnp.array(model.num_dims)


def cached_steps(model: AutoregressiveModel, params: Params, u: Array) -> tuple[Array, Array]:
    """The symbols by cached steps; and the number of steps."""
    return jg.samplers.quantile(model, params, u).x, jnp.array(model.num_dims)


def fixed_point(model: AutoregressiveModel, params: Params, u: Array) -> tuple[Array, Array]:
    """The symbols by fixed-point iteration; and the number of passes."""
    result = jg.samplers.quantile_parallel(model, params, u)
    return result.draws.x, result.num_passes


WAYS: dict[str, tuple[str, Callable]] = {
    "MADE, a full pass a symbol": ("made", full_passes),
    "MADE, fixed point": ("made", fixed_point),
    "MADE, cached steps": ("made", cached_steps),
    "linear recurrence, cached steps": ("recurrence", cached_steps),
}


def main(config: Config) -> dict[str, Metric]:
    """Time every way at every length, and fit the slopes."""
    run = harness.start(config, "sampling_cost")
    rows: list[dict[str, Any]] = []
    with harness.progress_bar("lengths", len(config.lengths)) as update:
        for done, length in enumerate(config.lengths, start=1):
            rows += measure(config, length)
            update(done, f"{length} symbols")
    for step, row in enumerate(rows):
        run.log(stage="cost", step=step, **row)
    slopes = {way: fit_slope(config, rows, way) for way in WAYS}
    run.save_figure(draw(config, rows, slopes), "sampling_cost.png")
    longest = [row for row in rows if row["length"] == config.lengths[-1]]
    metrics = {
        f"slope/{_slug(way)}": Metric(slope, error, len(longer_half(config)))
        for way, (slope, error) in slopes.items()
    }
    for row in longest:
        name = f"length_{row['length']}/{_slug(row['way'])}"
        metrics[f"{name}/ms_per_sample"] = Metric(1e3 * row["seconds_per_sample"])
        metrics[f"{name}/passes"] = Metric(row["num_passes"])
    metrics["smallest_agreement_of_ways"] = Metric(min(row["agreement"] for row in rows))
    return run.finish(metrics)


def measure(config: Config, length: int) -> list[dict[str, Any]]:
    """Every way at one length; the ways of one model must draw the same symbols."""
    modules: dict[str, nn.Module] = {
        "made": jg.MADE(length, 2, (config.num_hidden,)),
        "recurrence": jg.LinearRecurrence(length, 2, width=config.width, num_layers=2),
    }
    weights = {kind: random_params(config.seed, module, length) for kind, module in modules.items()}
    u = np.random.default_rng(config.seed).random((config.batch_size, length), np.float32)
    drawn: dict[str, np.ndarray] = {}
    rows = []
    for way, (kind, sample_fn) in WAYS.items():
        model, params = modules[kind], weights[kind]
        compiled = jax.jit(sample_fn)
        x, num_passes = compiled(model, params, u)
        agreement = float(np.mean(drawn.setdefault(kind, np.asarray(x)) == np.asarray(x)))
        seconds = [_seconds(compiled, model, params, u) for _ in range(config.num_repeats)]
        rows.append(
            {
                "way": way,
                "length": length,
                "seconds_per_sample": statistics.median(seconds) / config.batch_size,
                "num_passes": int(num_passes),
                "agreement": agreement,
            }
        )
    return rows


def random_params(seed: int, module: nn.Module, length: int) -> Params:
    """Initial weights, doubled so that coordinates depend on each other."""

    @jax.jit
    def doubled(key: Key) -> Params:
        params = module.init(key, jnp.zeros((1, length), jnp.int32))
        return jax.tree.map(lambda leaf: 2.0 * leaf, params)

    return doubled(jax.random.key(seed))


def _seconds(function: Callable, *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def fit_slope(config: Config, rows: list[dict[str, Any]], way: str) -> tuple[float, float]:
    """The slope of log time against log length over the longer half, and its standard error."""
    kept = [r for r in rows if r["way"] == way and r["length"] in longer_half(config)]
    lengths, seconds = ([r[name] for r in kept] for name in ("length", "seconds_per_sample"))
    fit = scipy.stats.linregress(np.log(lengths), np.log(seconds))
    return float(fit.slope), float(fit.stderr)


def longer_half(config: Config) -> tuple[int, ...]:
    """The lengths where a fixed cost for each step no longer hides how the rest grows."""
    return config.lengths[len(config.lengths) // 2 :]


def _slug(way: str) -> str:
    return way.lower().replace(",", "").replace(" ", "_")


def draw(
    config: Config, rows: list[dict[str, Any]], slopes: dict[str, tuple[float, float]]
) -> matplotlib.figure.Figure:
    """Time of a sample against its length, both on logarithmic axes."""
    figure, axis = plots.subplots(figsize=(6.2, 4.2))
    for way, color, marker in zip(WAYS, plots.COLORS, "os^D", strict=False):
        points = [(r["length"], 1e3 * r["seconds_per_sample"]) for r in rows if r["way"] == way]
        label = f"{way}: {slopes[way][0]:.2f} ± {slopes[way][1]:.2f}"
        axis.plot(*zip(*points, strict=True), marker, ms=5, color=color, label=label)
        lengths, times = np.transpose([p for p in points if p[0] in longer_half(config)])
        middle = np.exp(np.log(times).mean() - slopes[way][0] * np.log(lengths).mean())
        axis.plot(lengths, middle * lengths ** slopes[way][0], color=color, lw=1)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="symbols in a sample",
        ylabel="ms a sample",
        title=f"Cost of a sample, {config.batch_size} at once",
    )
    title = f"slopes from {longer_half(config)[0]:,} symbols on (lines)"
    axis.legend(fontsize=8, title=title, title_fontsize=8)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
