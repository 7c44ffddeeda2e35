"""Estimate densities of binary sets and hold them against the published numbers.

    python -m experiments.density_estimation --row binary/nltcs/committees

Each row is a set and a model, with a folder of its own under `runs/density_estimation/`; it takes
one to five minutes on two CPU cores, saves checkpoints, and goes on after an interruption. A model
is a mixture over orders of the coordinates; in each order, a committee of networks averages every
conditional. All numbers are log-likelihoods of a test example in nats (higher is better); whatever
is chosen, epochs included, is chosen on the validation split, and the test split is read once.

Expected: the table in docs/results.md, made by `python -m experiments._publish density_estimation`
from the folders of the rows.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._density_rows import BinaryRow, Recipe, order_of
from experiments._density_table import ROWS
from experiments._harness import Metric
from jaxgen.core import Array, Key, Params, check_count, check_one_of

NUM_VALIDATIONS = 25  # of a training, at most
EVALUATION_BATCH_SIZE = 500


@dataclasses.dataclass(frozen=True)
class Config:
    """Which row to run."""

    row: str = "binary/nltcs/committees"
    """The row: data and model, as in `experiments/_density_table.py`."""
    seed: int = 0
    """Seed of initial weights, batches and dropout."""
    run_dir: pathlib.Path | None = None
    """Folder of the run; None is `runs/density_estimation/ROW`. An unfinished run goes on."""
    is_smoke: bool = False
    """Use a few made-up examples, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_one_of("row", self.row, tuple(ROWS))
        check_count("seed", self.seed, minimum=0)
        if self.run_dir is None:
            folder = pathlib.Path("runs/density_estimation") / self.row.replace("/", "_")
            object.__setattr__(self, "run_dir", folder)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(row="binary/smoke", is_smoke=True)


def main(config: Config) -> dict[str, Metric]:
    """Run one row; see the module docstring."""
    run = harness.start(config, "density_estimation")
    row = ROWS[config.row]
    data = made_up_bits() if config.is_smoke else jg.data.binary(row.data)
    committees = [train_committee(run, row, data, number) for number in row.orders]
    metrics = evaluate(config.row, row, committees, data)
    metrics |= describe(run, row, committees)
    return run.finish(metrics)


def made_up_bits() -> jg.data.DataSet:
    """Make bits with no meaning, for the smoke form."""
    bits = np.random.default_rng(0).integers(0, 2, (3, 60, 6), np.uint8)
    train, valid, test = (jg.data.Split(x, None) for x in bits)
    return jg.data.DataSet("made_up", train, valid, test, num_symbols=2, example_shape=(6,))


def train_committee(
    run: harness.Run, row: BinaryRow, data: jg.data.DataSet, number: int
) -> tuple[jg.training.FitResult, ...]:
    """Fit every member in the order with this number, one after the other."""
    order = order_of(number, data.train.x.shape[1])
    train, valid = (split.x[:, order].astype(np.int32) for split in (data.train, data.valid))
    return tuple(
        train_member(run, recipe, train, valid, f"order_{number}_member_{index}", index)
        for index, recipe in enumerate(row.members)
    )


def train_member(
    run: harness.Run, recipe: Recipe, train: np.ndarray, valid: np.ndarray, stage: str, index: int
) -> jg.training.FitResult:
    """Fit one member with checkpoints under the run folder, a live bar and logged rows."""
    seed = 1000 * run.config.seed + index
    batch_size = min(recipe.batch_size, len(train))
    epoch = jg.training.steps_per_epoch(len(train), batch_size)
    num_steps = epoch * recipe.num_epochs
    nats = log_prob_fn(recipe.model)
    with harness.training_bar(run, stage, num_steps, steps_per_epoch=epoch) as report:
        return jg.fit(
            jax.random.key(seed),
            recipe.initial_params(seed, train),
            loss_fn(recipe.model),
            train,
            recipe.optimizer(num_steps),
            num_steps=num_steps,
            batch_size=batch_size,
            validate_fn=lambda params: -np.mean(nats(params, valid)),
            validate_every=-(-num_steps // NUM_VALIDATIONS),
            average_decay=recipe.average_decay,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints" / stage),
            report_fn=report,
        )


def loss_fn(model: jg.models.LinenAutoregressiveModel) -> Callable:
    """Maximum likelihood with dropout."""

    def loss(key: Key, params: Params, x: Array, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, x, dropout_key=key))

    return loss


def log_prob_fn(model: jg.AutoregressiveModel) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Exact log p(x), `(params, x [N, D]) -> nats [N]`, without dropout."""
    batch_log_prob = jax.jit(model.log_prob)

    def log_prob(params: Params, x: np.ndarray) -> np.ndarray:
        return jg.training.evaluate(
            lambda x: batch_log_prob(params, x.astype(np.int32)),
            x,
            batch_size=min(EVALUATION_BATCH_SIZE, len(x)),
        )

    return log_prob


def evaluate(
    name: str, row: BinaryRow, committees: list, data: jg.data.DataSet
) -> dict[str, Metric]:
    """The exact log-likelihood of the test split, and of the validation split beside it."""
    model = jg.models.Committee(tuple(recipe.model for recipe in row.members))
    log_prob = log_prob_fn(model)
    metrics = {}
    for split, x in (("test", data.test.x), ("valid", data.valid.x)):
        nats = [
            log_prob(tuple(member.params for member in members), x[:, order_of(n, x.shape[1])])
            for n, members in zip(row.orders, committees, strict=True)
        ]
        mixture = np.asarray(jg.log_mean_exp(jnp.stack(nats), axis=0))
        metrics[f"{name}/{split}_log_prob"] = harness.mean_metric(mixture, split)
    single = [-member.validation for members in committees for member in members]
    metrics[f"{name}/valid_log_prob_of_a_member"] = Metric(float(np.mean(single)), split="valid")
    return metrics


def describe(run: harness.Run, row: BinaryRow, committees: list) -> dict[str, Metric]:
    """What it took: members, their parameters and epochs, and minutes."""
    name = run.config.row
    fitted = [member for members in committees for member in members]
    stages = [f"order_{n}_member_{index}" for n in row.orders for index in range(len(row.members))]
    sizes = [leaf.size for member in fitted for leaf in jax.tree.leaves(member.params)]
    return {
        f"{name}/num_members": Metric(len(fitted)),
        f"{name}/num_params": Metric(sum(sizes)),
        f"{name}/epochs": Metric(sum(run.rows(stage)[-1]["epoch"] for stage in stages)),
        f"{name}/minutes": Metric(run.seconds / 60),
    }


if __name__ == "__main__":
    harness.run_experiment(Config, main)
