"""Estimating P(X): three models of points in the plane, and which points each calls likely.

    python -m experiments.density

About 1 minute on two CPU cores. Points lie on two rings, thicker here and thinner there, so that
their true density is known. Cut into 48×48 cells, they are modelled by a mixture of Gaussians (EM,
12 components), an autoregressive model (MADE: the column, then the row given the column) and a VAE
with two latents, whose cells' probabilities are integrals over them, done here by quadrature.
Expected: each model's probabilities sum to one within 1e-3; held out, the truth costs 2.32 nats
and the models lose to it 0.10 (mixture), 0.03 (MADE) and 0.06 (VAE); ranked by likelihood, points
stand in nearly the truth's order (rank correlation 0.96 to 0.98).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy.stats

from experiments import _harness as harness
from experiments._harness import Metric
from jaxgen import plots
from jaxgen.core.checks import check_count, check_multiple
from jaxgen.core.quadrature import gauss_legendre
from jaxgen.core.types import Array, Key, Params
from jaxgen.data.batches import stacked_batch_indices
from jaxgen.estimators.functionals import product_rule
from jaxgen.models import contracts, gaussian_mixture
from jaxgen.models.autoregressive.made import MADE
from jaxgen.models.latent.vae import VAE
from jaxgen.objectives.elbo import elbo
from jaxgen.objectives.likelihood import chain_log_prob
from jaxgen.objectives.marginal import quadrature_log_prob
from jaxgen.samplers import inverse_cdf
from jaxgen.training.loop import Schedule, fit

HALF_WIDTH, NUM_CELLS = 3.5, 48
CELL_AREA = (2 * HALF_WIDTH / NUM_CELLS) ** 2
RADII, THICKNESS = np.array([1.2, 2.6]), 0.15
RING_SHARES, CONCENTRATIONS, NUM_LOBES = np.array([0.4, 0.6]), np.array([1.5, 1.5]), (2, 3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of data, initial weights, batches and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/density")
    """Folder of the run."""
    num_train: int = 8_000
    """Points that the models are fitted to; a tenth as many decide when to stop."""
    num_test: int = 5_000
    """Points that the models are judged by."""
    num_components: int = 12
    """Gaussians in the mixture."""
    num_steps: int = 2000
    """Training steps of MADE and of the VAE."""
    num_nodes: int = 64
    """Quadrature nodes along each latent, a multiple of 8."""

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("num_train", "num_test", "num_components", "num_steps"):
            check_count(name, getattr(self, name))
        check_multiple("num_nodes", self.num_nodes, 8)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(num_train=500, num_test=100, num_components=3, num_steps=50, num_nodes=8)


class Model(NamedTuple):
    """A fitted model: the log-probability of every cell, nats, `[C, C]`, by (column, row)."""

    name: str
    log_probs: np.ndarray


def log_density(points: Array) -> Array:
    """The true log-density of points `[..., 2]`, nats a unit area."""
    radius = jnp.linalg.norm(points, axis=-1)[..., None]
    angle = jnp.arctan2(points[..., 1], points[..., 0])[..., None]
    along = CONCENTRATIONS * jnp.cos(jnp.array(NUM_LOBES) * angle) - np.log(
        2 * np.pi * scipy.special.i0(CONCENTRATIONS)
    )
    across = jax.scipy.stats.norm.logpdf(radius, RADII, THICKNESS) - jnp.log(radius)
    return jax.nn.logsumexp(np.log(RING_SHARES) + along + across, axis=-1)


def log_angle_density(shape: Array, angle: Array) -> Array:
    """Unnormalised log-density of the angle on a ring, given its concentration and its lobes."""
    return shape[0] * jnp.cos(shape[1] * angle)


@functools.cache
def angle_tables() -> inverse_cdf.Table:
    """The inverse CDFs of the angle on each ring, stacked."""

    def build(shape: Array) -> inverse_cdf.Table:
        return inverse_cdf.build(log_angle_density, shape, support=(-np.pi, np.pi))

    return jax.jit(jax.vmap(build))(jnp.array([CONCENTRATIONS, NUM_LOBES]).T)


def draw_points(key: Key, num_points: int) -> Array:
    """Points on the rings, `[num_points, 2]`: the angle by its inverse CDF, the radius normal."""
    ring_key, angle_key, radius_key = jax.random.split(key, 3)
    ring = jax.random.bernoulli(ring_key, RING_SHARES[1], (num_points,)).astype(int)
    draw = jax.vmap(lambda k, table: inverse_cdf.sample(k, table, (num_points,)))
    angles = jax.jit(draw)(jax.random.split(angle_key, 2), angle_tables())
    angle = jnp.where(ring == 0, angles[0], angles[1])
    noise = jax.random.normal(radius_key, (num_points,))
    radius = jnp.asarray(RADII, jnp.float32)[ring] + THICKNESS * noise
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def cells_of(points: Array) -> np.ndarray:
    """The cell of each point, (column, row), int32 `[N, 2]`; beyond the edge counts as at it."""
    position = np.floor((np.asarray(points) + HALF_WIDTH) / (2 * HALF_WIDTH) * NUM_CELLS)
    return np.clip(position, 0, NUM_CELLS - 1).astype(np.int32)


def every_cell() -> np.ndarray:
    """All cells, `[C², 2]`."""
    return np.stack(np.meshgrid(*[np.arange(NUM_CELLS)] * 2, indexing="ij"), -1).reshape(-1, 2)


def cell_log_probs(log_density_fn: Callable[[Array], Array]) -> np.ndarray:
    """Log-probability of every cell under a density, `[C, C]`, by 4×4 Gauss-Legendre nodes each."""
    edge = gauss_legendre(-HALF_WIDTH, HALF_WIDTH, 4, NUM_CELLS)
    rule = product_rule(edge, edge)
    mass = jnp.exp(log_density_fn(jnp.asarray(rule.nodes, jnp.float32))) * rule.weights
    blocks = np.asarray(mass, np.float64).reshape(NUM_CELLS, 4, NUM_CELLS, 4).sum((1, 3))
    return np.log(np.maximum(blocks, 1e-30))


def fit_mixture(key: Key, points: Array, config: Config) -> Model:
    """Fit the mixture to the points themselves by EM, from components put on some of them."""
    k = config.num_components
    start = gaussian_mixture.GaussianMixtureParams(
        jnp.zeros(k),
        jax.random.choice(key, points, (k,), replace=False),
        jnp.tile(0.5 * jnp.eye(2), (k, 1, 1)),
    )

    @jax.jit
    def climb(params: Any) -> Any:
        step = functools.partial(gaussian_mixture.em_step, x=points, min_scale=0.02)
        return jax.lax.fori_loop(0, config.num_steps // 5, lambda _, p: step(p), params)

    params = climb(start)
    density = jax.jit(jax.vmap(functools.partial(gaussian_mixture.log_prob, params)))
    return Model("mixture of Gaussians", cell_log_probs(density))


def fit_made(key: Key, train: np.ndarray, valid: np.ndarray, config: Config) -> Model:
    """Fit MADE to the cells: the column's distribution, and the row's in every column."""
    made = MADE(2, NUM_CELLS, (256, 256))
    model = contracts.autoregressive(made)

    def nats(key: Key, params: Params, x: Array) -> Array:
        return -jnp.mean(chain_log_prob(model.logits(params, x), x))

    params = train_network(key, made, nats, train, valid, config)
    cells = jnp.asarray(every_cell())
    log_probs = jax.jit(lambda p: chain_log_prob(model.logits(p, cells), cells))(params)
    return Model("autoregressive (MADE)", np.asarray(log_probs).reshape(NUM_CELLS, NUM_CELLS))


def fit_vae(key: Key, train: np.ndarray, valid: np.ndarray, config: Config) -> Model:
    """Fit the VAE to the cells by its ELBO; integrate its two latents out."""
    vae = VAE(2, NUM_CELLS, num_latents=2, hidden_sizes=(128, 128))
    model = contracts.latent_variable(vae)

    def nats(key: Key, params: Params, x: Array) -> Array:
        return -jnp.mean(elbo(key, params, model, x, num_samples=4).value)

    params = train_network(key, vae, nats, train, valid, config)
    line = gauss_legendre(-5.0, 5.0, 8, config.num_nodes // 8)
    rule = product_rule(line, line)

    @jax.jit
    def columns(params: Params, cells: Array) -> Array:
        return jax.lax.map(lambda c: quadrature_log_prob(params, model, c, rule), cells)

    cells = jnp.asarray(every_cell()).reshape(NUM_CELLS, NUM_CELLS, 2)
    return Model("VAE, latents integrated out", np.asarray(columns(params, cells)))


def train_network(
    key: Key,
    module: nn.Module,
    nats: Callable[[Key, Params, Array], Array],
    train: np.ndarray,
    valid: np.ndarray,
    config: Config,
) -> Params:
    """Minimise nats, and keep what does best on the validation points."""
    init_key, fit_key = jax.random.split(key)
    validation = jax.jit(lambda params: nats(jax.random.key(1), params, jnp.asarray(valid)))
    name = type(module).__name__
    with harness.progress_bar(name, config.num_steps) as update:
        return fit(
            fit_key,
            module.init(init_key, train[:1]),
            train,
            lambda key, params, batch, step: nats(key, params, batch),
            optax.adam(optax.cosine_decay_schedule(2e-3, config.num_steps)),
            Schedule(config.num_steps),
            indices_fn=functools.partial(stacked_batch_indices, len(train), 250, config.seed),
            validate_fn=lambda params: float(validation(params)),
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        ).params


def main(config: Config) -> dict[str, Metric]:
    """Draw the data, fit the three models, and judge them."""
    run = harness.start(config, "density")
    keys = jax.random.split(jax.random.key(config.seed), 7)
    train = draw_points(keys[0], config.num_train)
    valid = draw_points(keys[1], config.num_train // 10)
    test = draw_points(keys[2], config.num_test)
    cells = cells_of(train), cells_of(valid)
    truth = Model("truth", cell_log_probs(log_density))
    models = [
        truth,
        fit_mixture(keys[3], train, config),
        fit_made(keys[4], *cells, config),
        fit_vae(keys[5], *cells, config),
    ]
    metrics: dict[str, Metric] = {}
    log_p = densities_at(test, models)
    names = ("truth", "mixture", "made", "vae")
    for name, model, values in zip(names, models, log_p, strict=True):
        metrics[f"{name}/test_nats"] = harness.mean_metric(-values, "test")
        if model is not truth:
            metrics[f"{name}/nats_lost"] = harness.mean_metric(log_p[0] - values, "test")
            order = scipy.stats.spearmanr(log_p[0], values).statistic
            metrics[f"{name}/rank_correlation"] = Metric(float(order), None, len(test), "test")
        metrics[f"{name}/total_probability"] = Metric(float(np.exp(model.log_probs).sum()))
    run.save_figure(draw(keys[6], models, test, log_p), "density.png")
    return run.finish(metrics)


def densities_at(points: Array, models: list[Model]) -> np.ndarray:
    """Log-density of the cells that the points lie in, nats a unit area, `[M, N]`."""
    column, row = cells_of(points).T
    return np.stack([m.log_probs[column, row] - np.log(CELL_AREA) for m in models])


def draw_from(key: Key, model: Model, num_points: int) -> np.ndarray:
    """Draw cells of a model, and a uniform place in each, `[num_points, 2]`."""
    cell_key, place_key = jax.random.split(key)
    flat = jax.random.categorical(
        cell_key, jnp.asarray(model.log_probs.ravel()), shape=(num_points,)
    )
    place = np.asarray(jax.random.uniform(place_key, (num_points, 2)))
    return (every_cell()[np.asarray(flat)] + place) / NUM_CELLS * 2 * HALF_WIDTH - HALF_WIDTH


def draw(key: Key, models: list[Model], test: Array, log_p: np.ndarray) -> matplotlib.figure.Figure:
    """Densities above, samples and the likeliest and unlikeliest held-out points below."""
    figure, axes = plt.subplots(
        2, len(models), figsize=(12, 6.2), layout="constrained", sharex=True, sharey=True
    )
    extent = (-HALF_WIDTH, HALF_WIDTH) * 2
    points, top = np.asarray(test), float(np.exp(log_p[0]).max())
    for column, (model, values) in enumerate(zip(models, log_p, strict=True)):
        density = np.exp(model.log_probs).T / CELL_AREA
        image = axes[0, column].imshow(
            density, origin="lower", extent=extent, cmap="cividis", vmin=0, vmax=top
        )
        error = values.std(ddof=1) / len(values) ** 0.5
        axes[0, column].set_title(f"{model.name}\n{-values.mean():.3f} ± {error:.3f} nats")
        drawn = draw_from(jax.random.fold_in(key, column), model, 1500)
        order = np.argsort(values)
        num = max(1, len(points) // 100)
        below = axes[1, column]
        below.plot(*drawn.T, ".", ms=1.5, color="0.6", label="samples")
        for name, chosen, color, marker in (
            ("likeliest 1 %", order[-num:], plots.COLORS[0], "o"),
            ("unlikeliest 1 %", order[:num], plots.COLORS[1], "x"),
        ):
            below.plot(*points[chosen].T, marker, ms=4, ls="", color=color, label=name)
        below.set(xlabel="$x_1$", aspect="equal", xlim=extent[:2], ylim=extent[:2])
    figure.colorbar(image, ax=axes[0], label="density (per unit area)")
    for row in axes:
        row[0].set_ylabel("$x_2$")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, markerscale=2)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main)
