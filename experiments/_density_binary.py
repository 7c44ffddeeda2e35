"""The rows of `experiments.density_estimation` over bits: mixtures over orders of committees."""

import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._density_rows import BinaryRow, order_of
from experiments._density_training import log_prob_fn, num_epochs, num_params, train_member
from experiments._harness import Metric


def run_binary(run: harness.Run, row: BinaryRow) -> dict[str, Metric]:
    """Fit and judge every committee, and return the metrics."""
    data = made_up_bits() if run.config.is_smoke else jg.data.binary(row.data)
    if row.is_order_agnostic:
        fitted = train_committee(run, row, data, 0)
        committees = [moved(fitted, number, data.train.x.shape[1]) for number in row.orders]
    else:
        committees = [train_committee(run, row, data, number) for number in row.orders]
        fitted = tuple(member for members in committees for member in members)
    metrics = evaluate(run.config.row, row, committees, data)
    return metrics | describe(run, fitted)


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


def moved(
    members: tuple[jg.training.FitResult, ...], number: int, num_dims: int
) -> tuple[jg.training.FitResult, ...]:
    """Return members that are trained for any order as a committee in the order with a number."""
    order = jnp.asarray(order_of(number, num_dims))
    return tuple(m._replace(params=jg.models.reordered(m.params, order)) for m in members)


def evaluate(
    name: str, row: BinaryRow, committees: list, data: jg.data.DataSet
) -> dict[str, Metric]:
    """The exact log-likelihood of the test split, and of the validation split beside it."""
    metrics = {
        f"{name}/{split}_log_prob": harness.mean_metric(log_prob(row, committees, x), split)
        for split, x in (("test", data.test.x), ("valid", data.valid.x))
    }
    single = [-member.validation for members in committees for member in members]
    metrics[f"{name}/valid_log_prob_of_a_member"] = Metric(float(np.mean(single)), split="valid")
    return metrics


def log_prob(row: BinaryRow, committees: list, x: np.ndarray) -> np.ndarray:
    """Exact log p(x) of the mixture over orders of committees, nats `[N]`."""
    committee_log_prob = log_prob_fn(jg.models.Committee(tuple(r.base for r in row.members)))
    nats = [
        committee_log_prob(
            tuple(member.params for member in members),
            x[:, order_of(number, x.shape[1])].astype(np.int32),
        )
        for number, members in zip(row.orders, committees, strict=True)
    ]
    return np.asarray(jg.log_mean_exp(jnp.stack(nats), axis=0))


def describe(run: harness.Run, fitted: tuple[jg.training.FitResult, ...]) -> dict[str, Metric]:
    """What it took: members, their parameters and epochs, and minutes."""
    name = run.config.row
    return {
        f"{name}/num_members": Metric(len(fitted)),
        f"{name}/num_params": Metric(num_params(fitted)),
        f"{name}/epochs": Metric(num_epochs(run)),
        f"{name}/minutes": Metric(run.seconds / 60),
    }
