"""A table of mixed columns with a known truth: data beside draws, and conditionals by energies.

    python -m experiments.mixed_columns

About a minute on two CPU cores. Rows are made up: a kind of three, an angle that depends on it, a
size on the half-line whose two modes, wide and narrow, depend on both, and a bit that depends on
the size. A MADE with a softmax, von Mises densities, energies and a bit for conditionals is fitted.
Expected: test rows cost a hundredth of a nat more than by the truth, or less; energies integrate to
one; the sizes' conditionals lie over the truth, both modes of them.
"""

import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import scipy.stats

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from jaxgen.core import Array, Key, Params, check_count

TURN = (0.0, 360.0)
COLUMNS = (
    jg.models.Categorical(3),
    jg.models.Angles(TURN, num_components=3),
    jg.models.Energy(support=(0.0, math.inf), num_nodes=16),
    jg.models.Bits(),
)
KINDS = np.array([0.5, 0.3, 0.2])
DIRECTIONS = np.array([60.0, 180.0, 300.0])  # degrees, where each kind points
SPREADS = np.array([8.0, 2.0, 0.5])  # concentrations around them
SHOWN = ((0, 60.0), (1, 120.0), (2, 200.0))  # kinds and angles whose sizes are drawn


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of data, initial weights, batches and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/mixed_columns")
    """Folder of the run."""
    num_rows: int = 20_000
    """Rows to train on; a tenth as many validate, and as many again test."""
    num_steps: int = 3000
    """Steps of training."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        check_count("num_rows", self.num_rows, minimum=100)
        check_count("num_steps", self.num_steps)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_rows=500, num_steps=4)


class Sizes(NamedTuple):
    """Of given kinds and angles, two log-normal modes of the size.

    Attributes:
      share: of the narrow one.
      centers: medians of both, `[..., 2]`.
      widths: standard deviations of the logarithm.
    """

    share: np.ndarray
    centers: np.ndarray
    widths: np.ndarray

    def pdf(self, size: np.ndarray) -> np.ndarray:
        """Return densities at sizes."""
        parts = scipy.stats.lognorm.pdf(size[..., None], self.widths, scale=self.centers)
        return self.share * parts[..., 0] + (1 - self.share) * parts[..., 1]


def sizes_of(kind: np.ndarray, angle: np.ndarray) -> Sizes:
    """Return the truth about sizes."""
    wave = np.sin(np.radians(angle))
    centers = np.stack([2.0 + wave, 8.0 + 4.0 * kind + 2 * wave], axis=-1)
    return Sizes(0.25 + 0.2 * kind, centers, np.array([0.08, 0.3]))


def odds_of(size: np.ndarray) -> np.ndarray:
    """Return the log-odds of the bit."""
    return size - 6.0


def made_up(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    """Draw rows `[N, 4]`."""
    kind = rng.choice(3, num_rows, p=KINDS)
    angle = np.degrees(rng.vonmises(np.radians(DIRECTIONS[kind]), SPREADS[kind])) % 360
    truth = sizes_of(kind, angle)
    mode = (rng.random(num_rows) > truth.share).astype(int)
    center = np.take_along_axis(truth.centers, mode[:, None], axis=1)[:, 0]
    size = center * np.exp(truth.widths[mode] * rng.normal(size=num_rows))
    bit = rng.random(num_rows) < 1 / (1 + np.exp(-odds_of(size)))
    return np.stack([kind, angle, size, bit], axis=1).astype(np.float32)


def log_truth(x: np.ndarray) -> np.ndarray:
    """Return the log-density of each column given those before, `[N, 4]`, nats."""
    kind, angle, size, bit = x.astype(np.float64).T
    kind = kind.astype(int)
    turn = scipy.stats.vonmises.logpdf(np.radians(angle - DIRECTIONS[kind]), SPREADS[kind])
    return np.stack(
        [
            np.log(KINDS[kind]),
            turn + math.log(math.pi / 180),
            np.log(sizes_of(kind, angle).pdf(size)),
            -np.logaddexp(0.0, np.where(bit == 1, -1.0, 1.0) * odds_of(size)),
        ],
        axis=1,
    )


def main(config: Config) -> dict[str, harness.Metric]:
    """Fit, compare with the truth, and draw."""
    run = harness.start(config, "mixed_columns")
    rng = np.random.default_rng(config.seed)
    num_held_out = config.num_rows // 10
    train, valid, test = (made_up(rng, n) for n in (config.num_rows, num_held_out, num_held_out))
    model = jg.MADE(4, None, (64, 64), conditional=jg.models.Mixed(COLUMNS))
    fit_key, sample_key = jax.random.split(jax.random.key(config.seed))
    params = fit(run, fit_key, model, train, valid)
    outputs, log_probs = look(model, params, test)
    errors = jax.jit(COLUMNS[2].normalization_error)(outputs[:, 2])  # it is the widest kind
    losses = log_truth(test) - log_probs
    metrics = {"beyond_truth_nats": harness.mean_metric(losses.sum(axis=1), "test")}
    for name, loss in zip(("kind", "angle", "size", "bit"), losses.T, strict=True):
        metrics[f"{name}/beyond_truth_nats"] = harness.mean_metric(loss, "test")
    metrics["energies/normalization_error"] = harness.Metric(float(np.max(errors)), split="test")
    draws = np.asarray(jax.jit(jg.sample, static_argnums=3)(sample_key, model, params, 1500).x)
    run.save_figure(figure(model, params, test[:1500], draws), "mixed_columns.png")
    return run.finish(metrics)


def fit(run: harness.Run, key: Key, model: jg.MADE, train: np.ndarray, valid: np.ndarray) -> Params:
    """Train with Adam from the units and marginals of the columns."""
    init_key, key = jax.random.split(key)
    params = jax.jit(model.init)(init_key, train[:1])
    params = jg.models.set_output_bias(model, params, train)

    def loss(key: Key, params: Params, x: Array, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, x))

    steps = run.config.num_steps
    validate = jax.jit(lambda params: -jnp.mean(model.log_prob(params, valid)))
    with harness.training_bar(run, "train", steps, description="made") as report:
        fitted = harness.fit(
            *(key, params, loss, train),
            optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
            num_steps=steps,
            batch_size=250,
            validate_fn=validate,
            validate_every=250,
            report_fn=report,
        )
    return fitted.params


@jax.jit
def look(model: Any, params: Params, x: Array) -> tuple[Array, Array]:
    """Return outputs `[N, D, P]`, and the log-probability of each coordinate, `[N, D]`."""
    outputs = model.outputs(params, x)
    return outputs, model.conditional.log_prob(outputs, x)


def figure(
    model: Any, params: Params, data: np.ndarray, draws: np.ndarray
) -> matplotlib.figure.Figure:
    """Plot data and draws, and for some kinds and angles the sizes' densities and energies."""
    panel, axes = plots.subplots(2, 3, figsize=(10.5, 6.4))
    for axis, x, title in zip(
        axes[0], (data, draws), ("data", "drawn from the model"), strict=False
    ):
        for kind in range(3):
            rows = x[x[:, 0] == kind]
            axis.scatter(rows[:, 1], rows[:, 2], s=4, color=plots.COLORS[kind], linewidths=0)
        axis.set(xlabel="angle, degrees", title=title, xlim=TURN, ylim=(0, 30))
    axes[0, 0].set_ylabel("size")
    bits_panel(axes[0, 2], data, draws)
    size = np.geomspace(0.7, 40, 1500)
    for axis, (kind, angle) in zip(axes[1], SHOWN, strict=True):
        rows = np.stack(np.broadcast_arrays(kind, angle, size, 0.0), axis=1)
        log_density = np.asarray(look(model, params, rows.astype(np.float32))[1][:, 2])
        truth = sizes_of(rows[:, 0], rows[:, 1]).pdf(size)
        axis.plot(size, size * truth, "--", color=plots.COLORS[6], label="truth")
        axis.plot(size, size * np.exp(log_density), color=plots.COLORS[kind], label="model")
        axis.plot([], [], ":", color=plots.COLORS[3], label="energy, nats (right)")
        axis.set(xlabel="size", title=f"size of kind {kind} at {angle:.0f}°", xscale="log")
        axis.set_ylim(0, 1.35 * np.max(size * truth))
        axis.legend(fontsize=8, loc="upper right")
        beside = axis.twinx()
        beside.plot(size, -log_density, ":", color=plots.COLORS[3])
        beside.set_ylim(-1, 16)
    axes[1, 0].set_ylabel("density of the logarithm")
    return panel


def bits_panel(axis: Any, data: np.ndarray, draws: np.ndarray) -> None:
    """Plot how often the bit is set, by size."""
    edges = np.linspace(0, 16, 17)
    middles = (edges[1:] + edges[:-1]) / 2
    axis.plot(middles, 1 / (1 + np.exp(-odds_of(middles))), "--", color=plots.COLORS[6])
    for x, marker, label in ((data, "o", "data"), (draws, "x", "drawn from the model")):
        place = np.digitize(x[:, 2], edges) - 1
        shares = [x[place == i, 3].mean() if (place == i).any() else np.nan for i in range(16)]
        axis.plot(middles, shares, marker, label=label, markersize=5, fillstyle="none")
    axis.set(xlabel="size", title="share of set bits (dashed: truth)", ylim=(-0.05, 1.05))
    axis.legend(fontsize=8)


if __name__ == "__main__":
    harness.run_experiment(Config, main)
