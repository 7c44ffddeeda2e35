"""The rows of `experiments.density_estimation` over real numbers: folds of tables, and patches."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxgen as jg
from experiments import _harness as harness
from experiments._density_rows import Recipe, order_of
from experiments._density_training import log_prob_fn, num_epochs, num_params, train_member
from experiments._harness import Metric
from jaxgen.data import Parts

NUM_FOLDS = 10


@dataclasses.dataclass(frozen=True)
class RealRow:
    """A line of the table over real numbers: a mixture of models, or one normal distribution."""

    data: str
    """`bsds300`, or a table, as `jg.data.uci` names it."""
    recipe: Recipe | None = None
    """The model; None is the normal distribution with the data's mean and covariance."""
    reference: str = ""
    """The published number and where it stands."""
    num_members: int = 1
    """Models in the mixture. In a table each validates on a part of its own, at most 9."""
    num_train: int = 1_000_000
    """Patches to train on."""


def run_real(run: harness.Run, row: RealRow) -> dict[str, Metric]:
    """Fit and judge every part of the data, and return the metrics."""
    name = run.config.row
    results = [
        run_part(run, row, f"part_{index}", members)
        for index, members in enumerate(parts_of(row, run.config.is_smoke))
    ]
    if len(results) == 1:
        nats = results[0][0]
        metrics = {f"{name}/test_log_prob": harness.mean_metric(nats, "test")}
    else:
        means = np.array([nats.mean() for nats, _ in results])
        num_rows = sum(len(nats) for nats, _ in results)
        error = float(means.std(ddof=1) / len(means) ** 0.5)
        metric = Metric(float(means.mean()), error, num_rows, f"test, {len(means)} folds")
        metrics = {f"{name}/test_log_prob": metric}
    fitted = [member for _, members in results for member in members]
    if fitted:
        valid = float(np.mean([-member.validation for member in fitted]))
        metrics[f"{name}/valid_log_prob_of_a_member"] = Metric(valid, split="valid")
    return metrics | describe(run, row, fitted, len(results))


def parts_of(row: RealRow, is_smoke: bool) -> Iterator[list[Parts]]:
    """Give for every fold the parts of each member, in the units the published numbers have.

    A table's columns are standardized by the training part of a fold, that for validation included.
    """
    if is_smoke:
        x = np.random.default_rng(0).normal(size=(3, 90, 3))
        yield [Parts(*x)]
    elif row.data == "bsds300":
        yield [jg.data.bsds300(num_train=row.num_train)]
    else:
        table = jg.data.uci(row.data)
        for index in range(NUM_FOLDS):
            yield [standardized_fold(table, index, m) for m in range(row.num_members)]


def standardized_fold(table: jg.data.Table, index: int, member: int) -> Parts:
    """Return a fold with the part for validation that a member has, standardized."""
    folds = [table.fold(k, num_folds=NUM_FOLDS) for k in range(NUM_FOLDS)]
    others = [folds[(index + 1 + k) % NUM_FOLDS].test for k in range(NUM_FOLDS - 1)]
    seen = np.concatenate(others)
    mean, scale = seen.mean(axis=0), seen.std(axis=0)
    valid = others.pop(member)
    parts = np.concatenate(others), valid, folds[index].test
    return Parts(*((x - mean) / scale for x in parts))


def run_part(
    run: harness.Run, row: RealRow, name: str, members: list[Parts]
) -> tuple[np.ndarray, list[jg.training.FitResult]]:
    """Return log p of the test part and the trainings of the members."""
    test = members[0].test
    if row.recipe is None:
        train, valid, _ = members[0]
        return normal_log_prob(np.concatenate([train, valid]), test), []
    log_prob = log_prob_fn(row.recipe.model)
    fitted, nats = [], []
    for index, parts in enumerate(members):
        # Columns in an order of its own for each member: so they err differently.
        order = order_of(index, parts.train.shape[1])
        train, valid, test = (x[:, order].astype(np.float32) for x in parts)
        stage = f"{name}_member_{index}"
        fitted.append(train_member(run, row.recipe, train, valid, stage, index))
        nats.append(log_prob(fitted[-1].params, test))
    return np.asarray(jg.log_mean_exp(jnp.stack(nats), axis=0), np.float64), fitted


def normal_log_prob(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Log-density of the normal distribution that maximizes the likelihood of `train`."""
    train = train.astype(np.float64)
    covariance = np.cov(train.T, bias=True)
    return scipy.stats.multivariate_normal(train.mean(axis=0), covariance).logpdf(test)


def describe(
    run: harness.Run, row: RealRow, fitted: list[jg.training.FitResult], num_parts: int
) -> dict[str, Metric]:
    """What it took: trained parameters of a fold, its epochs, and minutes over all folds."""
    name = run.config.row
    return {
        f"{name}/num_params": Metric(num_params(fitted) / num_parts),
        f"{name}/epochs": Metric(num_epochs(run) / num_parts),
        f"{name}/minutes": Metric(run.seconds / 60),
    }
