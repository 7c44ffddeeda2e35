"""Maximum likelihood by gradient against closed form or EM, and its errors against Cramér-Rao.

    python -m experiments.maximum_likelihood

About 3 minutes on two CPU cores, in double precision. Expected: for the Gaussian, Bernoulli,
categorical and Poisson families the gradient ends at the closed form in every parameter; for
a mixture of two Gaussians it ends where EM ends. Over many data sets of 1,000 samples the variance
of the estimate is the Cramér-Rao bound's; a mean parameter of an exponential family has it at every
n, the mixture only as n grows.
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
from jax.scipy import stats

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import (
    Array,
    Key,
    LogProbFn,
    Params,
    Rule,
    bernoulli_log_prob,
    categorical_log_prob,
    check_count,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all data."""
    run_dir: pathlib.Path = pathlib.Path("runs/maximum_likelihood")
    """Folder of the run."""
    num_samples: int = 2000
    """Samples in the data set that gradient and closed form are both fitted to."""
    num_steps: int = 4000
    """Steps of Adam."""
    num_em_steps: int = 500
    """Steps of EM for one data set."""
    num_data_sets: int = 20_000
    """Data sets behind each sampling distribution."""
    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Samples in a data set, ascending; a sampling distribution each."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("num_samples", "num_steps", "num_em_steps"):
            check_count(name, getattr(self, name))
        check_count("num_data_sets", self.num_data_sets, minimum=2)
        for size in self.sizes:
            check_count("sizes", size, minimum=2)
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must be one or more, ascending, got {self.sizes}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_samples=100, num_steps=10, num_em_steps=5, num_data_sets=10, sizes=(10, 30))


class Family(NamedTuple):
    """A family of distributions, with unconstrained parameters for the gradient.

    Attributes:
      truth: the parameters that data are drawn from.
      start: where the gradient starts.
      log_prob_fn: `(params, x) -> nats` of one sample.
      draw_fn: `(key, num_samples) -> x` from the truth.
      fit_fn: `(x, num_em_steps) -> params`, the closed form, or EM.
      describe_fn: `(params) -> {name: number}`: what a person calls the parameters.
      rule: where an expectation over x is summed or integrated.
      shown: the parameter whose sampling distribution is drawn.
    """

    truth: Params
    start: Params
    log_prob_fn: LogProbFn
    draw_fn: Callable[[Key, int], Array]
    fit_fn: Callable[[Array, int], Params]
    describe_fn: Callable[[Params], dict[str, Array]]
    rule: Rule
    shown: str


def values(num: int) -> Rule:
    """A rule that sums over the integers 0 to num − 1."""
    return Rule(np.arange(num), np.ones(num))


def gaussian() -> Family:
    """N(1, 1.5²)."""
    return Family(
        truth=(jnp.asarray(1.0), jnp.log(1.5)),
        start=(jnp.asarray(0.0), jnp.asarray(0.0)),
        log_prob_fn=lambda p, x: stats.norm.logpdf(x, p[0], jnp.exp(p[1])),
        draw_fn=lambda key, n: 1.0 + 1.5 * jax.random.normal(key, (n,)),
        fit_fn=lambda x, _: (jnp.mean(x), jnp.log(jnp.std(x))),
        describe_fn=lambda p: {"mean": p[0], "scale": jnp.exp(p[1])},
        rule=jg.gauss_legendre(-17.0, 19.0, 16, 12),
        shown="mean",
    )


def bernoulli() -> Family:
    """A coin that shows heads three times in ten."""
    return Family(
        truth=jax.scipy.special.logit(0.3),
        start=jnp.asarray(0.0),
        log_prob_fn=bernoulli_log_prob,
        draw_fn=lambda key, n: jax.random.bernoulli(key, 0.3, (n,)).astype(int),
        fit_fn=lambda x, _: jax.scipy.special.logit(jnp.mean(x)),
        describe_fn=lambda p: {"probability": jax.nn.sigmoid(p)},
        rule=values(2),
        shown="probability",
    )


def categorical() -> Family:
    """Three symbols; the first one's logit is held at zero, so that two numbers say all."""
    probabilities = jnp.array([0.5, 0.3, 0.2])

    def logits(params: Params) -> Array:
        return jnp.concatenate([jnp.zeros(1), params])

    def fit(x: Array, _: int) -> Params:
        counts = jnp.maximum(jnp.bincount(x, length=3), 1e-12)  # a small data set may lack one
        return jnp.log(counts[1:]) - jnp.log(counts[0])

    return Family(
        truth=jnp.log(probabilities[1:] / probabilities[0]),
        start=jnp.zeros(2),
        log_prob_fn=lambda p, x: categorical_log_prob(logits(p), jnp.asarray(x, int)),
        draw_fn=lambda key, n: jax.random.choice(key, 3, (n,), p=probabilities),
        fit_fn=fit,
        describe_fn=lambda p: {f"p{i}": v for i, v in enumerate(jax.nn.softmax(logits(p)))},
        rule=values(3),
        shown="p2",
    )


def counts() -> Family:
    """Poisson counts, four on average."""
    return Family(
        truth=jnp.log(4.0),
        start=jnp.asarray(0.0),
        log_prob_fn=lambda p, x: stats.poisson.logpmf(x, jnp.exp(p)),
        draw_fn=lambda key, n: jg.samplers.poisson(key, 4.0, (n,)),
        fit_fn=lambda x, _: jnp.log(jnp.mean(x.astype(float))),
        describe_fn=lambda p: {"rate": jnp.exp(p)},
        rule=values(60),
        shown="rate",
    )


def mixture() -> Family:
    """0.4 N(−1.5, 0.6²) + 0.6 N(1.5, 1): EM takes the place of the closed form."""

    def unpack(params: Params) -> jg.models.GaussianMixture:
        logit, means, log_scales = params
        logits = jnp.stack([logit, jnp.zeros_like(logit)])
        return jg.models.GaussianMixture(logits, means[:, None], jnp.exp(log_scales)[:, None, None])

    def fit(x: Array, num_steps: int) -> Params:
        def step(_: int, p: jg.models.GaussianMixture) -> jg.models.GaussianMixture:
            return p.em_step(x[:, None], min_scale=1e-3)

        # From the truth: other optima, which exchange the components or die on a point, are out.
        p = jax.lax.fori_loop(0, num_steps, step, unpack(truth))
        return p.logits[0] - p.logits[1], p.means[:, 0], jnp.log(p.factors[:, 0, 0])

    def describe(params: Params) -> dict[str, Array]:
        logit, means, log_scales = params
        named = {"weight": jax.nn.sigmoid(logit), "mean0": means[0], "mean1": means[1]}
        return named | {f"scale{i}": jnp.exp(s) for i, s in enumerate(log_scales)}

    truth = (jnp.log(0.4 / 0.6), jnp.array([-1.5, 1.5]), jnp.log(jnp.array([0.6, 1.0])))
    return Family(
        truth=truth,
        start=(jnp.asarray(0.0), jnp.array([-0.5, 0.5]), jnp.zeros(2)),
        log_prob_fn=lambda p, x: unpack(p).log_prob(x[None]),
        draw_fn=lambda key, n: unpack(truth).sample(key, n)[:, 0],
        fit_fn=fit,
        describe_fn=describe,
        rule=jg.gauss_legendre(-9.0, 11.0, 16, 20),
        shown="mean0",
    )


FAMILIES = {
    "Gaussian": gaussian,
    "Bernoulli": bernoulli,
    "categorical": categorical,
    "Poisson": counts,
    "mixture": mixture,
}


def fit_by_gradient(family: Family, x: Array, num_steps: int) -> Params:
    """Climb the mean log-likelihood of the whole data set by Adam."""

    def loss(key: Key, params: Params, x: Array, step: Array) -> Array:
        return -mean_log_prob(family, params, x)

    fitted = harness.fit(
        jax.random.key(0),  # only orders the data, which a step sees whole
        family.start,
        loss,
        x,
        optax.adam(optax.cosine_decay_schedule(0.05, num_steps)),
        num_steps=num_steps,
        batch_size=len(x),
    )
    return fitted.params


def mean_log_prob(family: Family, params: Params, x: Array) -> Array:
    """Nats a sample."""
    return jnp.mean(jax.vmap(family.log_prob_fn, (None, 0))(params, x))


def compare(key: Key, name: str, family: Family, config: Config) -> dict[str, Metric]:
    """Both fits of one data set: how far apart they are."""
    x = jax.jit(family.draw_fn, static_argnums=1)(key, config.num_samples)

    @jax.jit
    def judge(by_gradient: Params, x: Array) -> tuple[Array, Array]:
        exact = family.fit_fn(x, config.num_em_steps)
        gap = mean_log_prob(family, by_gradient, x) - mean_log_prob(family, exact, x)
        found, expected = family.describe_fn(by_gradient), family.describe_fn(exact)
        return gap, jnp.max(jnp.stack([abs(found[k] - expected[k]) for k in found]))

    gap, distance = judge(fit_by_gradient(family, x, config.num_steps), x)
    return {
        f"{name}/largest_difference": Metric(float(distance), None, config.num_samples),
        f"{name}/gradient_less_exact_nats": Metric(float(gap), None, config.num_samples),
    }


class SamplingDistribution(NamedTuple):
    """The estimates of one parameter over many data sets of each size.

    Attributes:
      ratios: variance over the Cramér-Rao bound, one for each size.
      ratio_errors: their standard errors.
      scores: at the largest size, estimate less truth in the bound's standard deviations.
    """

    ratios: np.ndarray
    ratio_errors: np.ndarray
    scores: np.ndarray


def sampling_distribution(key: Key, family: Family, config: Config) -> SamplingDistribution:
    """Fit many data sets in closed form (or by EM) and hold the spread against the bound."""
    average = jg.estimators.by_quadrature(family.rule)

    def shown(params: Params) -> Array:
        return family.describe_fn(params)[family.shown]

    def errors_of(key: Key, truth: Params, num_samples: int) -> Array:
        def one(key: Key) -> Array:
            return shown(family.fit_fn(family.draw_fn(key, num_samples), 100)) - shown(truth)

        keys = jax.random.split(key, config.num_data_sets)
        return jax.lax.map(one, keys, batch_size=100)

    @jax.jit
    def study(key: Key, truth: Params) -> tuple[list[Array], list[Array]]:
        information = jg.estimators.fisher_information(average, family.log_prob_fn, truth)
        jacobian = jax.flatten_util.ravel_pytree(jax.grad(shown)(truth))[0][None]
        found = [
            errors_of(jax.random.fold_in(key, i), truth, n) for i, n in enumerate(config.sizes)
        ]
        bound = jg.estimators.cramer_rao_bound
        return found, [bound(information, jacobian, num_samples=n)[0, 0] for n in config.sizes]

    ratios, errors = [], []
    for found, bound in zip(*jax.device_get(study(key, family.truth)), strict=True):
        squares = (found - found.mean()) ** 2 / bound
        ratios.append(squares.sum() / (len(found) - 1))
        errors.append(squares.std() / len(found) ** 0.5)
    return SamplingDistribution(np.array(ratios), np.array(errors), found / bound**0.5)


def main(config: Config) -> dict[str, Metric]:
    """Run both studies in double precision."""
    with jax.enable_x64(True):
        return _main(config)


def _main(config: Config) -> dict[str, Metric]:
    run = harness.start(config, "maximum_likelihood")
    metrics: dict[str, Metric] = {}
    spreads = {}
    with harness.progress_bar("families", len(FAMILIES)) as update:
        for index, (name, build) in enumerate(FAMILIES.items()):
            family = build()
            keys = jax.random.split(jax.random.key(config.seed + index))
            metrics |= compare(keys[0], name, family, config)
            spreads[name] = sampling_distribution(keys[1], family, config)
            for n, ratio, error in zip(config.sizes, *spreads[name][:2], strict=True):
                label = f"{name}/{family.shown}/n{n}/variance_over_bound"
                metrics[label] = Metric(float(ratio), float(error), config.num_data_sets)
            update(index + 1, name)
    run.save_figure(draw(metrics, spreads, config), "maximum_likelihood.png")
    return run.finish(metrics)


def draw(
    metrics: dict[str, Metric], spreads: dict[str, SamplingDistribution], config: Config
) -> matplotlib.figure.Figure:
    """Three panels: gradient against closed form, the estimates' law, their variance."""
    figure, (left, middle, right) = plots.subplots(1, 3, figsize=(12, 3.8))
    _draw_differences(left, metrics)
    grid = np.linspace(-3.5, 3.5, 200)
    middle.plot(
        grid, stats.norm.cdf(grid), color=plots.COLORS[6], lw=3, alpha=0.35, label="N(0, 1)"
    )
    for (name, spread), color in zip(spreads.items(), plots.COLORS, strict=False):
        middle.ecdf(spread.scores, color=color, label=name, lw=1)
    middle.set(
        xlabel="error of the estimate / √bound",
        ylabel="share of the estimates below",
        xlim=(-3.5, 3.5),
        title=f"Estimates from {config.num_data_sets:,} data sets\nof n = {config.sizes[-1]:,}",
    )
    middle.legend(fontsize=7)
    for place, ((name, spread), color) in enumerate(
        zip(spreads.items(), plots.COLORS, strict=False)
    ):
        shifted = np.array(config.sizes) * 1.06 ** (
            place - 2
        )  # apart, so that no bar hides another
        right.errorbar(
            shifted,
            spread.ratios,
            1.96 * spread.ratio_errors,
            fmt="osD^v"[place] + "-",
            color=color,
            label=name,
            capsize=2,
            ms=4,
            lw=1,
        )
    right.axhline(1.0, color=plots.COLORS[6], lw=0.8)
    right.set(
        xscale="log",
        xlabel="samples in a data set n",
        ylabel="variance / Cramér-Rao bound",
        title="Closing on the bound\n(bars: 95 %)",
    )
    right.legend(fontsize=7)
    return figure


def _draw_differences(axis: Any, metrics: dict[str, Metric]) -> None:
    keys = ("largest_difference", "gradient_less_exact_nats")
    labels = ("parameters", "nats a sample")
    floor = 1e-18  # a logarithmic axis has no zero: it gets a line of its own
    for place, (key, label) in enumerate(zip(keys, labels, strict=True)):
        sizes = [abs(metrics[f"{name}/{key}"].value) for name in FAMILIES]
        axis.plot(
            np.arange(len(FAMILIES)) + 0.12 * (2 * place - 1),
            [size or floor for size in sizes],
            "os"[place],
            color=plots.COLORS[place],
            label=label,
            ms=7,
        )
    axis.axhline(10 * floor, color=plots.COLORS[6], lw=0.8, ls=":")
    axis.set(
        yscale="log",
        ylim=(floor / 10, 1e-2),
        ylabel="|gradient less closed form or EM|",
        title="One data set, fitted twice",
    )
    powers = range(-16, -2, 4)
    axis.set_yticks(
        [floor, *(10.0**power for power in powers)],
        ["exactly 0", *(f"$10^{{{power}}}$" for power in powers)],
    )
    axis.minorticks_off()
    axis.set_xticks(range(len(FAMILIES)), list(FAMILIES))
    axis.tick_params(axis="x", labelrotation=25)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
