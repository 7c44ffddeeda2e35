"""Bounds on log p(x) against its exact value, and how their gradients fare as samples grow.

    python -m experiments.bounds

About 6 minutes on two CPU cores. The model is linear and Gaussian, so log p(x) and the true
posterior are known; q is a posterior that is too wide and pulled towards zero. Left: the
importance-weighted bound rises to log p(x) like 1/K, its gap is Jensen's. Right: the
signal-to-noise of the posterior's gradient falls like 1/√K by plain reparameterization and grows
like √K doubly reparameterized (Rainforth et al. 2018; Tucker et al. 2019). Expected: fitted slopes
near −1, −0.5 and +0.5. Their errors are over repetitions of the whole study.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._harness import Metric
from experiments._plots import COLORS, subplots
from jaxgen.core import check_count

MODEL = jg.models.LinearGaussian()
GRADIENTS: tuple[jg.objectives.Gradient, ...] = (
    "reparameterized",
    "doubly_reparameterized",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the study."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/bounds")
    """Folder of the run."""
    num_draws: int = 20_000
    """Independent draws of each bound and gradient, in each repetition."""
    num_repeats: int = 6
    """Repetitions of the study, for the errors of the slopes."""
    num_doublings: int = 6
    """How often the samples of a bound are doubled, from 1 on: six times ends at 64."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_draws", self.num_draws, minimum=2)
        check_count("num_repeats", self.num_repeats, minimum=2)
        check_count("num_doublings", self.num_doublings, minimum=3)  # a slope needs two from K = 4

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_draws=200, num_doublings=3, num_repeats=2)


def main(config: Config) -> dict[str, Metric]:
    """Draw bounds and gradients for each K; fit the slopes."""
    run = harness.start(config, "bounds")
    params, x = jax.jit(build)()
    exact = float(jax.jit(jg.log_prob)(MODEL, params, x)[0])
    counts = [2**i for i in range(config.num_doublings + 1)]
    keys = jax.random.split(jax.random.key(config.seed), config.num_repeats)
    studies = [study(key, params, x, counts, config.num_draws) for key in keys]
    bounds = np.stack([study.bounds for study in studies])
    gaps = np.maximum(exact - bounds.mean(2), 1e-6)
    slopes = {"gap/slope": slopes_metric(counts, gaps)}
    ratios = {}
    for gradient in GRADIENTS:
        ratios[gradient] = np.stack([study.ratios[gradient] for study in studies])
        slopes[f"{gradient}/signal_to_noise_slope"] = slopes_metric(counts, ratios[gradient])
    metrics = {"exact/nats": Metric(exact)}
    pooled = bounds.swapaxes(0, 1).reshape(len(counts), -1)
    for k, draws in zip(counts, pooled, strict=True):
        metrics[f"bound/k{k}/nats"] = harness.mean_metric(draws, "one point")
    run.save_figure(draw(exact, counts, pooled, ratios, slopes), "bounds.png")
    return run.finish(metrics | slopes)


class Study(NamedTuple):
    """What one repetition finds, for each K.

    Attributes:
      bounds: draws of the bound, `[K, num_draws]`.
      ratios: signal-to-noise ratios of each gradient, `[K]`.
    """

    bounds: np.ndarray
    ratios: dict[jg.objectives.Gradient, np.ndarray]


def study(
    key: jax.Array,
    params: jg.models.LinearGaussianParams,
    x: jax.Array,
    counts: list[int],
    num_draws: int,
) -> Study:
    """Draw bounds and gradients for each K."""
    keys = iter(jax.random.split(key, 3 * len(counts)))
    bounds = [draw_bounds(next(keys), params, x, k, num_draws) for k in counts]
    ratios = {
        gradient: [
            float(signal_to_noise(next(keys), params, x, k, gradient, num_draws)) for k in counts
        ]
        for gradient in GRADIENTS
    }
    return Study(np.stack(bounds), {name: np.array(values) for name, values in ratios.items()})


def build() -> tuple[jg.models.LinearGaussianParams, jax.Array]:
    """Build the model with a wrong posterior, and one data point `[1, 3]`."""
    loadings = jnp.array([[1.0, 0.3], [-0.5, 0.8], [0.2, -0.4]])
    blank = jg.models.LinearGaussianParams(loadings, jnp.log(0.7), jnp.zeros((2, 3)), jnp.eye(2))
    exact = MODEL.exact_posterior(blank)
    wrong = exact._replace(
        posterior_weights=0.5 * exact.posterior_weights,
        posterior_factor=1.4 * exact.posterior_factor,
    )
    return wrong, jnp.array([[1.1, -0.6, 0.4]])


@functools.partial(jax.jit, static_argnames=("num_samples", "num_draws"))
def draw_bounds(
    key: jax.Array,
    params: jg.models.LinearGaussianParams,
    x: jax.Array,
    num_samples: int,
    num_draws: int,
) -> jax.Array:
    """Draw the K-sample bound independently, `[num_draws]`."""
    num = num_samples * num_draws
    log_w = jg.objectives.log_weights(key, MODEL, params, x, num_samples=num)
    return jg.objectives.iwae_bound(log_w.reshape(num_samples, num_draws))


@functools.partial(jax.jit, static_argnames=("num_samples", "gradient", "num_draws"))
def signal_to_noise(
    key: jax.Array,
    params: jg.models.LinearGaussianParams,
    x: jax.Array,
    num_samples: int,
    gradient: jg.objectives.Gradient,
    num_draws: int,
) -> jax.Array:
    """Return |mean| over standard deviation of a gradient, a mean over the posterior's weights."""

    def draw(key: jax.Array) -> jax.Array:
        def value(p: jg.models.LinearGaussianParams) -> jax.Array:
            return jg.iwae(key, MODEL, p, x, num_samples=num_samples, gradient=gradient)[0]

        return jax.grad(value)(params).posterior_weights

    draws = jax.lax.map(draw, jax.random.split(key, num_draws), batch_size=1000)
    return jnp.mean(jnp.abs(jnp.mean(draws, 0)) / jnp.std(draws, 0))


def slopes_metric(counts: list[int], values: np.ndarray) -> Metric:
    """Fit a slope to each repetition of `[R, K]`; return their mean and its error."""
    slopes = np.array([slope(counts, row) for row in values])
    error = slopes.std(ddof=1) / len(slopes) ** 0.5
    return Metric(float(slopes.mean()), float(error), len(slopes), "repetitions")


def slope(counts: list[int], values: object) -> float:
    """Fit the slope of log(values) in log K from K = 4 on, where the expansions in 1/K hold."""
    return float(np.polyfit(np.log(counts[2:]), np.log(np.asarray(values)[2:]), 1)[0])


def draw(
    exact: float,
    counts: list[int],
    bounds: np.ndarray,
    ratios: Mapping[jg.objectives.Gradient, np.ndarray],
    slopes: Mapping[str, Metric],
) -> matplotlib.figure.Figure:
    """Draw the two panels."""
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.4))
    means = [np.mean(b) for b in bounds]
    errors = [4 * np.std(b) / len(b) ** 0.5 for b in bounds]
    left.axhline(exact, color=COLORS[6], linewidth=1, label="log p(x), exact")
    label = "bound, ±4 standard errors"
    left.errorbar(counts, means, errors, color=COLORS[0], marker="o", capsize=3, label=label)
    left.set(xscale="log", xlabel="samples K", ylabel="nats", title="The bound closes on log p(x)")
    for (gradient, values), color, marker in zip(ratios.items(), COLORS[1:], "so", strict=False):
        fitted = slopes[f"{gradient}/signal_to_noise_slope"]
        label = f"{gradient.replace('_', ' ')},\nslope from K = 4: {fitted.value:+.2f}"
        right.loglog(counts, values.mean(0), color=color, marker=marker, label=label)
    title = "Gradient of the posterior's mean"
    right.set(xlabel="samples K", ylabel="signal-to-noise ratio", title=title)
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
