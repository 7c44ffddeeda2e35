"""Better uniforms, better averages: antithetic and Sobol points pushed through a trained model.

    python -m experiments.sampling_uniforms

About 2 minutes on two CPU cores. `jg.samplers.quantile` maps uniforms u in [0, 1)^D to data, so any
design of points can drive it. MADEs are trained on the 8×8 digits and on the same pooled to 4×4 and
2×2 pixels; then E[f(x)] is estimated from N samples by each design, over many randomizations. The
ratio says how many times more independent samples the same variance would take.

Expected: Sobol points are worth many times as many independent samples, the more the fewer pixels
there are, and most where few uniforms decide, as for the ink of the leading quarter. A step
function gains less. Antithetic pairs gain, too, but lose half where f is even in what they reflect,
as the contrast of 4 pixels is.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, AutoregressiveModel, Key, Params, check_count

NUM_SYMBOLS = 17
DESIGNS: dict[str, jg.samplers.UniformsFn] = {
    "independent": jg.samplers.iid_uniforms,
    "antithetic": jg.samplers.antithetic_uniforms,
    "Sobol": jg.samplers.scrambled_sobol,
}
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ink": lambda x: jnp.mean(x, axis=-1),
    "leading_quarter": lambda x: jnp.mean(x[..., : x.shape[-1] // 4], axis=-1),
    "contrast": lambda x: jnp.var(x, axis=-1),
    "is_dark": lambda x: jnp.mean(x, axis=-1) > 0.3,
}
"""Of data `[..., D]` in [0, 1]: a sum, a sum of few, a quadratic, and a step."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of initial weights, batches and designs."""
    run_dir: pathlib.Path = pathlib.Path("runs/sampling_uniforms")
    """Folder of the run."""
    sides: tuple[int, ...] = (2, 4, 8)
    """Pixels along a side of the images: 2, 4 or 8."""
    num_hidden: int = 100
    """Units of MADE's hidden layer."""
    num_steps: int = 2000
    """Training steps of each model at most."""
    log2_samples: tuple[int, ...] = (4, 6, 8, 10, 12)
    """log2 of the numbers of samples behind an average."""
    num_replicates: int = 128
    """Randomisations of each design."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        for name in ("num_hidden", "num_steps"):
            check_count(name, getattr(self, name))
        check_count("num_replicates", self.num_replicates, minimum=2)
        check_count("seed", self.seed, minimum=0)
        for power in self.log2_samples:
            check_count("log2_samples", power, minimum=0)
        if any(side not in (2, 4, 8) for side in self.sides):
            raise ValueError(f"sides must be among 2, 4 and 8, got {self.sides}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(sides=(2,), num_hidden=8, num_steps=100, log2_samples=(3, 4), num_replicates=4)


def main(config: Config) -> dict[str, Metric]:
    """Train each model, and measure every design on it."""
    run = harness.start(config, "sampling_uniforms")
    metrics: dict[str, Metric] = {}
    ratios: dict[tuple, np.ndarray] = {}
    for side in config.sides:
        fitted = train(config, side)
        num_dims = side**2
        metrics[f"{num_dims}_dims/validation_nats"] = Metric(fitted.validation)
        model = build(config, side)
        for name, measured in measure(config, model, fitted.params).items():
            ratios |= {(num_dims, name, f): r for f, r in measured.items()}
        run.log(stage="measured", step=num_dims)
    error = (2 / (config.num_replicates - 1)) ** 0.5  # relative, of a variance of normal means
    for (num_dims, design, function), values in ratios.items():
        for power, ratio in zip(config.log2_samples, values, strict=True):
            metrics[f"{num_dims}_dims/{design.lower()}/{function}/{2**power}_samples"] = Metric(
                float(ratio), float(ratio * error), config.num_replicates
            )
    run.save_figure(draw(config, ratios, error), "sampling_uniforms.png")
    return run.finish(metrics)


def build(config: Config, side: int) -> jg.MADE:
    """The model of images with that many pixels along a side."""
    return jg.MADE(side**2, NUM_SYMBOLS, (config.num_hidden,), dropout_rate=0.2)


def pooled(x: np.ndarray, side: int) -> np.ndarray:
    """Digits `[N, 64]` as means over squares, rounded to gray levels, `[N, side²]`."""
    block = 8 // side
    squares = x.reshape(-1, side, block, side, block)
    return np.rint(squares.mean(axis=(2, 4))).astype(np.int32).reshape(len(x), -1)


def train(config: Config, side: int) -> jg.training.FitResult:
    """Fit one model by maximum likelihood."""
    module, data = build(config, side), jg.data.digits()
    x, valid = pooled(data.train.x, side), jnp.asarray(pooled(data.valid.x, side))
    init_key, fit_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), side))

    def loss(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(module.log_prob(params, batch, dropout_key=key))

    @jax.jit
    def validation(params: Params) -> Array:
        return -jnp.mean(module.log_prob(params, valid))

    with harness.progress_bar(f"{side**2} pixels", config.num_steps) as update:
        return harness.fit(
            fit_key,
            jax.jit(module.init)(init_key, x[:1]),
            loss,
            x,
            optax.adamw(1e-3, weight_decay=1.0, mask=jg.training.kernel_mask),
            num_steps=config.num_steps,
            batch_size=100,
            validate_fn=validation,
            patience=5,
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        )


def measure(
    config: Config, model: AutoregressiveModel, params: Params
) -> dict[str, dict[str, np.ndarray]]:
    """For each design and function, ratios of variances at each number of samples."""
    key = jax.random.fold_in(jax.random.key(config.seed + 1), model.num_dims)
    found: dict[str, dict[str, np.ndarray]] = {}
    for index, (name, design) in enumerate(DESIGNS.items()):
        moments_fn = jax.jit(functools.partial(moments, model, design), static_argnames="num")
        columns = []
        for power in config.log2_samples:
            design_key = jax.random.fold_in(jax.random.fold_in(key, index), power)
            keys = jax.random.split(design_key, config.num_replicates)
            columns.append((moments_fn(params, keys, num=2**power), 2**power))
        found[name] = {
            f: np.array([variance_ratio(column[f], n) for column, n in columns]) for f in FUNCTIONS
        }
    return found


def moments(
    model: AutoregressiveModel, design: jg.samplers.UniformsFn, params: Params, keys: Key, num: int
) -> dict[str, tuple[Array, Array]]:
    """Averages of every function and of its square, `[R]` each, one for each randomization."""

    def average(key: Key) -> dict[str, tuple[Array, Array]]:
        u = design(key, num, model.num_dims)
        x = jg.samplers.quantile(model, params, u).x / (NUM_SYMBOLS - 1)
        values = {name: f(x).astype(jnp.float32) for name, f in FUNCTIONS.items()}
        return {name: (jnp.mean(v), jnp.mean(v**2)) for name, v in values.items()}

    return jax.lax.map(average, keys)


def variance_ratio(moments: tuple[Array, Array], num_samples: int) -> float:
    """The variance of an average of independent samples, over that of the design's averages.

    Each point of a design is a sample by itself, so all of them together give Var f(x).
    """
    means, squares = (np.asarray(moment, np.float64) for moment in moments)
    variance = squares.mean() - means.mean() ** 2
    return float(variance / num_samples / means.var(ddof=1))


def draw(config: Config, ratios: dict[tuple, Any], error: float) -> matplotlib.figure.Figure:
    """A panel for each model: the ratio of variances against the number of samples."""
    figure, axes = plots.subplots(
        1,
        len(config.sides),
        figsize=(4.4 * len(config.sides), 4.4),
        sharey=True,
        squeeze=False,
    )
    for side, axis in zip(config.sides, axes[0], strict=True):
        for design, style in (("antithetic", "--"), ("Sobol", "-")):
            for function, color in zip(FUNCTIONS, plots.COLORS, strict=False):
                values = ratios[side**2, design, function]
                axis.errorbar(
                    2.0 ** np.array(config.log2_samples),
                    values,
                    1.96 * error * values,
                    fmt="o" + style,
                    ms=3,
                    lw=1,
                    capsize=2,
                    color=color,
                    label=f"{function.replace('_', ' ')}, {design}",
                )
        axis.axhline(1, color=plots.COLORS[6], linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="samples", title=f"{side**2} pixels")
    axes[0, 0].set_ylabel("variance of independent samples\nover that of the design")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
