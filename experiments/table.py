"""A table of one's own: what its columns tell of each other, odd rows, and missing cells.

    python -m experiments.table --csv FILE

About two minutes on two CPU cores. Reads a CSV file whose first line names the columns, takes each
for categories, levels, reals or positive reals by what its cells look like (`--kinds` overrules),
and fits one density of rows: the chain rule, with a mixture or an energy for each real cell. Says
what a row costs in nats beside independent columns, lists the likeliest errors among the rows,
fills in empty cells given all others, and draws pairs of columns beside samples. Without a file it
takes scikit-learn's wines. Rows with empty cells are filled in, not trained on. Expected there: a
held-out row costs about 3 nats less than its columns one by one.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from experiments._table_columns import KINDS, Table, TableError, read_csv, wine
from jaxgen.core import Array, Key, Params, check_count

_MOST_PAIRS = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run."""

    seed: int = 0
    """Seed of splits, initial weights, batches and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/table")
    """Folder of the run."""
    csv: pathlib.Path | None = None
    """The file; without one, scikit-learn's wines."""
    kinds: tuple[str, ...] = ()
    """Kinds of columns, as NAME=KIND, of category, level, real or positive."""
    num_components: int = 5
    """Bumps in the mixture of a real cell; 0 takes energies instead."""
    hidden_size: int = 64
    """Units in each of the two hidden layers."""
    num_steps: int = 3000
    """Training steps at most."""
    num_fills: int = 200
    """Proposals for the empty cells of a row, of which the others choose."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_count("seed", self.seed, minimum=0)
        check_count("num_components", self.num_components, minimum=0)
        for name in ("hidden_size", "num_steps", "num_fills"):
            check_count(name, getattr(self, name))
        for entry in self.kinds:
            if entry.rpartition("=")[2] not in KINDS or "=" not in entry:
                raise ValueError(f"kinds must be NAME=KIND with one of {KINDS}, got {entry!r}")

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(hidden_size=8, num_steps=20, num_components=2, num_fills=20)


class Fit(NamedTuple):
    """A model and its parameters."""

    model: jg.MADE | jg.Independent
    params: Params


def train(key: Key, x: np.ndarray, valid: np.ndarray, table: Table, config: Config) -> Fit:
    """Fit rows without empty cells by maximum likelihood, stopped by the validation part."""
    columns = tuple(column.conditional(config.num_components) for column in table.columns)
    sizes = (config.hidden_size, config.hidden_size)
    mixed = jg.models.Mixed(columns)
    model = jg.MADE(len(columns), None, sizes, 0.2, True, conditional=mixed)

    def loss(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, batch, dropout_key=key))

    @jax.jit
    def validation(params: Params) -> Array:
        return -jnp.mean(model.log_prob(params, valid))

    init_key, fit_key = jax.random.split(key)
    params = jax.jit(model.init)(init_key, x[:1])
    with harness.progress_bar("rows", config.num_steps) as update:
        result = harness.fit(
            fit_key,
            jg.models.set_output_bias(model, params, x),
            loss,
            x,
            optax.adamw(1e-3, weight_decay=0.1, mask=jg.training.kernel_mask),
            num_steps=config.num_steps,
            batch_size=min(100, len(x)),
            validate_fn=validation,
            patience=8,
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        )
    return Fit(model, result.params)


def independent(x: np.ndarray, table: Table, config: Config) -> Fit:
    """Fit every column by itself: the same densities, without the chain."""
    columns = tuple(column.conditional(config.num_components) for column in table.columns)
    model = jg.Independent(len(columns), None, jg.models.Mixed(columns))
    params = jg.models.set_output_bias(model, model.init(jax.random.key(0), x[:1]), x)

    def loss(params: Params) -> Array:
        return -jnp.mean(model.log_prob(params, x))

    optimizer = optax.adam(1e-2)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    steps = min(config.num_steps, 300)
    start = (params, optimizer.init(params))
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))(start)
    return Fit(model, params)


def fill_in(key: Key, fit: Fit, row: np.ndarray, num_fills: int) -> np.ndarray:
    """Draw the empty cells of a row `[D]` given all others, by resampling proposals.

    A proposal is drawn given the cells before each; those after it weigh it by their probability.
    """
    is_known = np.isfinite(row)
    draw_key, pick_key = jax.random.split(key)
    rows = np.broadcast_to(np.where(is_known, row, 0.0), (num_fills, row.size))
    known = np.broadcast_to(is_known, rows.shape)
    draws = _proposals(draw_key, fit.model, fit.params, rows, known)
    log_weights = np.where(known, draws.log_probs, 0.0).sum(axis=1)
    chosen = jg.samplers.categorical(pick_key, jnp.asarray(log_weights), shape=(1,))
    return np.asarray(draws.x)[int(chosen[0])]


@jax.jit
def _proposals(
    key: Key, model: jg.AutoregressiveModel, params: Params, rows: Array, known: Array
) -> jg.samplers.Draws:
    return jg.sample(key, model, params, observed=rows, is_observed=known)


def main(config: Config) -> dict[str, Metric]:
    """Read, fit, count nats, list the odd rows, fill in, draw."""
    kinds = dict(entry.rsplit("=", 1) for entry in config.kinds)
    table = wine() if config.csv is None else read_csv(config.csv, kinds)
    is_full = np.isfinite(table.x).all(axis=1)
    full = table.x[is_full]
    if len(full) < 50:
        raise TableError(f"50 rows without an empty cell are needed, got {len(full)}")
    run = harness.start(config, "table")
    order_key, fit_key, sample_key, fill_key = jax.random.split(jax.random.key(config.seed), 4)
    order = np.asarray(jax.random.permutation(order_key, len(full)))
    num_held = max(len(full) // 5, 10)
    test, valid, train_rows = np.split(full[order], [num_held, 2 * num_held])
    fit = train(fit_key, train_rows, valid, table, config)
    plain = independent(train_rows, table, config)
    log_prob = jax.jit(lambda model, params, x: model.log_prob(params, x))
    nats, alone = (-np.asarray(log_prob(*f, test), np.float64) for f in (fit, plain))
    metrics = {
        "chained/test_nats": harness.mean_metric(nats, "test"),
        "independent/test_nats": harness.mean_metric(alone, "test"),
        "saved_nats": harness.mean_metric(alone - nats, "test"),
        "chained/test_nats_per_column": harness.mean_metric(nats / full.shape[1], "test"),
    }
    everywhere = -np.asarray(log_prob(*fit, full), np.float64)
    print("The least likely rows:")
    for place in np.argsort(-everywhere)[:5]:
        line = table.lines[is_full][place]
        print(f"  line {line}, {everywhere[place]:.1f} nats: {_show(table, full[place])}")
    for i, place in enumerate(np.flatnonzero(~is_full)[:5]):
        filled = fill_in(jax.random.fold_in(fill_key, i), fit, table.x[place], config.num_fills)
        print(f"  line {table.lines[place]} filled in: {_show(table, filled)}")
    drawn = jax.jit(lambda key: jg.sample(key, *fit, len(full)).x)(sample_key)
    run.save_figure(draw(table, full, np.asarray(drawn)), "table.png")
    return run.finish(metrics)


def _show(table: Table, row: np.ndarray) -> str:
    cells = zip(table.columns, row, strict=True)
    return ", ".join(f"{column.name} {column.show(value)}" for column, value in cells)


def draw(table: Table, x: np.ndarray, drawn: np.ndarray) -> matplotlib.figure.Figure:
    """Pairs of the first columns of reals, data beside samples."""
    reals = [i for i, column in enumerate(table.columns) if column.labels is None]
    shown = (reals or list(range(len(table.columns))))[:_MOST_PAIRS]
    size = len(shown)
    figure, axes = plots.subplots(size, size, figsize=(2.2 * size, 2.2 * size), squeeze=False)
    for row, i in enumerate(shown):
        for column, j in enumerate(shown):
            axis = axes[row, column]
            for place, (name, points) in enumerate((("data", x), ("samples", drawn))):
                color = plots.COLORS[place]
                if i == j:
                    bins = np.linspace(x[:, i].min(), x[:, i].max(), 25)
                    axis.hist(points[:, i], bins, histtype="step", color=color, label=name)
                else:
                    axis.plot(points[:, j], points[:, i], ".", ms=2, color=color)
            low, high = np.quantile(x[:, j], [0.0, 1.0])
            axis.set_xlim(low, high)
            axis.tick_params(labelsize=6)
            if row == size - 1:
                axis.set_xlabel(table.columns[j].name, fontsize=7)
            if column == 0:
                axis.set_ylabel(table.columns[i].name, fontsize=7)
    axes[0, 0].legend(fontsize=6)
    return figure


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
