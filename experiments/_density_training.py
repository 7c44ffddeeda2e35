"""Common to the rows of `experiments.density_estimation`: training a member, and judging it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments._density_rows import Recipe
from jaxgen.core import Array, Key, Params

NUM_VALIDATIONS = 25  # of a training, at most
EVALUATION_BATCH_SIZE = 500


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
        return harness.fit(
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


def loss_fn(model: Any) -> Callable:
    """Maximum likelihood with dropout."""

    def loss(key: Key, params: Params, x: Array, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, x, dropout_key=key))

    return loss


def log_prob_fn(model: Any) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Exact log p(x), `(params, x [N, D]) -> nats [N]`, without dropout."""
    batch_log_prob = jax.jit(model.log_prob)

    def log_prob(params: Params, x: np.ndarray) -> np.ndarray:
        return harness.evaluate(
            lambda x: batch_log_prob(params, x),
            x,
            batch_size=min(EVALUATION_BATCH_SIZE, len(x)),
        )

    return log_prob


def num_params(fitted: Sequence[jg.training.FitResult]) -> int:
    """Return how many numbers all members hold."""
    return sum(leaf.size for member in fitted for leaf in jax.tree.leaves(member.params))


def num_epochs(run: harness.Run) -> float:
    """Return the epochs of all trainings of a run."""
    return sum({row["stage"]: row["epoch"] for row in run.all_rows if "epoch" in row}.values())
