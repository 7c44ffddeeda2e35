"""Sample densities known only up to a constant: the table, its certificate, and X pushed to X².

    python -m experiments.inverse_cdf

About half a minute on two CPU cores. Expected: for exp(−x⁴/4 + x²/2 + sin(3x)/2), whose CDF has no
closed form, errors against quadrature no larger than the table's own `x_error`, which counts that x
is rounded as its `u_error` does not; the histogram of the draws within chance of the density; and
the squares of the draws within chance of the density that the change of variables gives them.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._harness import Metric
from experiments._plots import COLORS, subplots
from jaxgen.core import Array, check_count

BLUE, ORANGE = COLORS[:2]
REACH = 6.0
"""The density is below 1e-120 of its peak beyond ±6."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/inverse_cdf")
    """Folder of the run."""
    num_samples: int = 10_000_000
    """Draws behind each histogram."""
    num_quantiles: int = 2001
    """Quantiles of each tail that are checked against quadrature."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        for name in ("num_samples", "num_quantiles"):
            check_count(name, getattr(self, name))

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=100_000, num_quantiles=51)


def log_density(_: None, x: Array) -> Array:
    """Return the log-density of a wavy double well, unnormalized (nats)."""
    return -(x**4) / 4 + x**2 / 2 + jnp.sin(3 * x) / 2


def mass_between(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Integrate the unnormalized density over each interval by Gauss-Legendre, in float64."""
    rule = jg.gauss_legendre(0.0, 1.0, 20, num_panels=20)
    width = (upper - lower)[..., None]
    x = lower[..., None] + width * rule.nodes
    return (np.exp(-(x**4) / 4 + x**2 / 2 + np.sin(3 * x) / 2) * width * rule.weights).sum(-1)


def check_quantiles(table: jg.samplers.InverseCDF, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return masses v and |F(x(v)) − v| in both tails, F from quadrature; `[2, N]` each."""
    v = np.exp(np.linspace(np.log(2.0**-32), np.log(0.5), config.num_quantiles))
    v = v.astype(np.float32)
    total = mass_between(np.array(-REACH), np.array(REACH))
    quantiles = jax.jit(jg.samplers.InverseCDF.tail_quantile)
    lower, upper = (np.asarray(quantiles(table, side, v), np.float64) for side in (False, True))
    reached = np.stack(
        [
            mass_between(np.full_like(lower, -REACH), lower),
            mass_between(upper, np.full_like(upper, REACH)),
        ]
    )
    return np.stack([v, v]), np.abs(reached / total - v)


def histogram(samples: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a density from counts, and its standard error, in each bin."""
    counts, _ = np.histogram(samples, edges)
    scale = samples.size * np.diff(edges)
    return counts / scale, np.sqrt(counts * (1 - counts / samples.size)) / scale


def expected_square(edges: np.ndarray) -> np.ndarray:
    """Return the mass of X² over the width of each bin: that of X on both sides of zero."""
    roots = np.sqrt(edges)
    both = mass_between(roots[:-1], roots[1:]) + mass_between(-roots[1:], -roots[:-1])
    return both / mass_between(np.array(-REACH), np.array(REACH)) / np.diff(edges)


def main(config: Config) -> dict[str, Metric]:
    """Build the table, check it against quadrature, draw, and push the draws through a square."""
    run = harness.start(config, "inverse_cdf")
    table = jg.samplers.inverse_cdf(log_density, None, support=(-float("inf"), float("inf")))
    draw = jax.jit(jg.samplers.InverseCDF.sample, static_argnums=2)
    samples = np.asarray(draw(table, jax.random.key(config.seed), (config.num_samples,)))
    v, errors = check_quantiles(table, config)

    total = mass_between(np.array(-REACH), np.array(REACH))
    edges, square_edges = np.linspace(-3, 3, 61), np.linspace(0, 7, 57)
    expected = mass_between(edges[:-1], edges[1:]) / total / np.diff(edges)
    panels = {
        "x": (edges, *histogram(samples, edges), expected),
        "x²": (square_edges, *histogram(samples**2, square_edges), expected_square(square_edges)),
    }
    run.save_figure(plot(table, v, errors, panels), "inverse_cdf.png")
    metrics = {
        "u_error_by_quadrature": Metric(float(errors.max()), num_examples=errors.size),
        "u_error_of_the_table": Metric(float(table.u_error)),
        "x_error_of_the_table": Metric(float(table.x_error)),
        "log_normalizer_error": Metric(abs(float(table.log_normalizer) - np.log(total))),
    }
    for name, (_, density, error, exact) in panels.items():
        full = error > 0
        chi2 = np.mean(((density - exact)[full] / error[full]) ** 2)
        spread = np.sqrt(2 / full.sum())
        metrics[f"chi2_per_bin/{name.replace('²', '_squared')}"] = Metric(
            float(chi2), float(spread), int(full.sum())
        )
    return run.finish(metrics)


def largest_in_bins(v: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest error in each of up to 30 bins of v, and where it is; v ascends."""
    parts = np.array_split(np.arange(len(v)), min(30, len(v)))
    worst = np.array([part[np.argmax(errors[part])] for part in parts])
    return v[worst], errors[worst]


def plot(
    table: jg.samplers.InverseCDF,
    v: np.ndarray,
    errors: np.ndarray,
    panels: dict[str, tuple],
) -> matplotlib.figure.Figure:
    """Plot the two histograms with their densities, the quantile function, and the errors."""
    figure, axes = subplots(2, 2, figsize=(9, 6.5))
    for axis, (name, (edges, density, error, exact)) in zip(axes[0], panels.items(), strict=True):
        middle = (edges[1:] + edges[:-1]) / 2
        axis.stairs(exact, edges, color=ORANGE, linewidth=1.5, label="exact, averaged over a bin")
        axis.errorbar(
            middle, density, 3 * error, fmt=".", color=BLUE, markersize=4, label="draws ± 3 SE"
        )
        axis.set(xlabel=name, ylabel=f"density of {name}", title=f"Draws of {name}")
        axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # the legend stands above the curve
        axis.legend(frameon=False, fontsize=8)
    u = np.linspace(0, 1, 1001)[1:-1]
    axes[1, 0].plot(u, jax.jit(jg.samplers.InverseCDF.quantile)(table, u), color=BLUE)
    axes[1, 0].set(xlabel="u", ylabel="quantile x(u)", xlim=(0, 1), title="Quantile function")
    for side, label, color in ((0, "lower tail", BLUE), (1, "upper tail", ORANGE)):
        axes[1, 1].loglog(
            *largest_in_bins(v[side], errors[side]), "vo"[side], ms=4, color=color, label=label
        )
    axes[1, 1].axhline(
        float(table.x_error), color=COLORS[6], ls="--", label="the table's own x_error"
    )
    axes[1, 1].set(
        xlabel="mass v beyond x",
        ylabel="largest $|F(x(v)) - v|$ in a bin",
        title="Errors by quadrature",
    )
    axes[1, 1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
