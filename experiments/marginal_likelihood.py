"""Why the log of an integral resists the gradient: quadrature, naive Monte Carlo and a bound.

    python -m experiments.marginal_likelihood

About half a minute on two CPU cores. Six bits that share one latent z ~ N(0, 1), and the gradient
of log p(x) = log ∫ p(z) p(x | z) dz in the likelihood's parameters. Expected: with K prior samples
the gradient of log (1/K) Σ p(x | z_k) is biased by a good part of its length while K is small; from
there the bias is positive and falls as 1/K, as the delta method says, which puts it at the gradient
of −Var(w) / 2K. The ELBO's gradient, with the best Gaussian posterior, is off by that of
KL(q ‖ p(z | x)), however many samples are averaged; putting a few of its weights into the logarithm
all but removes that.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import matplotlib.axes
import matplotlib.figure
import numpy as np
import optax
from jax.typing import ArrayLike

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, Key, check_count

LINE = jg.gauss_legendre(-9.0, 9.0, 16, 24)
X = jnp.array([[1, 1, 0, 1, 1, 0]])


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of all draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/marginal_likelihood")
    """Folder of the run."""
    num_draws: int = 2_000_000
    """Samples of z behind each mean gradient, shared out among its averages of K."""
    max_log2_samples: int = 8
    """log2 of the number of samples in the largest average."""
    num_fit_steps: int = 1500
    """Steps that fit the posterior to x."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("num_draws", self.num_draws, minimum=2)
        check_count("max_log2_samples", self.max_log2_samples, minimum=2)
        check_count("num_fit_steps", self.num_fit_steps)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_draws=2000, max_log2_samples=3, num_fit_steps=5)


class Params(NamedTuple):
    """Weights and biases of the bits' log-odds, `[D]` each."""

    weights: Array
    biases: Array


def build_params() -> Params:
    """Bits that lean on z strongly, so that few prior samples explain x."""
    return Params(
        jnp.array([2.0, 1.5, -2.5, 3.0, 1.0, -1.5]), jnp.array([-1.0, 0.0, 0.5, -2.0, -0.5, 1.0])
    )


class Posterior(NamedTuple):
    """Mean and log-scale of q(z | x), a Gaussian for the one x there is."""

    mean: Array
    log_scale: Array


PRIOR = Posterior(jnp.float32(0.0), jnp.float32(0.0))
"""Sampling the prior: the posterior is q(z) = N(0, 1), and the weights are p(x | z)."""


@dataclasses.dataclass(frozen=True)
class Bits(jg.LatentVariableModel):
    """The bits and their latent; its parameters are a pair `(Params, Posterior)`."""

    def prior(
        self, params: tuple[Params, Posterior], *, context: None = None
    ) -> distrax.Distribution:
        """Return N(0, 1)."""
        return distrax.MultivariateNormalDiag(jnp.zeros(1), jnp.ones(1))

    def posterior(
        self, params: tuple[Params, Posterior], x: ArrayLike, *, context: None = None
    ) -> distrax.Distribution:
        """Return the same Gaussian for every row of x."""
        shape, (mean, log_scale) = (jnp.shape(x)[0], 1), params[1]
        return distrax.MultivariateNormalDiag(
            jnp.full(shape, mean), jnp.full(shape, jnp.exp(log_scale))
        )

    def likelihood(
        self, params: tuple[Params, Posterior], z: Array, *, context: None = None
    ) -> distrax.Distribution:
        """Return independent bits."""
        weights, biases = params[0]
        return distrax.Independent(distrax.Bernoulli(logits=z * weights + biases), 1)


MODEL = Bits()


def exact_log_prob(params: Params) -> Array:
    """Return the nats of the data point."""
    return jg.objectives.quadrature_log_prob(MODEL, (params, PRIOR), X, LINE)[0]


def relative_variance(params: Params) -> Array:
    """Return Var p(x | z) / p(x)², times −1 / 2K the bias of the log of an average."""
    log_second = jg.objectives.quadrature_log_prob(_SquaredBits(), (params, PRIOR), X, LINE)[0]
    return jnp.exp(log_second - 2 * exact_log_prob(params)) - 1


class _SquaredBits(Bits):
    def likelihood(
        self, params: tuple[Params, Posterior], z: Array, *, context: None = None
    ) -> "_Squared":
        return _Squared(super().likelihood(params, z))


class _Squared(NamedTuple):
    """The square of a likelihood, which is no density."""

    likelihood: distrax.Distribution

    def log_prob(self, x: Array) -> Array:
        return 2 * self.likelihood.log_prob(x)


def exact_elbo(params: Params, posterior: Posterior) -> Array:
    """Integrate the ELBO of the data point by quadrature, nats."""
    both = (params, posterior)
    z = jnp.asarray(LINE.nodes, jnp.float32)[:, None, None]
    q = MODEL.posterior(both, X).log_prob(z)
    terms = MODEL.prior(both).log_prob(z) + MODEL.likelihood(both, z).log_prob(X[None]) - q
    return jnp.sum(jnp.asarray(LINE.weights, jnp.float32)[:, None] * jnp.exp(q) * terms)


def fit_posterior(params: Params, config: Config) -> Posterior:
    """Find the Gaussian that maximizes the ELBO."""

    def loss(key: Key, q: Posterior, x: Array, step: Array) -> Array:
        return -exact_elbo(params, q)

    fitted = harness.fit(
        jax.random.key(0),  # draws nothing here
        PRIOR,
        loss,
        X,
        optax.adam(0.02),
        num_steps=config.num_fit_steps,
        batch_size=len(X),
    )
    return fitted.params


def mean_gradients(
    key: Key, posterior: Posterior, params: Params, num_samples: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the mean gradient of log (1/K) Σ w_k, and its standard error, `[2 D]`."""
    num_groups = max(2, config.num_draws // num_samples)
    draws = np.asarray(gradients(key, posterior, params, num_samples, num_groups), np.float64)
    return draws.mean(0), draws.std(0, ddof=1) / len(draws) ** 0.5


@functools.partial(jax.jit, static_argnums=(3, 4))
def gradients(
    key: Key, posterior: Posterior, params: Params, num_samples: int, num_groups: int
) -> Array:
    """Draw gradients of log (1/K) Σ w_k, `[num_groups, 2 D]`."""

    def one(key: Key) -> Array:
        def value(params: Params) -> Array:
            return jg.iwae(key, MODEL, (params, posterior), X, num_samples=num_samples)[0]

        gradient = jax.grad(value)(params)
        return jnp.concatenate([gradient.weights, gradient.biases])

    batch_size = min(num_groups, max(1, 2**15 // num_samples))
    return jax.lax.map(one, jax.random.split(key, num_groups), batch_size=batch_size)


@jax.jit
def by_quadrature(params: Params, posterior: Posterior) -> tuple[Any, Any, Params]:
    """Return log p(x) and the ELBO, each with its gradient, and the gradient of the variance."""
    log_prob = jax.value_and_grad(exact_log_prob)(params)
    elbo = jax.value_and_grad(exact_elbo)(params, posterior)
    return log_prob, elbo, jax.grad(relative_variance)(params)


class Bias(NamedTuple):
    """The bias of a gradient along the exact one, as a share of its length.

    Attributes:
      found: one for each K, `[S]`.
      errors: their standard errors, `[S]`.
    """

    found: np.ndarray
    errors: np.ndarray


def measure(
    key: Key, posterior: Posterior, params: Params, exact: np.ndarray, config: Config
) -> tuple[Bias, list[tuple[np.ndarray, np.ndarray]]]:
    """Estimate biases for K = 1, 2, 4, … and the gradients themselves."""
    direction = exact / (exact @ exact)
    gradients = [
        mean_gradients(k, posterior, params, 2**i, config)
        for i, k in enumerate(jax.random.split(key, config.max_log2_samples + 1))
    ]
    found = np.array([(mean - exact) @ direction for mean, _ in gradients])
    # Components of one gradient move together: the sum of their errors is never too small.
    errors = np.array([np.abs(error * direction).sum() for _, error in gradients])
    return Bias(found, errors), gradients


def main(config: Config) -> dict[str, Metric]:
    """Run the three ways side by side."""
    run = harness.start(config, "marginal_likelihood")
    params = build_params()
    posterior = fit_posterior(params, config)
    (nats, exact), (elbo_nats, elbo), variance = by_quadrature(params, posterior)
    exact, elbo, variance = _flat(exact), _flat(elbo), _flat(variance)
    delta = -0.5 * variance @ exact / (exact @ exact)
    elbo_bias = float((elbo - exact) @ exact / (exact @ exact))
    naive_key, bound_key = jax.random.split(jax.random.key(config.seed))
    naive, naive_gradients = measure(naive_key, PRIOR, params, exact, config)
    bounds, bound_gradients = measure(bound_key, posterior, params, exact, config)
    sides = {"prior samples": naive, "posterior samples": bounds}
    metrics = {
        "exact/nats": Metric(float(nats)),
        "elbo/nats": Metric(float(elbo_nats)),
        "exact/gradient_length": Metric(float(np.linalg.norm(exact))),
        "naive/delta_method_bias_at_k1": Metric(float(delta)),
        "elbo/bias": Metric(elbo_bias),
        "naive/slope": Metric(_slope(naive)),
    }
    for name, bias in zip(("naive", "bound"), sides.values(), strict=True):
        for i, (value, error) in enumerate(zip(*bias, strict=True)):
            num = max(2, config.num_draws // 2**i)
            metrics[f"{name}/k{2**i}/bias"] = Metric(float(value), float(error), num)
    bars = {
        "quadrature (exact)": (exact, np.zeros_like(exact)),
        "prior samples, K = 4": naive_gradients[2],
        "bound, K = 1 (ELBO)": bound_gradients[0],
    }
    run.save_figure(draw(bars, sides, float(delta), elbo_bias), "marginal_likelihood.png")
    return run.finish(metrics)


def _flat(params: Params) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64) for leaf in params])


def _slope(bias: Bias) -> float:
    """Slope of log |bias| against log K from K = 8 on, where the error is small."""
    use = np.abs(bias.found) > 4 * bias.errors
    use[:3] = False
    if use.sum() < 2:
        return float("nan")
    log_k = np.log(2.0) * np.arange(len(bias.found))
    return float(np.polyfit(log_k[use], np.log(np.abs(bias.found[use])), 1)[0])


def draw(
    bars: dict[str, tuple[np.ndarray, np.ndarray]],
    sides: dict[str, Bias],
    delta: float,
    elbo_bias: float,
) -> matplotlib.figure.Figure:
    """Two panels: every component of the gradient three ways; the bias against K."""
    figure, (left, right) = plots.subplots(1, 2, figsize=(11, 4), width_ratios=(1.25, 1))
    draw_gradients(left, bars)
    draw_bias(right, sides, delta, elbo_bias)
    return figure


def draw_gradients(
    axis: matplotlib.axes.Axes, bars: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Every component of the gradient, three ways."""
    num_dims = X.shape[1]
    for place, (name, (mean, error)) in enumerate(bars.items()):
        at = np.arange(len(mean)) + 0.27 * (place - 1)
        axis.bar(at, mean, 0.27, yerr=1.96 * error, color=plots.COLORS[place], label=name)
    names = [f"w{i + 1}" for i in range(num_dims)] + [f"b{i + 1}" for i in range(num_dims)]
    axis.set_xticks(range(len(names)), names)
    axis.axhline(0, color=plots.COLORS[6], lw=0.8)
    axis.set(
        xlabel="parameter of the likelihood",
        ylabel="derivative of log p(x) (nats per unit)",
        title="One gradient, three ways (means; bars: 95 %)",
    )
    axis.legend(fontsize=8)


def draw_bias(
    axis: matplotlib.axes.Axes, sides: dict[str, Bias], delta: float, elbo_bias: float
) -> None:
    """The bias along the gradient against K, and what is known of it exactly."""
    num_samples = 2.0 ** np.arange(len(sides["prior samples"].found))
    for place, (name, bias) in enumerate(sides.items()):
        axis.errorbar(
            num_samples,
            100 * np.abs(bias.found),
            yerr=196 * bias.errors,
            fmt="os"[place],
            color=plots.COLORS[place + 1],
            label=f"K {name}" + (", naive" if place == 0 else ", bound"),
            capsize=2,
            ms=5,
        )
        below = bias.found < 0
        axis.plot(
            num_samples[below],
            100 * np.abs(bias.found[below]),
            "os"[place],
            color=plots.COLORS[place + 1],
            markerfacecolor="white",
            ms=5,
            zorder=3,
        )
    axis.plot(
        num_samples,
        100 * abs(delta) / num_samples,
        "--",
        color=plots.COLORS[6],
        label="delta method: |∇Var(w)| / 2K",
    )
    axis.axhline(
        100 * abs(elbo_bias), ls=":", color=plots.COLORS[2], label="ELBO, exact: |∇KL(q‖p)|"
    )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="samples K",
        ylabel="|bias| (% of the gradient's length)",
        title="Bias along the gradient (open: negative)",
    )
    axis.set_ylim(bottom=2e-3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
