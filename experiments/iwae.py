"""Train VAEs and IWAEs on dynamically binarized MNIST and hold them against Burda et al. (2015).

    python -m experiments.iwae --row vae/1/k1

Each row of the table is one training with its own folder, under `runs/iwae/`; it takes between 5
minutes and 4 hours on one CPU core, saves checkpoints, and goes on after an interruption.
`--pretrained` evaluates the published weights instead, in some 3 minutes. `vae` maximises the ELBO
from k samples, `iwae` the importance-weighted bound, `iwae_dreg` the same with doubly
reparameterised gradients; 1 or 2 is the number of stochastic layers. Rows with k = 50 start from
published weights of k = 5, `vae` with k = 5 from k = 1, and `iwae_dreg/1/k50` from `iwae/1/k50`;
epochs and minutes are those after. Where the bound weights 50 samples, its gradient goes through
one of them, resampled by weight (section 3 of the paper), which takes less than half the time. The
weight of the divergence rises over the first fifth of training in two layers from random weights,
so that more latents stay in use (Sønderby et al. 2016), and over the first quarter in `iwae/1/k50`,
where it wakes latents. `iwae_dreg/1/k50` is trained by SOAP (Vyas et al. 2024), all others by Adam.

All nats are negative log-likelihoods of a test image (lower is better), from 5,000 importance
samples. Bits are drawn anew for every batch, and once for each validation and test image. As in the
paper, all 60,000 images are trained on and the last parameters are kept; `--hold-out` keeps the
last 10,000 images for validation and the parameters that are best there, so that schedules can be
compared without the test images. Expected: the table in `docs/results.md`, made by `python -m
experiments._publish iwae` from the folders of the rows.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _harness as harness
from experiments._harness import Metric
from experiments._iwae_rows import ROWS, Row
from experiments._mnist import (
    NUM_DIMS,
    PRETRAINED,
    SHAPE,
    Splits,
    as_stored,
    dynamic_splits,
    stored,
)
from jaxgen import plots
from jaxgen.core.checks import check_count, check_multiple, check_one_of
from jaxgen.core.types import Array, Key, Params
from jaxgen.data.batches import evaluation_batches, stacked_batch_indices, steps_per_epoch
from jaxgen.data.binarization import binarize
from jaxgen.models import contracts
from jaxgen.models.layers.observations import set_output_bias
from jaxgen.objectives.diagnostics import ACTIVE, posterior_mean_variance
from jaxgen.objectives.multi_sample import (
    bound,
    elbo_bound,
    estimate_log_prob,
    iwae_bound,
    log_weights,
)
from jaxgen.training import weights
from jaxgen.training.checkpoint import Checkpointer
from jaxgen.training.loop import FitResult, Schedule, fit

NUM_VALIDATIONS = 50
POINTS, CHUNK_SIZE = 20, 50  # what stays in cache when weights are drawn


@dataclasses.dataclass(frozen=True)
class Config:
    """Which row to run."""

    row: str = "vae/1/k1"
    """The row: model, bound and samples, as in `experiments/_iwae_rows.py`."""
    pretrained: bool = False
    """Evaluate the published weights; train nothing."""
    seed: int = 0
    """Seed of initial weights, batches, binarization and draws."""
    num_epochs: int | None = None
    """Epochs of training; None takes the row's own."""
    hold_out: bool = False
    """Keep 10,000 training images to validate by, and the parameters that are best there.

    Published weights, which some rows start from, have been trained on them.
    """
    num_importance_samples: int = 5000
    """Posterior samples for each test image, a multiple of 50."""
    run_dir: pathlib.Path | None = None
    """Folder of the run; None is `runs/iwae/ROW`. An unfinished run goes on."""
    is_smoke: bool = False
    """Use a few made-up images and a few steps, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before hours of work are done."""
        check_one_of("row", self.row, tuple(ROWS))
        check_count("seed", self.seed, minimum=0)
        check_multiple("num_importance_samples", self.num_importance_samples, CHUNK_SIZE)
        if self.num_epochs is not None:
            check_count("num_epochs", self.num_epochs)
        if self.run_dir is None:
            name = self.row.replace("/", "_") + ("_pretrained" if self.pretrained else "")
            object.__setattr__(self, "run_dir", pathlib.Path("runs/iwae") / name)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(row="iwae/2/smoke", num_epochs=2, num_importance_samples=50, is_smoke=True)


def main(config: Config) -> dict[str, Metric]:
    """Run one row; see the module docstring."""
    run = harness.start(config, "iwae")
    row = ROWS[config.row]
    splits = dynamic_splits(config.is_smoke, trains_on_valid=not config.hold_out)
    template = row.module.init(jax.random.key(config.seed), jnp.zeros((1, NUM_DIMS), jnp.int32))
    if config.pretrained:
        params, fitted = weights.load(weights_file(config.row), template), None
    else:
        fitted = train(run, row, template, splits)
        params = as_stored(fitted.params)
        path = run.path / weights_file(config.row).name
        weights.save(path, stored(params))
        run.note("weights", path)
    metrics = evaluate(config, row, params, splits.test)
    metrics |= describe(run, row, params, fitted)
    draw_figures(run, row, params, fitted, splits.test)
    return run.finish(metrics)


def weights_file(row: str) -> pathlib.Path:
    """Where the published weights of a row are."""
    return PRETRAINED / f"{row.replace('/', '_')}.safetensors"


def train(run: harness.Run, row: Row, params: Params, splits: Splits) -> FitResult:
    """Fit the row, an epoch a dispatch, with checkpoints, a live bar and logged rows."""
    config, num_train = run.config, len(splits.train["index"])
    batch_size = min(row.batch_size, num_train)
    epoch = steps_per_epoch(num_train, batch_size)
    schedule = schedule_of(config, row, epoch)
    with harness.training_bar(
        run, "train", schedule.num_steps, description=config.row, steps_per_epoch=epoch
    ) as report:
        return fit(
            jax.random.key(config.seed),
            initial_params(row, params, splits.train),
            splits.train,
            loss_fn(row, schedule.num_steps),
            row.optimizer(schedule.num_steps),
            schedule,
            indices_fn=functools.partial(stacked_batch_indices, num_train, batch_size, config.seed),
            validate_fn=validation_fn(row, splits.valid),
            average_decay=row.average_decay,
            checkpointer=Checkpointer(run.path / "checkpoints"),
            report_fn=report,
        )


def schedule_of(config: Config, row: Row, epoch: int) -> Schedule:
    """The steps of training, `epoch` to a dispatch, and when validation looks."""
    num_epochs = config.num_epochs or row.num_epochs
    # With nothing held out it looks at the end alone, so the last parameters are those kept.
    num_validations = NUM_VALIDATIONS if config.hold_out else 1
    return Schedule(
        epoch * num_epochs,
        validate_every=epoch * math.ceil(num_epochs / num_validations),
        steps_per_dispatch=epoch,
    )


def initial_params(row: Row, params: Params, train: dict[str, np.ndarray]) -> Params:
    """Another row's weights, or random ones with the output biases of the data, as in the paper."""
    if row.starts_from is not None:
        return weights.load(weights_file(row.starts_from), params)
    bits = binarize(jax.random.key(0), jnp.asarray(train["grey"]), jnp.asarray(train["index"]))
    return set_output_bias(params, row.module, np.asarray(bits))


def loss_fn(row: Row, num_steps: int) -> Callable:
    """The row's bound on the log-likelihood of fresh bits, negated."""
    model = contracts.latent_variable(row.module)

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        binarize_key, sample_key = jax.random.split(key)
        x = binarize(binarize_key, batch["grey"], batch["index"])
        value = bound(
            sample_key,
            params,
            model,
            x,
            row.bound_fn,
            num_samples=row.num_samples,
            gradient=row.gradient,
            beta=row.beta(step, num_steps),
            resample=row.resample,
        )
        return -jnp.mean(value)

    return loss


def validation_fn(row: Row, x: np.ndarray) -> Callable[[Params], float]:
    """Mean nats of the validation split by a bound from many weights, always the same draws."""
    num_samples = num_validation_samples(row)
    model = contracts.latent_variable(row.module)
    batches = evaluation_batches(len(x), min(100, len(x)))

    @jax.jit
    def batch_nats(params: Params, index: Array, x: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(1), index)
        return -iwae_bound(log_weights(key, params, model, x, num_samples))

    def value(params: Params) -> float:
        parts = [batch_nats(params, i, x[rows]) for i, rows in enumerate(batches.indices)]
        return float(np.average(np.stack(parts), weights=batches.weights))

    return value


def num_validation_samples(row: Row) -> int:
    """As many as train, and at least 20: with fewer, a bound from many looks worse than it is."""
    return max(20, row.num_samples)


def evaluate(config: Config, row: Row, params: Params, x: np.ndarray) -> dict[str, Metric]:
    """The test split's nats by many importance weights, its ELBO, and the active units."""
    model = contracts.latent_variable(row.module)
    batches = evaluation_batches(len(x), POINTS)

    @jax.jit
    def batch_bounds(key: Key, params: Params, x: Array) -> tuple[Array, Array]:
        many, one = jax.random.split(key)
        samples = config.num_importance_samples
        log_prob = estimate_log_prob(
            many, params, model, x, num_samples=samples, chunk_size=CHUNK_SIZE
        )
        return log_prob.value, elbo_bound(log_weights(one, params, model, x, CHUNK_SIZE))

    parts = []
    with harness.progress_bar("test", len(batches.indices)) as update:
        for i, rows in enumerate(batches.indices):
            key = jax.random.fold_in(jax.random.key(config.seed + 1), i)
            parts.append(np.stack(batch_bounds(key, params, x[rows])))
            update(i + 1, f"{-np.mean([part[0].mean() for part in parts]):.2f} nats")
    log_prob, elbo = np.concatenate(parts, axis=1)[:, : len(x)]
    activity = jax.jit(lambda key, x: posterior_mean_variance(key, params, model, x))
    variances = activity(jax.random.key(config.seed + 2), jnp.asarray(x[:2000]))
    groups = jax.tree.leaves(variances)
    return {
        f"{config.row}/test_nats": harness.mean_metric(-log_prob, "test"),
        f"{config.row}/test_elbo_nats": harness.mean_metric(-elbo, "test"),
        **{
            f"{config.row}/active_units_{layer}": Metric(int(np.sum(group > ACTIVE)), split="test")
            for layer, group in enumerate(groups, start=1)
        },
    }


def describe(
    run: harness.Run, row: Row, params: Params, fitted: FitResult | None
) -> dict[str, Metric]:
    """What it took: parameters, epochs and minutes, and the nats of the last training images."""
    name = run.config.row
    metrics = {f"{name}/num_params": Metric(sum(p.size for p in jax.tree.leaves(params)))}
    rows = run.rows("train")
    if fitted is not None:
        metrics[f"{name}/epochs"] = Metric(rows[-1]["epoch"])
        metrics[f"{name}/minutes"] = Metric(rows[-1]["seconds"] / 60)
        split = "valid" if run.config.hold_out else "train"
        metrics[f"{name}/{split}_nats_{num_validation_samples(row)}_samples"] = Metric(
            fitted.validation, split=split
        )
    return metrics


def draw_figures(
    run: harness.Run, row: Row, params: Params, fitted: FitResult | None, x: np.ndarray
) -> None:
    """Reconstructions and samples as pixel probabilities, and the learning curve."""
    model = contracts.latent_variable(row.module)
    keys = jax.random.split(jax.random.key(run.config.seed + 3))

    def means(z: Array) -> np.ndarray:
        return np.asarray(model.likelihood(params, z).mean())

    shown = jnp.asarray(x[:16])
    reconstructed = means(model.posterior(params, shown).sample(seed=keys[0]))
    sampled = means(model.prior(params).sample(seed=keys[1], sample_shape=(32,)))
    images = [
        ("test images", x[:16]),
        ("reconstructed", reconstructed),
        ("samples", sampled[:16]),
        ("", sampled[16:]),
    ]
    run.save_figure(plots.image_rows(images, SHAPE, 1, run.config.row), "samples.png")
    if fitted is not None:
        rows = run.rows("train")
        risen = row.warm_up * rows[-1]["step"]
        rows = [r for r in rows if r["step"] >= risen]  # before, the loss is not a bound
        if not run.config.hold_out:  # what validates has been trained on, and is one point
            rows = [{k: v for k, v in r.items() if k != "validation"} for r in rows]
        curves = {run.config.row: (rows, fitted.best_step)}
        run.save_figure(plots.learning_curves(curves, "nats per image"), "curve.png")


if __name__ == "__main__":
    harness.run_experiment(Config, main)
