"""Jensen's gap: its sign for convex and concave functions, and the ELBO's gap as one of them.

    python -m experiments.jensen

About half a minute on two CPU cores. Expected: E[exp X] − exp E[X] is positive and
equals exp(σ²/2) − 1, E[log W] − log E[W] is negative and equals −σ²/2, both within 4 standard
errors at every σ. On a linear Gaussian model with a posterior that is off, log p(x) less the bound
with K importance samples is Jensen's gap of the logarithm: it equals KL(q‖p) at K = 1 and closes as
Var(w) / 2K.
"""

import dataclasses
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, Estimate, Key, check_count, check_in_range, log_mean_exp

SPREADS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/jensen")
    """Folder of the run."""
    num_samples: int = 1_000_000
    """Draws behind each gap of a convex or concave function."""
    num_weights: int = 10_000_000
    """Importance weights behind each gap of a bound, shared out among its averages of K."""
    max_log2_weights: int = 10
    """log2 of the number of weights that the tightest bound averages."""
    num_dims: int = 4
    """Latent dimensions of the linear Gaussian model."""
    mean_shift: float = 0.4
    """How far q's mean is off, in posterior standard deviations, in every dimension."""
    scale_ratio: float = 1.2
    """q's standard deviation over the posterior's."""

    def __post_init__(self) -> None:
        """Check the counts and the scale."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_samples", "num_weights", "max_log2_weights", "num_dims"):
            check_count(name, getattr(self, name))
        check_in_range("scale_ratio", self.scale_ratio, 0.0, math.inf, open_lower=True)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=10_000, num_weights=20_000, max_log2_weights=3)


class Gap(NamedTuple):
    """A gap as found and as it should be."""

    found: Estimate
    exact: float | None


def gaps_of_functions(key: Key, config: Config) -> dict[str, list[Gap]]:
    """The gap of exp over normals and of log over log-normals, for every spread."""

    def exp_gap(key: Key, spread: Array) -> Estimate:
        def normals(key: Key, num_samples: int) -> Array:
            return spread * jax.random.normal(key, (num_samples,))

        return jg.estimators.jensen_gap(key, normals, jnp.exp, config.num_samples).gap

    def log_gap(key: Key, spread: Array) -> Estimate:
        def log_normals(key: Key, num_samples: int) -> Array:
            return jnp.exp(spread * jax.random.normal(key, (num_samples,)))

        return jg.estimators.jensen_gap(key, log_normals, jnp.log, config.num_samples).gap

    studies = {
        "exp": (jax.jit(exp_gap), lambda s: np.exp(s**2 / 2) - 1),
        "log": (jax.jit(log_gap), lambda s: -(s**2) / 2),
    }
    keys = jax.random.split(key, (2, len(SPREADS)))
    return {
        name: [Gap(gap(k, s), exact_fn(s)) for k, s in zip(row, SPREADS, strict=True)]
        for row, (name, (gap, exact_fn)) in zip(keys, studies.items(), strict=True)
    }


def log_weight(config: Config, z: Array) -> Array:
    """Log p(x, z) / q(z | x) less log p(x), of z standardized by the exact Gaussian posterior.

    In these coordinates every linear Gaussian model with a posterior of `num_dims` dimensions is
    the same: the posterior is N(0, 1), q is N(mean_shift, scale_ratio²).
    """
    u = (z - config.mean_shift) / config.scale_ratio
    return jnp.sum(u**2 - z**2, axis=-1) / 2 + config.num_dims * jnp.log(config.scale_ratio)


def gaps_of_bounds(key: Key, config: Config) -> list[Gap]:
    """The gap of log over averages of K weights, for K = 1, 2, 4, …; exact at K = 1."""

    def gap(key: Key, num_weights: int) -> Estimate:
        def mean_weights(key: Key, num_samples: int) -> Array:
            noise = jax.random.normal(key, (num_samples, num_weights, config.num_dims))
            z = config.mean_shift + config.scale_ratio * noise
            return jnp.exp(log_mean_exp(log_weight(config, z), axis=1))

        averages = max(2, config.num_weights // num_weights)
        chunk = max(2, 2**14 // num_weights)
        return jax.jit(
            lambda key: (
                jg.estimators.jensen_gap(key, mean_weights, jnp.log, averages, chunk_size=chunk).gap
            )
        )(key)

    ratio, shift = config.scale_ratio, config.mean_shift
    divergence = config.num_dims * (-np.log(ratio) + (ratio**2 + shift**2 - 1) / 2)
    keys = jax.random.split(key, config.max_log2_weights + 1)
    return [Gap(gap(k, 2**i), -float(divergence) if i == 0 else None) for i, k in enumerate(keys)]


def weight_variance(config: Config) -> float:
    """Var(w), with w = p(z | x) / q(z | x), in closed form."""
    # ∫ p² / q of N(0, 1) and N(m, s²) is s² / √(2 s² − 1) · exp(m² / (2 s² − 1)).
    s2, m = config.scale_ratio**2, config.mean_shift
    one = s2 / np.sqrt(2 * s2 - 1) * np.exp(m**2 / (2 * s2 - 1))
    return float(one**config.num_dims - 1)


def main(config: Config) -> dict[str, Metric]:
    """Run both studies."""
    run = harness.start(config, "jensen")
    function_key, bound_key = jax.random.split(jax.random.key(config.seed))
    functions = gaps_of_functions(function_key, config)
    bounds = gaps_of_bounds(bound_key, config)
    run.save_figure(draw(config, functions, bounds), "jensen.png")
    metrics = {}
    for name, gaps in functions.items():
        for spread, gap in zip(SPREADS, gaps, strict=True):
            metrics[f"gap/{name}/sigma{spread}"] = _metric(gap.found)
            metrics[f"gap/{name}/sigma{spread}/exact"] = Metric(float(gap.exact or 0.0))
    for i, gap in enumerate(bounds):
        metrics[f"bound_gap/k{2**i}/nats"] = _metric(gap.found)
    metrics["bound_gap/k1/exact_nats"] = Metric(float(bounds[0].exact or 0.0))
    return run.finish(metrics)


def _metric(estimate: Estimate) -> Metric:
    return Metric(float(estimate.value), float(estimate.standard_error), int(estimate.num_samples))


def draw(
    config: Config, functions: dict[str, list[Gap]], bounds: list[Gap]
) -> matplotlib.figure.Figure:
    """Gaps of a convex and a concave function, how far off they are, the bounds' gap closing."""
    figure, (left, middle, right) = plots.subplots(1, 3, figsize=(12, 3.8))
    curve = np.linspace(0, max(SPREADS), 100)
    curves = {"exp": np.exp(curve**2 / 2) - 1, "log": -(curve**2) / 2}
    labels = {"exp": "exp (convex), X normal", "log": "log (concave), X log-normal"}
    for place, (name, gaps) in enumerate(functions.items()):
        color = plots.COLORS[place]
        values = np.array([float(g.found.value) for g in gaps])
        errors = 1.96 * np.array([float(g.found.standard_error) for g in gaps])
        exact = np.array([float(g.exact or 0.0) for g in gaps])
        left.plot(SPREADS, values, "os"[place], color=color, label=labels[name])
        middle.errorbar(  # against the exact gaps: beside them the bars are too short to be seen
            np.array(SPREADS) + 0.012 * (2 * place - 1),
            100 * (values / exact - 1),
            100 * errors / np.abs(exact),
            fmt="os"[place],
            color=color,
            capsize=3,
        )
        left.plot(curve, curves[name], color=color, linewidth=1)
    left.axhline(0, color=plots.COLORS[6], linewidth=0.8)
    left.set(
        xlabel=r"standard deviation $\sigma$ of the normal",
        ylabel="E[f(X)] less f(E[X])",
        title="Jensen's gap (lines: exact)",
    )
    middle.axhline(0, color=plots.COLORS[6], linewidth=0.8)
    middle.set(
        xlabel=r"standard deviation $\sigma$ of the normal",
        ylabel="estimate less exact (% of exact)",
        title="How far off (bars: 95 %)",
    )
    left.legend(fontsize=8)
    num_weights = 2 ** np.arange(len(bounds))
    closing = [-float(g.found.value) for g in bounds]
    right.plot(num_weights, closing, "o", color=plots.COLORS[0], label="estimate")
    right.plot(
        num_weights,
        weight_variance(config) / 2 / num_weights,
        color=plots.COLORS[1],
        linestyle="--",
        label="Var(w) / 2K",
    )
    right.axhline(
        -float(bounds[0].exact or 0.0),
        color=plots.COLORS[2],
        linestyle=":",
        label="KL(q‖p), exact at K = 1",
    )
    right.set(
        xscale="log",
        yscale="log",
        xlabel="importance samples K",
        ylabel="log p(x) less the bound (nats)",
        title="The ELBO's gap (K = 1) closing",
    )
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
