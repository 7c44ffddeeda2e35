"""Entropy as a functional, its derivative, the densities that maximize it, and a fitted posterior.

    python -m experiments.variational

About half a minute on two CPU cores, in double precision. Expected: the functional derivative of
the entropy found by autodiff agrees with −log p − 1 to rounding; from their constraints alone the
uniform, exponential, Gaussian and von Mises densities are found as exactly; a Gaussian fitted to a
posterior by descent on KL(q‖p) ends at zero where the posterior is Gaussian, and where it is a
mixture stops on the heavier mode.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import scipy.special
import scipy.stats
from jax.scipy import stats

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, Key, Rule, check_count

LINE = jg.gauss_legendre(-12.0, 12.0, 16, 24)
CONCENTRATION = 2.0
RESULTANT = float(scipy.special.i1(CONCENTRATION) / scipy.special.i0(CONCENTRATION))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Unused: nothing here is drawn."""
    run_dir: pathlib.Path = pathlib.Path("runs/variational")
    """Folder of the run."""
    num_steps: int = 3000
    """Steps of the descent to a posterior."""
    learning_rate: float = 0.02
    """Adam's first step size; it falls to nothing along a cosine."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_steps", self.num_steps)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_steps=20)


class Problem(NamedTuple):
    """A density to be found from its support and moments alone."""

    rule: Rule
    statistics_fn: Callable[[Array], Array]
    moments: list[float]
    exact_fn: Callable[[np.ndarray], np.ndarray]


PROBLEMS = {
    "uniform: support from -1 to 3": Problem(
        jg.gauss_legendre(-1.0, 3.0, 20),
        lambda x: jnp.zeros(0),
        [],
        lambda x: np.full_like(x, 0.25),
    ),
    "exponential: mean 1.5": Problem(
        jg.gauss_legendre(0.0, 60.0, 12, 24),
        lambda x: jnp.stack([x]),
        [1.5],
        lambda x: np.exp(-x / 1.5) / 1.5,
    ),
    "Gaussian: mean 1, variance 0.81": Problem(
        jg.gauss_legendre(-9.0, 11.0, 12, 20),
        lambda x: jnp.stack([x, x**2]),
        [1.0, 1.81],
        lambda x: np.exp(-((x - 1) ** 2) / 1.62) / np.sqrt(1.62 * np.pi),
    ),
    "von Mises: mean direction and length": Problem(
        jg.gauss_legendre(-np.pi, np.pi, 12, 10),
        lambda x: jnp.stack([jnp.cos(x), jnp.sin(x)]),
        [RESULTANT * np.cos(0.5), RESULTANT * np.sin(0.5)],
        lambda x: (
            np.exp(CONCENTRATION * np.cos(x - 0.5)) / (2 * np.pi * scipy.special.i0(CONCENTRATION))
        ),
    ),
}


def mixture(x: Array) -> Array:
    """Log-density of two Gaussians, at −1.5 and 1.5."""
    parts = jnp.stack([stats.norm.logpdf(x, -1.5, 0.5), stats.norm.logpdf(x, 1.5, 0.7)])
    return jax.nn.logsumexp(parts, axis=0, b=jnp.array([0.3, 0.7]))


def conjugate(x: Array) -> Array:
    """Log-posterior of z ~ N(0, 1) after seeing 1.2 = z + N(0, 0.5²): N(0.96, 0.2)."""
    return stats.norm.logpdf(x, 0.96, jnp.sqrt(0.2))


POSTERIORS = {"Gaussian posterior": conjugate, "mixture posterior": mixture}


def entropy_derivative() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, the functional derivative of the entropy of a mixture there, and the closed form."""
    x = np.linspace(-4, 4, 161)
    derivative = jg.estimators.functional_derivative(
        lambda x, p, dp: -p * jnp.log(p), lambda x: jnp.exp(mixture(x))
    )
    both = jax.jit(jax.vmap(lambda x: (derivative(x), -mixture(x) - 1)))
    return x, *jax.device_get(both(x))


def maximize_entropy(problem: Problem) -> Any:
    """Find the density of most entropy under a problem's moments."""
    return jax.jit(
        lambda moments: jg.estimators.minimize_functional(
            lambda x, p: p * jnp.log(p), problem.statistics_fn, moments, problem.rule
        )
    )(np.asarray(problem.moments))


def fit_posterior(
    log_p: Callable[[Array], Array], config: Config
) -> tuple[Any, list[tuple[int, float]]]:
    """Fit a Gaussian q by descent on KL(q‖p); its parameters, and steps with the KL near them."""

    def divergence(key: Key | None, params: dict[str, Array], rule: Rule, step: Any) -> Array:
        def log_q(x: Array) -> Array:
            return stats.norm.logpdf(x, params["mean"], jnp.exp(params["log_scale"]))

        average = jg.estimators.by_quadrature(rule)
        return jg.estimators.kl_divergence(average, log_q, log_p).value

    start = {"mean": jnp.asarray(-0.5), "log_scale": jnp.asarray(0.7)}
    whole = jax.jit(lambda params: divergence(None, params, LINE, 0))
    values: list[tuple[int, float]] = [(0, float(whole(start)))]
    fitted = harness.fit(
        jax.random.key(0),  # only orders the nodes, which a step sees all of
        start,
        divergence,
        LINE,
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps)),
        num_steps=config.num_steps,
        batch_size=len(LINE.nodes),
        report_fn=lambda step, numbers: values.append((step, numbers["loss"])),
    )
    return fitted.params, [*values, (config.num_steps, float(whole(fitted.params)))]


def main(config: Config) -> dict[str, Metric]:
    """Run the three studies in double precision."""
    with jax.enable_x64(True):
        return _main(config)


def _main(config: Config) -> dict[str, Metric]:
    run = harness.start(config, "variational")
    derivative = entropy_derivative()
    found = {name: jax.device_get(maximize_entropy(problem)) for name, problem in PROBLEMS.items()}
    fits = {name: fit_posterior(log_p, config) for name, log_p in POSTERIORS.items()}
    run.save_figure(
        draw(derivative, {name: best.density for name, best in found.items()}, fits),
        "variational.png",
    )
    _, by_autodiff, closed = derivative
    metrics = {
        "entropy_derivative/largest_error": Metric(float(np.abs(by_autodiff - closed).max()))
    }
    for name, problem in PROBLEMS.items():
        short = name.partition(":")[0].replace(" ", "_")
        error = np.abs(found[name].density - problem.exact_fn(problem.rule.nodes))
        metrics[f"{short}/largest_density_error"] = Metric(float(error.max()))
        metrics[f"{short}/entropy_nats"] = Metric(-float(found[name].value))
    for name, (_, values) in fits.items():
        metrics[f"{name.replace(' ', '_')}/kl_nats"] = Metric(values[-1][1])
    return run.finish(metrics)


def draw(
    derivative: tuple[np.ndarray, np.ndarray, np.ndarray],
    found: dict[str, np.ndarray],
    fits: dict[str, tuple[Any, list[tuple[int, float]]]],
) -> matplotlib.figure.Figure:
    """Two rows: the derivative and the fits; the four densities found."""
    figure, axes = plots.subplots(2, 4, figsize=(13, 6))
    x, by_autodiff, closed = derivative
    first = axes[0, 0]
    first.plot(x, closed, color=plots.COLORS[1], label="closed form")
    first.plot(x[::8], by_autodiff[::8], "o", ms=4, color=plots.COLORS[0], label="autodiff")
    first.set(xlabel="x", ylabel="nats", title="Functional derivative\nof a mixture's entropy")
    first.legend(fontsize=8, loc="upper center")
    for axis, (name, (params, _)) in zip(axes[0, 1:3], fits.items(), strict=True):
        z = np.linspace(-4, 4, 400)
        p = np.exp(jax.jit(jax.vmap(POSTERIORS[name]))(z))
        axis.plot(z, p, color=plots.COLORS[1], label="exact")
        q = scipy.stats.norm.pdf(z, params["mean"], np.exp(params["log_scale"]))
        axis.plot(z, q, "--", color=plots.COLORS[0], label="fitted Gaussian")
        axis.set(xlabel="z", ylabel="density", title=name)
        axis.legend(fontsize=8)
    last = axes[0, 3]
    for place, (name, (_, values)) in enumerate(fits.items()):
        steps, kl = zip(*values, strict=True)
        shown = np.where(np.array(kl) > 1e-15, kl, np.nan)  # what is left is rounding
        last.plot(steps, shown, color=plots.COLORS[place], label=name)
    last.set(
        yscale="log",
        xlabel="step",
        ylabel="KL(q‖p) (nats)",
        title="Closing on the posterior,\nto rounding",
    )
    last.legend(fontsize=8, loc="center right")
    for axis, (name, problem) in zip(axes[1], PROBLEMS.items(), strict=True):
        nodes = problem.rule.nodes
        exact = problem.exact_fn(nodes)
        shown = exact > 1e-4
        axis.plot(nodes[shown], exact[shown], color=plots.COLORS[1], label="closed form")
        axis.plot(
            nodes[shown][::6],
            found[name][shown][::6],
            "o",
            ms=4,
            color=plots.COLORS[0],
            label="found",
        )
        axis.set(xlabel="x", ylabel="density", title=name.replace(": ", "\n"), ylim=(0, None))
    axes[1, 0].legend(fontsize=8, loc="lower left")  # one for the row
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
