"""Train VAEs and IWAEs on dynamically binarized MNIST and hold them against Burda et al. (2015).

    python -m experiments.iwae --row vae/1/k1

Each row of the table is one training with its own folder, under `runs/iwae/`; it takes between 5
minutes and 4 hours on one CPU core, saves checkpoints, and goes on after an interruption.
`--pretrained` evaluates the published weights instead, in some 3 minutes. `vae` maximizes the ELBO
from k samples, `iwae` the importance-weighted bound, `iwae_dreg` the same with doubly
reparameterized gradients; 1 or 2 is the number of stochastic layers. Rows with k = 50 start from
published weights of k = 5, `vae` with k = 5 from k = 1, and `iwae_dreg/1/k50` from `iwae/1/k50`;
epochs and minutes are those after. Where the bound weights 50 samples, its gradient goes through
one of them, resampled by weight (section 3 of the paper), which takes less than half the time. The
weight of the divergence rises over the first fifth of training in two layers from random weights,
so that more latents stay in use (Sønderby et al. 2016), and over the first quarter in `iwae/1/k50`,
where it wakes latents. `iwae_dreg/1/k50` is trained by SOAP (Vyas et al. 2024), all others by Adam.
`dynamic/deep_vae` is a deep hierarchical VAE (Child 2021), to be run with `--hold-out
--num-importance-samples 1000`.

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

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
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
from jaxgen.core import Array, Key, Params, check_count, check_multiple, check_one_of

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
    template = jax.jit(row.model.init)(
        jax.random.key(config.seed), np.zeros((1, NUM_DIMS), np.int32)
    )
    if config.pretrained:
        params, fitted = jg.training.load_weights(weights_file(config.row), template), None
    else:
        fitted = train(run, row, template, splits)
        params = as_stored(fitted.params)
        path = run.path / weights_file(config.row).name
        jg.training.save_weights(path, stored(params))
        run.note("weights", path)
    metrics = evaluate(run, row, params, splits.test)
    metrics |= describe(run, row, params, fitted)
    draw_figures(run, row, params, fitted, splits.test)
    return run.finish(metrics)


def weights_file(row: str) -> pathlib.Path:
    """Where the published weights of a row are."""
    return PRETRAINED / f"{row.replace('/', '_')}.safetensors"


def train(run: harness.Run, row: Row, params: Params, splits: Splits) -> jg.training.FitResult:
    """Fit the row with checkpoints, a live bar and logged rows."""
    config, num_train = run.config, len(splits.train["index"])
    batch_size = min(row.batch_size, num_train)
    epoch = jg.training.steps_per_epoch(num_train, batch_size)
    num_steps, validate_every = schedule(config, row, epoch)
    with harness.training_bar(
        run,
        "train",
        num_steps,
        description=config.row,
        steps_per_epoch=epoch,
        format_fn=harness.nats_and_bits(row.model.num_dims),
    ) as report:
        return harness.fit(
            jax.random.key(config.seed),
            initial_params(row, params, splits.train),
            loss_fn(row, num_steps),
            splits.train,
            row.optimizer(num_steps),
            num_steps=num_steps,
            batch_size=batch_size,
            validate_fn=validation_fn(row, splits.valid),
            validate_every=validate_every,
            average_decay=row.average_decay,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints"),
            report_fn=report,
        )


def schedule(config: Config, row: Row, epoch: int) -> tuple[int, int]:
    """Steps of training, `epoch` of them in an epoch, and those between validations."""
    num_epochs = config.num_epochs or row.num_epochs
    # With nothing held out it looks at the end alone, so the last parameters are those kept.
    num_validations = row.num_validations if config.hold_out else 1
    return epoch * num_epochs, epoch * math.ceil(num_epochs / num_validations)


def initial_params(row: Row, params: Params, train: dict[str, np.ndarray]) -> Params:
    """Another row's weights, or random ones with the output biases of the data, as in the paper."""
    if row.starts_from is not None:
        return jg.training.load_weights(weights_file(row.starts_from), params)
    bits = jax.jit(jg.data.binarize)(jax.random.key(0), train["gray"], train["index"])
    return jg.models.set_output_bias(row.model, params, np.asarray(bits))


def loss_fn(row: Row, num_steps: int) -> Callable:
    """Return the row's bound on the log-likelihood of fresh bits, negated."""

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        binarize_key, sample_key = jax.random.split(key)
        x = jg.data.binarize(binarize_key, batch["gray"], batch["index"])
        if row.free_bits is not None:
            bound = jg.elbo(sample_key, row.model, params, x, num_samples=row.num_samples)
            kl = jg.objectives.free_bits(bound.group_kl, row.free_bits)
            return row.beta(step, num_steps) * kl - jnp.mean(bound.log_likelihood)
        value = jg.objectives.multi_sample_bound(
            sample_key,
            row.bound_fn,
            row.model,
            params,
            x,
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

    @jax.jit
    def batch_nats(key: Key, params: Params, x: Array) -> Array:
        return -jg.iwae(key, row.model, params, x, num_samples=num_samples)

    def value(params: Params) -> float:
        nats = harness.evaluate(
            lambda key, x: batch_nats(key, params, x), x, batch_size=100, key=jax.random.key(1)
        )
        return float(nats.mean())

    return value


def num_validation_samples(row: Row) -> int:
    """As many as train, and by default 20 at least: a bound from many looks worse with fewer."""
    return max(row.num_validation_samples, row.num_samples)


def evaluate(run: harness.Run, row: Row, params: Params, x: np.ndarray) -> dict[str, Metric]:
    """The test split's nats by many importance weights, its ELBO, and the active units."""
    config, model = run.config, row.model

    @jax.jit
    def batch_bounds(key: Key, params: Params, x: Array) -> tuple[Array, Array, Array]:
        many, one = jax.random.split(key)
        samples = config.num_importance_samples
        log_prob = jg.objectives.importance_log_prob(
            many, model, params, x, num_samples=samples, chunk_size=CHUNK_SIZE
        )
        log_w = jg.objectives.log_weights(one, model, params, x, num_samples=CHUNK_SIZE)
        # The variance of the log of a mean of weights is what their sizes say, less 1 / K.
        effective = 1 / (log_prob.standard_error**2 * (samples - 1) / samples + 1 / samples)
        return log_prob.value, jg.objectives.elbo_bound(log_w), effective

    with harness.progress_bar("test", len(x)) as update:
        log_prob, elbo, effective = harness.evaluate(
            lambda key, x: batch_bounds(key, params, x),
            x,
            batch_size=POINTS,
            key=jax.random.key(config.seed + 1),
            report_fn=lambda num_done: update(num_done, ""),
            directory=run.path / "evaluation",
            depends_on=params,
        )
    return {
        f"{config.row}/test_nats": harness.mean_metric(-log_prob, "test"),
        f"{config.row}/test_elbo_nats": harness.mean_metric(-elbo, "test"),
        f"{config.row}/median_effective_samples": Metric(
            float(np.median(effective)), None, len(x), "test"
        ),
        **latents_in_use(config, model, params, x),
    }


def latents_in_use(
    config: Config, model: jg.LatentVariableModel, params: Params, x: np.ndarray
) -> dict[str, Metric]:
    """Active units of each group; of a deep model also its KL by resolution, from fewer images."""
    key, kl = jax.random.key(config.seed + 2), dict[str, np.ndarray]()
    if not isinstance(model, jg.DeepHierarchicalVAE):
        activity = jax.jit(jg.objectives.posterior_mean_variance)
        groups = jax.tree.leaves(jax.device_get(activity(key, model, params, x[:2000])))
        num_active = [np.sum(group > jg.objectives.ACTIVE) for group in groups]
    else:
        found = jax.device_get(jax.jit(jg.objectives.diagnose)(key, model, params, x[:100]))
        num_active = found.num_active
        for shape, nats in zip(model.group_shapes, found.group_kl, strict=True):
            name = f"{config.row}/kl_nats_{shape[0]}x{shape[1]}"
            kl[name] = kl.get(name, 0.0) + nats
    return {
        **{
            f"{config.row}/active_units_{layer}": Metric(int(number), split="test")
            for layer, number in enumerate(num_active, start=1)
        },
        **{name: harness.mean_metric(nats, "test") for name, nats in kl.items()},
    }


def describe(
    run: harness.Run, row: Row, params: Params, fitted: jg.training.FitResult | None
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


def of_top_groups(row: Row, params: Params, num_images: int = 16) -> list[tuple[str, np.ndarray]]:
    """Samples of a deep model whose finer groups stand at their mean, and none of another."""
    model = row.model
    if not isinstance(model, jg.DeepHierarchicalVAE):
        return []

    @functools.partial(jax.jit, static_argnums=1)
    def means(params: Params, num_groups: int) -> Array:
        z = model.prior(params).sample_top(jax.random.key(0), num_images, num_groups)
        return model.likelihood(params, z).mean()

    counts = sorted({1, len(model.group_shapes) // 2, len(model.group_shapes)})
    return [(f"top groups: {k}", np.asarray(means(params, k))) for k in counts]


def draw_figures(
    run: harness.Run, row: Row, params: Params, fitted: jg.training.FitResult | None, x: np.ndarray
) -> None:
    """Reconstructions and samples as pixel probabilities, and the learning curve."""
    model = row.model
    keys = jax.random.split(jax.random.key(run.config.seed + 3))

    @jax.jit
    def means(params: Params, x: Array) -> Array:
        z = model.posterior(params, x).sample(seed=keys[0])
        drawn = model.prior(params).sample(seed=keys[1], sample_shape=(32,))
        both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), z, drawn)
        return model.likelihood(params, both).mean()

    reconstructed, sampled = np.split(np.asarray(means(params, x[:16])), [16])
    images = [
        ("test images", x[:16]),
        ("reconstructed", reconstructed),
        ("samples", sampled[:16]),
        ("", sampled[16:]),
        *of_top_groups(row, params),
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
    harness.run_experiment(Config, main, trains=True)
