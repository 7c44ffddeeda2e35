"""Estimate π by darts and by Buffon's needle; error bars that cover, and how fast errors fall.

    python -m experiments.monte_carlo

About 1 minute on two CPU cores. Expected: both estimates of π within 4 standard errors;
intervals stated to hold 50 to 99 % of the time hold that often; on a smooth integrand over the
four-dimensional cube the error falls with a slope of −0.5 for independent, antithetic and
stratified points, and for scrambled Sobol points at least as fast as 1/n.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import scipy.stats

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, Estimate, Key, check_count, check_in_range

LEVELS = np.array([0.5, 0.68, 0.8, 0.9, 0.95, 0.99])
DESIGNS = {
    "independent": jg.samplers.iid_uniforms,
    "antithetic": jg.samplers.antithetic_uniforms,
    "stratified": jg.samplers.stratified_uniforms,
    "scrambled Sobol": jg.samplers.scrambled_sobol,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/monte_carlo")
    """Folder of the run."""
    num_samples: int = 200_000_000
    """Darts, and needles, thrown at most."""
    standard_error: float = 2e-4
    """Standard error of π at which to stop throwing."""
    num_repetitions: int = 10_000
    """Repetitions behind each coverage."""
    num_replicates: int = 64
    """Independent randomizations behind each error of a design."""
    max_log2_points: int = 15
    """log2 of the number of points in the largest design."""
    num_dims: int = 4
    """Dimensions of the smooth integrand."""

    def __post_init__(self) -> None:
        """Check the counts; a slope needs three designs."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_samples", "num_repetitions", "num_dims"):
            check_count(name, getattr(self, name))
        check_count("num_replicates", self.num_replicates, minimum=2)
        check_count("max_log2_points", self.max_log2_points, minimum=6)
        check_in_range("standard_error", self.standard_error, 0.0, 1.0, open_lower=True)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=200_000, num_repetitions=100, num_replicates=8, max_log2_points=6)


def dart(point: Array) -> Array:
    """Four times whether a dart in the unit square lands in the quarter disc."""
    return 4.0 * (jnp.sum(point**2) < 1)


def needle_crosses(throw: Array) -> Array:
    """Whether a needle as long as the boards are wide lies across a line.

    The throw is the height of its middle and a vector for its direction; no π is needed to draw it.
    """
    height, direction = throw[0], throw[1:]
    reach = jnp.abs(direction[1]) / jnp.linalg.norm(direction) / 2
    return (height < reach) | (1 - height < reach)


def throw_needles(key: Key, num_samples: int) -> Array:
    """Draw heights in (0, 1) and directions, `[num_samples, 3]`."""
    height_key, direction_key = jax.random.split(key)
    heights = jax.random.uniform(height_key, (num_samples, 1))
    return jnp.concatenate([heights, jax.random.normal(direction_key, (num_samples, 2))], axis=1)


def smooth(u: Array) -> Array:
    """Every coordinate interacts with every other; the integral over the cube is exactly 1."""
    return jnp.prod(jnp.exp(u) / (jnp.e - 1))


def estimate_pi(key: Key, config: Config) -> tuple[dict[str, Estimate], list[Estimate]]:
    """π from darts and from needles, and the darts' estimates on the way."""
    dart_key, needle_key = jax.random.split(key)
    seen: list[Estimate] = []
    darts = jg.estimators.expectation(
        dart_key,
        lambda key, num_samples: jg.samplers.iid_uniforms(key, num_samples, 2),
        dart,
        config.num_samples,
        standard_error=config.standard_error,
        progress_fn=seen.append,
    )
    # π = 2 / P(crossing), so by the delta method an error of P counts 2 / P² times.
    crossings = jax.device_get(
        jg.estimators.expectation(
            needle_key,
            throw_needles,
            needle_crosses,
            config.num_samples,
            standard_error=config.standard_error * 2 / np.pi**2,
        )
    )
    needles = Estimate(
        2 / crossings.value,
        2 / crossings.value**2 * crossings.standard_error,
        crossings.num_samples,
    )
    jax.effects_barrier()
    return {"darts": darts, "needle": needles}, sorted(seen, key=lambda e: float(e.num_samples))


def coverage(key: Key, config: Config) -> dict[str, np.ndarray]:
    """How often intervals of each level hold the truth, over independent repetitions."""
    plain_key, sobol_key = jax.random.split(key)
    num = config.num_repetitions

    @jax.vmap
    def plain(key: Key) -> Estimate:
        draw = functools.partial(jg.samplers.iid_uniforms, num_dims=2)
        return jg.estimators.expectation(key, draw, dart, 10_000)

    def sobol(key: Key) -> Estimate:
        draw = functools.partial(jg.samplers.scrambled_sobol, num_dims=config.num_dims)
        return jg.estimators.replicated(key, draw, smooth, 64, num_replicates=16)

    darts = jax.jit(plain)(jax.random.split(plain_key, num))
    cubes = jax.jit(functools.partial(jax.lax.map, sobol))(jax.random.split(sobol_key, num))
    return {
        "darts": _covered(darts, np.pi, scipy.stats.norm()),
        "scrambled Sobol": _covered(cubes, 1.0, scipy.stats.t(15)),
    }


def _covered(estimate: Estimate, truth: float, law: scipy.stats.rv_continuous) -> np.ndarray:
    scores = np.abs(np.asarray(estimate.value) - truth) / np.asarray(estimate.standard_error)
    return np.mean(scores[:, None] < law.isf((1 - LEVELS) / 2), axis=0)


def errors_of_designs(key: Key, config: Config) -> dict[str, np.ndarray]:
    """Root mean squared error of one randomization, for each design and number of points."""
    num_points = [2**i for i in range(4, config.max_log2_points + 1)]
    errors = {}
    for index, (name, design) in enumerate(DESIGNS.items()):
        draw = functools.partial(design, num_dims=config.num_dims)
        keys = jax.random.split(jax.random.fold_in(key, index), len(num_points))
        estimate = functools.partial(
            jg.estimators.replicated,
            sample_fn=draw,
            f=smooth,
            num_replicates=config.num_replicates,
        )
        estimates = [
            jax.jit(functools.partial(estimate, num_samples=n))(k)
            for k, n in zip(keys, num_points, strict=True)
        ]
        # The error of the mean of R randomizations, times √R.
        errors[name] = np.array(
            [float(e.standard_error) * config.num_replicates**0.5 for e in estimates]
        )
    return errors


def fit_slope(errors: np.ndarray) -> tuple[float, float]:
    """The slope of log error against log points, and its standard error."""
    fit = scipy.stats.linregress(np.arange(len(errors)), np.log2(errors))
    return fit.slope, fit.stderr


def main(config: Config) -> dict[str, Metric]:
    """Run the three studies."""
    run = harness.start(config, "monte_carlo")
    keys = jax.random.split(jax.random.key(config.seed), 3)
    pi, on_the_way = estimate_pi(keys[0], config)
    covered = coverage(keys[1], config)
    errors = errors_of_designs(keys[2], config)
    slopes = {name: fit_slope(values) for name, values in errors.items()}
    run.save_figure(draw(config, on_the_way, covered, errors, slopes), "monte_carlo.png")
    metrics = {
        f"pi/{_slug(name)}": Metric(float(e.value), float(e.standard_error), int(e.num_samples))
        for name, e in pi.items()
    }
    for name, rates in covered.items():
        for level, rate in zip(LEVELS, rates, strict=True):
            error = (level * (1 - level) / config.num_repetitions) ** 0.5
            metrics[f"coverage/{_slug(name)}/{level:.0%}"] = Metric(
                float(rate), error, config.num_repetitions
            )
    for name, (slope, error) in slopes.items():
        metrics[f"error_slope/{_slug(name)}"] = Metric(slope, error, config.num_replicates)
    return run.finish(metrics)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "_")


def draw(
    config: Config,
    on_the_way: list[Estimate],
    covered: dict[str, np.ndarray],
    errors: dict[str, np.ndarray],
    slopes: dict[str, tuple[float, float]],
) -> matplotlib.figure.Figure:
    """Three panels: π on the way, coverage, and errors against the number of points."""
    figure, (left, middle, right) = plots.subplots(1, 3, figsize=(12.6, 3.8))
    counts = [float(e.num_samples) / 1e6 for e in on_the_way]
    off = np.array([float(e.value) - np.pi for e in on_the_way])
    bars = 1.96 * np.array([float(e.standard_error) for e in on_the_way])
    left.fill_between(counts, off - bars, off + bars, color=plots.COLORS[5], alpha=0.4, lw=0)
    left.plot(counts, off, color=plots.COLORS[0], label="estimate and 95 % interval")
    left.axhline(0, color=plots.COLORS[6], linewidth=0.8)
    left.set(xlabel="million darts", ylabel="estimate of π less π", title="π by darts")
    left.legend(fontsize=8)
    error = 1.96 * np.sqrt(LEVELS * (1 - LEVELS) / config.num_repetitions)
    for place, (name, rates) in enumerate(covered.items()):
        middle.errorbar(
            LEVELS + 0.008 * place,
            rates - LEVELS,
            error,
            fmt="os"[place],
            color=plots.COLORS[place],
            label=name,
            capsize=2,
        )
    middle.axhline(0, color=plots.COLORS[6], linewidth=0.8)
    middle.set(
        xlabel="stated coverage",
        ylabel="found less stated",
        title=f"Intervals over {config.num_repetitions:,} repetitions",
    )
    middle.legend(fontsize=8)
    markers = zip(errors.items(), plots.COLORS, "os^D", strict=False)
    for (name, values), color, marker in markers:
        num_points = 2.0 ** np.arange(4, 4 + len(values))
        label = f"{name}: {slopes[name][0]:.2f} ± {slopes[name][1]:.2f}"
        spread = values / np.sqrt(2 * (config.num_replicates - 1))
        right.errorbar(
            num_points, values, 1.96 * spread, fmt=marker, ms=4, color=color, label=label
        )
        fit = np.polyfit(np.log(num_points), np.log(values), 1)
        right.plot(num_points, np.exp(np.polyval(fit, np.log(num_points))), color=color, lw=1)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="points",
        ylabel="root mean squared error",
        title=f"A smooth integrand in {config.num_dims} dimensions",
    )
    right.legend(fontsize=7, loc="lower left", title="slopes", title_fontsize=7)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
