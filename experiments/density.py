"""Estimating P(X): three models of points in the plane, and which points each calls likely.

    python -m experiments.density

About 1 minute on two CPU cores. Points lie on two rings, thicker here and thinner there, so that
their true density is known. Cut into 48×48 cells, they are modeled by a mixture of Gaussians (EM,
12 components), an autoregressive model (MADE: the column, then the row given the column) and a VAE
with two latents, whose cells' probabilities are integrals over them, done here by quadrature.
Expected: each model's probabilities sum to one; held out, the models lose little to the truth, MADE
least and the mixture most; ranked by likelihood, points stand in nearly the truth's order.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
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
from experiments._harness import Metric
from jaxgen.core import Array, Key, Params, check_count, check_multiple, product_rule

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
    """Unnormalized log-density of the angle on a ring, given its concentration and its lobes."""
    return shape[0] * jnp.cos(shape[1] * angle)


def angle_tables() -> list[jg.samplers.InverseCDF]:
    """Return the inverse CDF of the angle on each ring."""
    shapes = np.stack([CONCENTRATIONS, NUM_LOBES], axis=1, dtype=np.float32)
    build = functools.partial(jg.samplers.inverse_cdf, support=(-np.pi, np.pi))
    return [build(log_angle_density, shape) for shape in shapes]


@functools.partial(jax.jit, static_argnums=2)
def draw_points(key: Key, tables: list[jg.samplers.InverseCDF], num_points: int) -> Array:
    """Points on the rings, `[num_points, 2]`: the angle by its inverse CDF, the radius normal."""
    ring_key, angle_key, radius_key = jax.random.split(key, 3)
    ring = jax.random.bernoulli(ring_key, RING_SHARES[1], (num_points,)).astype(int)
    keys = jax.random.split(angle_key, 2)
    angles = [table.sample(k, (num_points,)) for k, table in zip(keys, tables, strict=True)]
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
    edge = jg.gauss_legendre(-HALF_WIDTH, HALF_WIDTH, 4, NUM_CELLS)
    rule = product_rule(edge, edge)
    mass = np.exp(jax.jit(log_density_fn)(rule.nodes.astype(np.float32))) * rule.weights
    blocks = np.asarray(mass, np.float64).reshape(NUM_CELLS, 4, NUM_CELLS, 4).sum((1, 3))
    return np.log(np.maximum(blocks, 1e-30))


def fit_mixture(key: Key, points: Array, config: Config) -> Model:
    """Fit the mixture to the points themselves by EM, from components put on some of them."""
    k = config.num_components

    @jax.jit
    def climb(key: Key, points: Array) -> jg.models.GaussianMixture:
        def step(_: int, mixture: jg.models.GaussianMixture) -> jg.models.GaussianMixture:
            return mixture.em_step(points, min_scale=0.02)

        start = jg.models.GaussianMixture(
            jnp.zeros(k),
            jax.random.choice(key, points, (k,), replace=False),
            jnp.tile(0.5 * jnp.eye(2), (k, 1, 1)),
        )
        return jax.lax.fori_loop(0, config.num_steps // 5, step, start)

    return Model("mixture of Gaussians", cell_log_probs(climb(key, points).log_prob))


def fit_made(key: Key, train: np.ndarray, valid: np.ndarray, config: Config) -> Model:
    """Fit MADE to the cells: the column's distribution, and the row's in every column."""
    made = jg.MADE(2, NUM_CELLS, (256, 256))

    def nats(key: Key, params: Params, x: Array) -> Array:
        return -jnp.mean(made.log_prob(params, x))

    params = train_network(key, made, nats, train, valid, config)
    log_probs = jax.jit(jg.log_prob)(made, params, every_cell())
    return Model("autoregressive (MADE)", np.asarray(log_probs).reshape(NUM_CELLS, NUM_CELLS))


def fit_vae(key: Key, train: np.ndarray, valid: np.ndarray, config: Config) -> Model:
    """Fit the VAE to the cells by its ELBO; integrate its two latents out."""
    vae = jg.VAE(2, NUM_CELLS, num_latents=2, hidden_sizes=(128, 128))

    def nats(key: Key, params: Params, x: Array) -> Array:
        return -jnp.mean(jg.elbo(key, vae, params, x, num_samples=4).value)

    params = train_network(key, vae, nats, train, valid, config)
    line = jg.gauss_legendre(-5.0, 5.0, 8, config.num_nodes // 8)
    rule = product_rule(line, line)

    @jax.jit
    def columns(params: Params, cells: Array) -> Array:
        log_prob = jg.objectives.quadrature_log_prob
        return jax.lax.map(lambda c: log_prob(vae, params, c, rule), cells)

    cells = every_cell().reshape(NUM_CELLS, NUM_CELLS, 2)
    return Model("VAE, latents integrated out", np.asarray(columns(params, jnp.asarray(cells))))


def train_network(
    key: Key,
    model: Any,
    nats: Callable[[Key, Params, Array], Array],
    train: np.ndarray,
    valid: np.ndarray,
    config: Config,
) -> Params:
    """Minimize nats, and keep what does best on the validation points."""
    init_key, fit_key = jax.random.split(key)
    validation = jax.jit(lambda params: nats(jax.random.key(1), params, jnp.asarray(valid)))
    name = type(model).__name__
    with harness.progress_bar(name, config.num_steps) as update:
        return harness.fit(
            fit_key,
            jax.jit(model.init)(init_key, train[:1]),
            lambda key, params, batch, step: nats(key, params, batch),
            train,
            optax.adam(optax.cosine_decay_schedule(2e-3, config.num_steps)),
            num_steps=config.num_steps,
            batch_size=250,
            validate_fn=validation,
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        ).params


def main(config: Config) -> dict[str, Metric]:
    """Draw the data, fit the three models, and judge them."""
    run = harness.start(config, "density")
    keys = jax.random.split(jax.random.key(config.seed), 7)
    sizes = (config.num_train, config.num_train // 10, config.num_test)
    tables = angle_tables()
    train, valid, test = (
        draw_points(k, tables, num) for k, num in zip(keys[:3], sizes, strict=True)
    )
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
    flat, place = jax.device_get(_cells_and_places(key, model.log_probs.ravel(), num_points))
    return (every_cell()[flat] + place) / NUM_CELLS * 2 * HALF_WIDTH - HALF_WIDTH


@functools.partial(jax.jit, static_argnums=2)
def _cells_and_places(key: Key, log_probs: Array, num_points: int) -> tuple[Array, Array]:
    cell_key, place_key = jax.random.split(key)
    flat = jax.random.categorical(cell_key, log_probs, shape=(num_points,))
    return flat, jax.random.uniform(place_key, (num_points, 2))


def draw(key: Key, models: list[Model], test: Array, log_p: np.ndarray) -> matplotlib.figure.Figure:
    """Densities above, samples and the likeliest and unlikeliest held-out points below."""
    figure, axes = plots.subplots(2, len(models), figsize=(12, 6.2), sharex=True, sharey=True)
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
    harness.run_experiment(Config, main, trains=True)
