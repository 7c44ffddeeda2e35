"""Rejection sampling drawn: the envelope, what is kept, and two ways to do it wrong.

    python -m experiments.rejection

Less than a minute. A wavy density known only up to its constant is sampled under a normal envelope.
Expected: the share accepted is what the areas say; the CDF of what is kept agrees with quadrature
within chance; keeping whatever has a positive ratio gives back the proposal, and an envelope half
as high cuts the peaks off, which `bound_exceeded` reports. A comparison u ≤ 0.9 accepts nine times
in ten, counted.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from jaxgen.core import Array, Key, check_count

ENDS = (-4.5, 4.5)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of all keys."""
    run_dir: pathlib.Path = pathlib.Path("runs/rejection")
    """Folder of the run."""
    num_samples: int = 200_000
    """Proposals made, and exact samples drawn."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        check_count("num_samples", self.num_samples)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=2000)


class Case(NamedTuple):
    """One way to choose among the proposals.

    Attributes:
      title: what it does.
      samples: what it keeps, `[N]`.
      density: what it should give at x, by the formula, up to a constant.
      bound_exceeded: whether the sampler reports its envelope as too low.
    """

    title: str
    samples: np.ndarray
    density: np.ndarray
    bound_exceeded: bool


def main(config: Config) -> dict[str, harness.Metric]:
    """Draw, count, compare with quadrature, and plot."""
    run = harness.start(config, "rejection")
    bound, drawn, u, coin = jax.device_get(draw(jax.random.key(config.seed), config.num_samples))
    cases = choose(u, bound.log_bound)
    kept = np.asarray(test(bound.log_bound, u).accepted)
    metrics = {
        "log_bound/nats": harness.Metric(float(bound.log_bound)),
        "log_bound/exceeding_mass": harness.Metric(float(bound.exceeding_mass)),
        "accepted/share": harness.mean_metric(kept.astype(np.float64), "proposals"),
        "accepted/share_by_quadrature": harness.Metric(area() / math.exp(bound.log_bound)),
        "coin_0.9/share": harness.mean_metric(coin.astype(np.float64), "uniforms"),
        "sampled/cdf_distance": cdf_distance(drawn.samples),
        "sampled/bound_exceeded": harness.Metric(float(drawn.bound_exceeded)),
    }
    for name, case in cases.items():
        metrics[f"{name}/cdf_distance"] = cdf_distance(case.samples)
        metrics[f"{name}/bound_exceeded"] = harness.Metric(float(case.bound_exceeded))
    run.save_figure(envelope_figure(u[:3000], bound.log_bound), "envelope.png")
    run.save_figure(histogram_figure(list(cases.values())), "histograms.png")
    return run.finish(metrics)


@functools.partial(jax.jit, static_argnums=1)
def draw(key: Key, num_samples: int) -> tuple[Any, Any, Array, Array]:
    """Return a bound, exact samples under it, proposals' uniforms, and tosses of a coin."""
    bound_key, proposal_key, sample_key, coin_key = jax.random.split(key, 4)
    bound = jg.samplers.rejection_log_bound(bound_key, wavy_log_prob, None, NORMAL)
    drawn = jg.samplers.rejection(
        sample_key, wavy_log_prob, None, NORMAL, bound.log_bound, (num_samples,)
    )
    u = jg.samplers.iid_uniforms(proposal_key, num_samples, 2)
    return bound, drawn, u, jg.samplers.iid_uniforms(coin_key, num_samples)[:, 0] <= 0.9


def wavy_log_prob(_: None, x: Array) -> Array:
    """Return the log-density of many humps, up to its constant."""
    waves = jnp.sin(6 * x) ** 2 + 3 * jnp.cos(x) ** 2 * jnp.sin(4 * x) ** 2 + 1
    return -0.5 * x**2 + jnp.log(waves)


def normal_quantile(_: None, u: Array) -> Array:
    """Return the quantile of the proposal."""
    return jax.scipy.special.ndtri(u[0])


def normal_log_prob(_: None, x: Any) -> Any:
    """Return the proposal's log-density."""
    return -0.5 * x**2 - 0.5 * math.log(2 * math.pi)


NORMAL = jg.samplers.Proposal(None, normal_quantile, normal_log_prob)
test = jax.jit(functools.partial(jg.samplers.rejection_from_uniforms, wavy_log_prob, None, NORMAL))


def density_at(x: np.ndarray) -> np.ndarray:
    """Return the unnormalized density at points."""
    return np.exp(jax.jit(wavy_log_prob)(None, x.astype(np.float32)))


def choose(u: np.ndarray, log_bound: np.ndarray) -> dict[str, Case]:
    """Keep some of the same proposals, by three rules."""
    low = log_bound - math.log(2.0)
    right, too_low = jax.device_get((test(log_bound, u), test(low, u)))
    x, grid = right.samples, np.linspace(*ENDS, 1000)
    target, envelope = density_at(grid), np.exp(normal_log_prob(None, grid))
    return {
        "right": Case("u ≤ f / (M g)", x[right.accepted], target, bool(right.bound_exceeded)),
        "all_positive": Case("kept whenever f / g > 0", x, envelope, False),
        "envelope_too_low": Case(
            "M half as large as needed",
            x[too_low.accepted],
            np.minimum(target, np.exp(low) * envelope),
            bool(too_low.bound_exceeded),
        ),
    }


def area() -> float:
    """Return the density's integral, by quadrature."""
    rule = jg.gauss_legendre(-9.0, 9.0, 20, 100)
    return float(np.sum(rule.weights * density_at(rule.nodes)))


def cdf_distance(samples: np.ndarray) -> harness.Metric:
    """Return the largest distance between the samples' CDF and the target's, by quadrature."""
    edges = np.linspace(-9.0, 9.0, 4001)
    middles = (edges[1:] + edges[:-1]) / 2
    cumulative = np.cumsum(density_at(middles), dtype=np.float64)
    exact = np.concatenate([[0.0], cumulative]) / cumulative[-1]
    empirical = np.searchsorted(np.sort(samples), edges) / len(samples)
    return harness.Metric(float(np.max(np.abs(empirical - exact))), None, len(samples), "kept")


def envelope_figure(u: np.ndarray, log_bound: np.ndarray) -> matplotlib.figure.Figure:
    """Plot proposals as points under the envelope, those under the density kept."""
    x, accepted, share, _ = jax.device_get(test(log_bound, u))
    height = u[:, 1] * np.exp(log_bound + normal_log_prob(None, x))
    grid = np.linspace(*ENDS, 1000)
    figure, axis = plots.subplots(figsize=(6.4, 3.6))
    for mask, color, label in ((accepted, 0, "kept"), (~accepted, 1, "rejected")):
        axis.scatter(
            x[mask], height[mask], s=3, color=plots.COLORS[color], label=label, linewidths=0
        )
    envelope = np.exp(log_bound + normal_log_prob(None, grid))
    axis.plot(grid, envelope, color=plots.COLORS[6], linestyle="--", label="envelope M g(x)")
    axis.plot(grid, density_at(grid), color=plots.COLORS[6], label="density f(x)")
    axis.set(xlabel="x", ylabel="height (unnormalized density)", ylim=(0, None))
    axis.legend(fontsize=8, markerscale=3)
    axis.set_title(f"{len(x)} proposals, {float(share):.2f} of them kept", fontsize=10)
    return figure


def histogram_figure(cases: list[Case]) -> matplotlib.figure.Figure:
    """Plot histograms of what each rule keeps, with errors, beside the target."""
    bins = np.linspace(*ENDS, 91)
    grid = np.linspace(*ENDS, 1000)
    target = density_at(grid) / area()
    figure, axes = plots.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
    for case, axis in zip(cases, axes, strict=True):
        counts, _ = np.histogram(case.samples, bins)
        scale = 1 / (len(case.samples) * np.diff(bins))
        middles = (bins[1:] + bins[:-1]) / 2
        axis.errorbar(
            middles,
            counts * scale,
            np.sqrt(counts) * scale,
            fmt=".",
            markersize=3,
            color=plots.COLORS[0],
            label="kept, ± standard error",
        )
        formula = case.density / np.trapezoid(case.density, grid)
        axis.plot(grid, target, color=plots.COLORS[6], linewidth=1, label="target")
        axis.plot(grid, formula, "--", color=plots.COLORS[1], linewidth=1, label="the rule's own")
        axis.set_title(f"{case.title}\nbound_exceeded: {case.bound_exceeded}", fontsize=9)
        axis.set(xlabel="x", ylim=(0, 0.75))
    axes[0].set_ylabel("density")
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center"
    )
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
