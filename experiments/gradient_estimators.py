"""Bias, variance and cost of every gradient estimator, side by side.

    python -m experiments.gradient_estimators

About 1 minute on two CPU cores. Two problems with exact gradients: E[Σ (x_d − t)² + interactions]
under 16 Bernoulli bits and under 16 Gaussians. Expected: score-function, pathwise, implicit and
measure-valued estimators show no bias beyond 4 standard errors; leave-one-out cuts the score
function's variance, measure-valued terms and paths cut it further; straight-through is off
however long it runs; Gumbel-softmax is off less, and noisier, the colder it is.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from jax.scipy import stats

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, Estimate, Key, Params, bernoulli_log_prob, check_count

NUM_DIMS = 16
TARGET = 0.45


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/gradient_estimators")
    """Folder of the run."""
    num_samples: int = 100
    """Samples behind one gradient."""
    num_repetitions: int = 4000
    """Independent gradients behind each bias and variance."""
    num_timed: int = 10_000
    """Samples in a timed gradient."""
    num_timings: int = 20
    """Timed rounds, of which the median counts."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_samples", "num_repetitions", "num_timed", "num_timings"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=4, num_repetitions=10, num_timed=10, num_timings=1)


class Entry(NamedTuple):
    """One estimator on one problem."""

    problem: str
    name: str
    is_unbiased: bool
    gradient_fn: Callable[[Key, Params, int], Estimate]
    """`(key, params, num_samples) -> Estimate`."""


class Result(NamedTuple):
    """Bias, variance and cost of an estimator.

    Attributes:
      bias: relative error of the mean gradient, ‖E[g] − g‖ / ‖g‖, along the exact gradient.
      bias_error: its standard error.
      variance: of one sample's gradient, summed over parameters, over ‖g‖².
      variance_error: its standard error.
      microseconds: to compute one sample's gradient, within a batch.
    """

    bias: float
    bias_error: float
    variance: float
    variance_error: float
    microseconds: float


def value(params: Params, x: Array) -> Array:
    """Squared distances from the target, and products of neighbors."""
    return jnp.sum((x - TARGET) ** 2) + jnp.sum(x[1:] * x[:-1]) / 2


def one_hot_value(params: Params, x: Array) -> Array:
    """The same function of one-hot bits `[D, 2]`, whose second column is the bit."""
    return value(params, x[:, 1])


def bits_params() -> Params:
    """Log-odds from −1 to 1."""
    return {"logits": jnp.linspace(-1.0, 1.0, NUM_DIMS)}


def gaussian_params() -> Params:
    """Means from −1 to 1, scales from 0.5 to 1.5."""
    return {
        "mean": jnp.linspace(-1.0, 1.0, NUM_DIMS),
        "scale": jnp.linspace(0.5, 1.5, NUM_DIMS),
    }


def bits_exact(params: Params) -> Array:
    """E[value] over the bits: x² is x."""
    p = jax.nn.sigmoid(params["logits"])
    return jnp.sum(p * (1 - 2 * TARGET) + TARGET**2) + jnp.sum(p[1:] * p[:-1]) / 2


def gaussian_exact(params: Params) -> Array:
    """E[value] over the Gaussians."""
    mean, scale = params["mean"], params["scale"]
    return jnp.sum((mean - TARGET) ** 2 + scale**2) + jnp.sum(mean[1:] * mean[:-1]) / 2


def draw_bits(key: Key, params: Params, num_samples: int) -> Array:
    """Bits as floats, `[num_samples, D]`."""
    p = jnp.broadcast_to(jax.nn.sigmoid(params["logits"]), (num_samples, NUM_DIMS))
    return jax.random.bernoulli(key, p).astype(jnp.float32)


def bits_log_prob(params: Params, x: Array) -> Array:
    """Log-probability of one sample of bits, nats."""
    return jnp.sum(bernoulli_log_prob(params["logits"], x))


def normals(key: Key, num_samples: int) -> Array:
    """Noise, `[num_samples, D]`."""
    return jax.random.normal(key, (num_samples, NUM_DIMS))


def transform(params: Params, noise: Array) -> Array:
    """One sample of Gaussians from its noise."""
    return params["mean"] + params["scale"] * noise


def draw_gaussian(key: Key, params: Params, num_samples: int) -> Array:
    """Gaussian samples, `[num_samples, D]`."""
    return jax.vmap(transform, (None, 0))(params, normals(key, num_samples))


def gaussian_log_prob(params: Params, x: Array) -> Array:
    """Log-density of one sample of Gaussians, nats."""
    return jnp.sum(stats.norm.logpdf(x, params["mean"], params["scale"]))


def gaussian_cdf(params: Params, x: Array) -> Array:
    """Distribution functions of the coordinates."""
    return stats.norm.cdf(x, params["mean"], params["scale"])


def two_logits(params: Params) -> Array:
    """The bits' log-odds as logits of two symbols, `[D, 2]`."""
    return jnp.stack([jnp.zeros(NUM_DIMS), params["logits"]], axis=1)


def entries() -> list[Entry]:
    """Every estimator that applies, on both problems."""
    return [*bit_entries("bits"), *gaussian_entries("Gaussians")]


def score(draw_fn: Callable, log_prob_fn: Callable, baseline: float | str) -> Callable:
    """The score-function estimator."""
    return lambda key, params, n: jg.estimators.score_function(
        key, value, draw_fn, log_prob_fn, params, n, baseline=baseline
    )


def relaxed(temperature: float) -> Callable:
    """The Gumbel-softmax estimator."""
    return lambda key, params, n: jg.estimators.gumbel_softmax(
        key, one_hot_value, two_logits, params, n, temperature=temperature
    )


def bit_entries(bits: str) -> list[Entry]:
    """Every estimator of an expectation over bits."""
    return [
        Entry(bits, "score function", True, score(draw_bits, bits_log_prob, 0.0)),
        Entry(bits, "score, leave-one-out", True, score(draw_bits, bits_log_prob, "leave_one_out")),
        Entry(
            bits,
            "measure-valued",
            True,
            lambda key, params, n: jg.estimators.measure_valued(
                key, value, jg.estimators.bernoulli_triples, params, n
            ),
        ),
        Entry(
            bits,
            "straight-through",
            False,
            lambda key, params, n: jg.estimators.straight_through(
                key, one_hot_value, two_logits, params, n
            ),
        ),
        *[Entry(bits, f"Gumbel-softmax {t}", False, relaxed(t)) for t in (1.0, 0.3, 0.1)],
    ]


def gaussian_entries(gaussians: str) -> list[Entry]:
    """Every estimator of an expectation over Gaussians."""
    return [
        Entry(gaussians, "score function", True, score(draw_gaussian, gaussian_log_prob, 0.0)),
        Entry(
            gaussians,
            "score, leave-one-out",
            True,
            score(draw_gaussian, gaussian_log_prob, "leave_one_out"),
        ),
        Entry(
            gaussians,
            "measure-valued",
            True,
            lambda key, params, n: jg.estimators.measure_valued(
                key, value, jg.estimators.gaussian_triples, params, n
            ),
        ),
        Entry(
            gaussians,
            "pathwise",
            True,
            lambda key, params, n: jg.estimators.pathwise(
                key, value, normals, transform, params, n
            ),
        ),
        Entry(
            gaussians,
            "implicit",
            True,
            lambda key, params, n: jg.estimators.implicit(
                key, value, draw_gaussian, gaussian_cdf, params, n
            ),
        ),
    ]


def measure(key: Key, entry: Entry, config: Config) -> Result:
    """Bias and variance over repetitions, and the time of one gradient."""
    params, exact_fn = {
        "bits": (bits_params(), bits_exact),
        "Gaussians": (gaussian_params(), gaussian_exact),
    }[entry.problem]
    exact = np.concatenate(jax.tree.leaves(jax.jit(jax.grad(exact_fn))(params)))

    def one(key: Key) -> Params:
        return entry.gradient_fn(key, params, config.num_samples).value

    repeat = jax.jit(functools.partial(jax.lax.map, one))
    keys = jax.random.split(key, config.num_repetitions)
    gradients = np.concatenate(jax.tree.leaves(repeat(keys)), axis=1, dtype=np.float64)
    size = np.sum(exact**2)
    along = gradients @ exact / size - 1
    spread = np.sum((gradients - gradients.mean(0)) ** 2, axis=1) / size * config.num_samples
    root = len(keys) ** 0.5
    return Result(
        float(along.mean()),
        float(along.std(ddof=1) / root),
        float(spread.mean() * len(keys) / (len(keys) - 1)),
        float(spread.std(ddof=1) / root),
        _microseconds(entry, params, config),
    )


def _microseconds(entry: Entry, params: Params, config: Config) -> float:
    gradient_fn = jax.jit(lambda key: entry.gradient_fn(key, params, config.num_timed))
    keys, seconds = jax.random.split(jax.random.key(config.seed), config.num_timings + 1), []
    for key in keys:  # the first compiles
        started = time.perf_counter()
        jax.block_until_ready(gradient_fn(key))
        seconds.append(time.perf_counter() - started)
    return 1e6 * float(np.median(seconds[1:])) / config.num_timed


def main(config: Config) -> dict[str, Metric]:
    """Measure every estimator and draw them side by side."""
    run = harness.start(config, "gradient_estimators")
    listed = entries()
    keys = jax.random.split(jax.random.key(config.seed), len(listed))
    results = []
    with harness.progress_bar("estimators", len(listed)) as update:
        for index, (key, entry) in enumerate(zip(keys, listed, strict=True)):
            results.append(measure(key, entry, config))
            update(index + 1, entry.name)
    run.save_figure(draw(listed, results), "gradient_estimators.png")
    metrics, num = {}, config.num_repetitions
    for entry, result in zip(listed, results, strict=True):
        label = f"{entry.problem}/{entry.name}".replace(" ", "_").replace(",", "").lower()
        metrics[f"{label}/relative_bias"] = Metric(result.bias, result.bias_error, num)
        metrics[f"{label}/relative_variance"] = Metric(result.variance, result.variance_error, num)
        metrics[f"{label}/microseconds"] = Metric(result.microseconds)
    return run.finish(metrics)


def draw(listed: list[Entry], results: list[Result]) -> matplotlib.figure.Figure:
    """A row a problem, three panels: bias, variance, and variance times cost."""
    figure, axes = plots.subplots(2, 3, figsize=(11, 5.6), sharey="row")
    for row, problem in zip(axes, ("bits", "Gaussians"), strict=True):
        chosen = [(e, r) for e, r in zip(listed, results, strict=True) if e.problem == problem]
        places = np.arange(len(chosen))[::-1]
        columns = (
            ("bias along the gradient (% of it)", 100.0, "bias", "bias_error"),
            ("variance of a sample / |gradient|²", 1.0, "variance", "variance_error"),
        )
        for axis, (label, unit, name, error_name) in zip(row, columns, strict=False):
            for place, (entry, result) in zip(places, chosen, strict=True):
                axis.errorbar(
                    unit * getattr(result, name),
                    place,
                    xerr=1.96 * unit * getattr(result, error_name),
                    fmt="o" if entry.is_unbiased else "D",
                    color=plots.COLORS[0 if entry.is_unbiased else 1],
                    capsize=3,
                )
            axis.set(xlabel=label)
        for place, (entry, result) in zip(places, chosen, strict=True):
            row[2].plot(
                result.variance * result.microseconds,
                place,
                "o" if entry.is_unbiased else "D",
                color=plots.COLORS[0 if entry.is_unbiased else 1],
            )
        row[0].axvline(0, color=plots.COLORS[6], linewidth=0.8)
        row[0].set_yticks(places, [entry.name for entry, _ in chosen])
        row[1].set(xscale="log", title=f"16 {problem} (circles: unbiased; diamonds: biased)")
        row[0].set_ylim(-0.6, len(chosen) - 0.4)
        row[2].set(xscale="log", xlabel="that variance times the time of a sample (µs)")
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
