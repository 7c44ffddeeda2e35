"""A table of one's own: what its columns tell of each other, odd rows, and missing cells.

    python -m experiments.table --csv FILE

About two minutes on two CPU cores. Reads a CSV file whose first line names the columns, takes each
for categories, levels, reals or positive reals by what its cells look like (`--kinds` overrules),
and fits one density of rows, with a mixture or an energy for each real cell: the chain rule where
every cell is known, one network for all orders where some are empty. It trains on rows with empty
cells too, on what is known of them. Says what a row and a column cost in nats beside independent
columns, lists the likeliest errors among the rows, draws pairs of columns beside samples, and fills
in the empty cells given all known ones of their row, before and behind: `filled.csv` in the run's
folder has medians of the draws, and the commonest symbols. That is right where cells are missing
completely at random. Without a file it takes scikit-learn's wines. Expected there: a held-out row
costs about 3 nats less than its columns one by one.
"""

import csv
import dataclasses
import pathlib

import jax
import matplotlib.figure
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments import _table_model as table_model
from experiments._harness import Metric
from experiments._table_columns import KINDS, Table, read_csv, wine
from experiments._table_model import Fills, Fit, Rows
from jaxgen.core import Key, check_count

_MOST_PAIRS, _MOST_SHOWN = 4, 5


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
    """Kinds of columns, as NAME=KIND, of category, level, real, positive, nonnegative,
    degrees or radians; the last three are taken where told alone."""
    num_components: int = 5
    """Bumps in the mixture of a real cell; 0 takes energies instead."""
    hidden_size: int = 64
    """Units in each of the two hidden layers."""
    num_steps: int = 3000
    """Training steps at most."""
    num_fills: int = 100
    """Draws of every empty cell, which are summed up."""

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


def main(config: Config) -> dict[str, Metric]:
    """Read, fit, count nats, list the odd rows, fill in, draw."""
    kinds = dict(entry.rsplit("=", 1) for entry in config.kinds)
    table = wine() if config.csv is None else read_csv(config.csv, kinds)
    run = harness.start(config, "table")
    order_key, fit_key, sample_key, fill_key = jax.random.split(jax.random.key(config.seed), 4)
    columns = jg.models.Mixed(tuple(c.conditional(config.num_components) for c in table.columns))
    rows = table_model.rows_of(table.x, columns)
    order = np.asarray(jax.random.permutation(order_key, len(table.x)))
    num_held = max(len(order) // 5, 10)
    test, valid, seen = (rows.at(part) for part in np.split(order, [num_held, 2 * num_held]))
    sizes = {"hidden_size": config.hidden_size, "num_steps": config.num_steps}
    fit = table_model.train(fit_key, seen, valid, columns, **sizes)
    plain = table_model.independent(seen, columns, num_steps=min(config.num_steps, 300))
    metrics = compare(table, fit, plain, test)
    _print_odd_rows(table, fit, plain, rows)
    if not rows.is_observed.all():
        _fill_in(fill_key, run, table, fit, rows, config.num_fills)
    drawn = jax.jit(lambda key: jg.sample(key, *fit, len(order)).x)(sample_key)
    run.save_figure(draw(table, np.asarray(drawn)), "table.png")
    return run.finish(metrics)


def compare(table: Table, fit: Fit, plain: Fit, test: Rows) -> dict[str, Metric]:
    """Say what held-out rows and columns cost by both models; return what rows do."""
    log_prob, cells = jax.jit(table_model.log_prob), jax.jit(table_model.cell_log_probs)
    nats, alone = (-np.asarray(log_prob(f, test), np.float64) for f in (fit, plain))
    counts = test.is_observed.sum(axis=0)
    own, given = (-np.asarray(cells(f, test)).sum(axis=0) / counts for f in (plain, fit))
    others = "those before" if isinstance(fit.model, jg.MADE) else "all others"
    print(f"Nats of a held-out cell by itself, and given {others}:")
    for i, column in enumerate(table.columns):
        empty = np.isnan(table.x[:, i]).sum()
        note = f", {empty} empty" if empty else ""
        print(f"  {column.name} ({column.kind}{note}): {own[i]:.2f}, {given[i]:.2f}")
    return {
        "chained/test_nats": harness.mean_metric(nats, "test"),
        "independent/test_nats": harness.mean_metric(alone, "test"),
        "saved_nats": harness.mean_metric(alone - nats, "test"),
        "chained/test_nats_per_column": Metric(nats.sum() / counts.sum(), None, len(nats), "test"),
    }


def _print_odd_rows(table: Table, fit: Fit, plain: Fit, rows: Rows) -> None:
    """List the rows that cost most beyond what cells of their columns cost by themselves."""
    cells = -np.asarray(jax.jit(table_model.cell_log_probs)(plain, rows), np.float64)
    usual = cells.sum(axis=0) / rows.is_observed.sum(axis=0)
    nats = -np.asarray(jax.jit(table_model.log_prob)(fit, rows), np.float64)
    excess = nats - rows.is_observed @ usual
    print("The least likely rows, for the cells that they have:")
    for place in np.argsort(-excess)[:_MOST_SHOWN]:
        print(f"  line {table.lines[place]}, {nats[place]:.1f} nats: {_show(table, place)}")


def _show(table: Table, place: int) -> str:
    cells = zip(table.columns, table.x[place], strict=True)
    return ", ".join(
        f"{column.name} {'empty' if np.isnan(value) else column.show(value)}"
        for column, value in cells
    )


def _fill_in(
    key: Key, run: harness.Run, table: Table, fit: Fit, rows: Rows, num_draws: int
) -> None:
    """Fill in every empty cell, show some, and write the file without any."""
    places = np.flatnonzero(~rows.is_observed.all(axis=1))
    fills = table_model.fill_in(key, fit, rows.at(places), table.columns, num_draws)
    for i, place in enumerate(places[:_MOST_SHOWN]):
        empty = np.flatnonzero(~rows.is_observed[place])
        shown = (_show_fill(table, fills, i, int(j)) for j in empty)
        print(f"  line {table.lines[place]} filled in: {'; '.join(shown)}")
    cells = [list(row) for row in table.cells]
    for i, place in enumerate(places):
        for j in np.flatnonzero(~rows.is_observed[place]):
            cells[place][j] = table.columns[j].show(fills.best[i, j])
    path = run.path / "filled.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([column.name for column in table.columns])
        writer.writerows(cells)
    run.note("table without empty cells", path)


def _show_fill(table: Table, fills: Fills, i: int, j: int) -> str:
    column = table.columns[j]
    best, low, high = (column.show(part[i, j]) for part in fills)
    return f"{column.name} {best}" + ("" if column.labels else f" ({low} to {high})")


def draw(table: Table, drawn: np.ndarray) -> matplotlib.figure.Figure:
    """Pairs of the first columns of reals, data beside samples."""
    reals = [i for i, column in enumerate(table.columns) if column.labels is None]
    shown = (reals or list(range(len(table.columns))))[:_MOST_PAIRS]
    size = len(shown)
    figure, axes = plots.subplots(size, size, figsize=(2.2 * size, 2.2 * size), squeeze=False)
    for row, i in enumerate(shown):
        for column, j in enumerate(shown):
            axis = axes[row, column]
            low, high = np.nanmin(table.x[:, j]), np.nanmax(table.x[:, j])
            for place, (name, points) in enumerate((("data", table.x), ("samples", drawn))):
                color = plots.COLORS[place]
                if i == j:
                    bins = np.linspace(low, high, 25)
                    axis.hist(
                        points[:, i], bins, density=True, histtype="step", color=color, label=name
                    )
                else:
                    axis.plot(points[:, j], points[:, i], ".", ms=2, color=color)
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
