"""The rows of `experiments.density_estimation` over real numbers: folds of tables, and patches."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxgen as jg
from experiments import _harness as harness
from experiments._density_rows import Recipe, order_of
from experiments._density_training import log_prob_fn, num_epochs, num_params, train_member
from experiments._harness import Metric
from experiments._mnist import PRETRAINED, as_stored, stored
from jaxgen.data import Parts

NUM_FOLDS = 10
PATCHES = "bsds300"


@dataclasses.dataclass(frozen=True)
class RealRow:
    """A line of the table over real numbers: a mixture of models, or one normal distribution.

    A model of patches is judged with its parameters in half precision, as they are published.
    """

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
    published: str = ""
    """A row whose published model is looked at by eight views of a patch, instead of a training."""


def run_real(run: harness.Run, row: RealRow) -> dict[str, Metric]:
    """Fit and judge every part of the data, and return the metrics."""
    name = run.config.row
    if row.published and not run.config.is_smoke:
        return run_views(run, row)
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
    elif row.data == PATCHES:
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
        params = fitted[-1].params
        if row.data == PATCHES:
            params = as_stored(params)
            jg.save(run.path / f"{stage}.safetensors", row.recipe.model, stored(params))
        nats.append(log_prob(params, test))
    return np.asarray(jg.log_mean_exp(jnp.stack(nats), axis=0), np.float64), fitted


def run_views(run: harness.Run, row: RealRow) -> dict[str, Metric]:
    """Judge a published model of patches by the mixture of what it says of eight views."""
    name = run.config.row
    model, params = jg.load(PRETRAINED / f"{row.published.replace('/', '_')}.safetensors")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    log_prob = log_prob_fn(model)
    test = jg.data.bsds300(num_train=1, num_valid=1).test
    nats = np.stack([log_prob(params, view) for view in views(test)])
    mixture = np.asarray(jg.log_mean_exp(jnp.asarray(nats), axis=0), np.float64)
    return {
        f"{name}/test_log_prob": harness.mean_metric(mixture, "test"),
        f"{name}/num_params": Metric(sum(leaf.size for leaf in jax.tree.leaves(params))),
        f"{name}/epochs": Metric(0.0),
        f"{name}/minutes": Metric(run.seconds / 60),
    }


def views(x: np.ndarray) -> Iterator[np.ndarray]:
    """Give patches without their last pixel, `[N, 63]`, turned and reflected in all eight ways.

    Pixels change places, and the last, minus the sum of all others, is another then: a linear map
    of determinant 1 or -1, so that the density of each view is one of the patch.
    """
    side = math.isqrt(x.shape[1] + 1)
    squares = np.concatenate([x, -x.sum(axis=1, keepdims=True)], axis=1).reshape(-1, side, side)
    for square in (squares, squares.transpose(0, 2, 1)):
        for turns in range(4):
            view = np.rot90(square, turns, axes=(1, 2))
            yield view.reshape(len(x), -1)[:, :-1]


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
