"""Train autoregressive models on images and hold them against the published numbers.

    python -m experiments.autoregressive_images --row static/made

Each row of the table is one training with its own folder, under `runs/autoregressive_images/`; it
takes between 10 minutes and 2 hours on two CPU cores (the rows for a GPU, hours there), saves
checkpoints, and goes on after an interruption. `--pretrained` evaluates the published weights
instead, in about a minute. All nats are negative log-likelihoods of a test image (lower is better);
parameters are selected on the validation split alone, the last 10,000 training images.

`static` is MNIST in the fixed binarization of the papers, `dynamic` draws fresh bits from the gray
levels for every batch, and once for each validation and test image. `mnist`, `fashion_mnist` and
`cifar10` are of gray levels and colors, in bits a dimension; of CIFAR-10 the first two of five
batches, 20,000 images, the last 1,000 of them for validation. Expected: the table in the README,
made by `python -m experiments._publish autoregressive_images` from the folders of the rows.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._autoregressive_rows import ROWS, Row
from experiments._harness import Metric
from experiments._mnist import (
    NUM_DIMS,
    PRETRAINED,
    SHAPE,
    Splits,
    as_stored,
    dynamic_splits,
    made_up_images,
    stored,
)
from jaxgen.core import Array, Key, Params, check_count, check_one_of

SOURCES: dict[str, Callable[[], jg.data.DataSet]] = {
    "static": jg.data.binarized_mnist,
    "mnist": jg.data.mnist,
    "fashion_mnist": jg.data.fashion_mnist,
    "cifar10": functools.partial(jg.data.cifar10, 1_000, num_batches=2),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which row to run."""

    row: str = "static/made"
    """The row: data and model, as in `experiments/_autoregressive_rows.py`."""
    pretrained: bool = False
    """Evaluate the published weights; train nothing."""
    seed: int = 0
    """Seed of initial weights, batches, dropout, binarization and draws."""
    num_epochs: int | None = None
    """Epochs of training; None takes the row's own."""
    run_dir: pathlib.Path | None = None
    """Folder of the run; None is `runs/autoregressive_images/ROW`. An unfinished run goes on."""
    is_smoke: bool = False
    """Use a few made-up images and a few steps, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_one_of("row", self.row, tuple(ROWS))
        check_count("seed", self.seed, minimum=0)
        if self.num_epochs is not None:
            check_count("num_epochs", self.num_epochs)
        if self.run_dir is None:
            name = self.row.replace("/", "_") + ("_pretrained" if self.pretrained else "")
            folder = pathlib.Path("runs/autoregressive_images") / name
            object.__setattr__(self, "run_dir", folder)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(row="dynamic/made_smoke", num_epochs=2, is_smoke=True)


def main(config: Config) -> dict[str, Metric]:
    """Run one row; see the module docstring."""
    run = harness.start(config, "autoregressive_images")
    row = ROWS[config.row]
    splits = load(row.data, config)
    orders = member_orders(row)
    file = PRETRAINED / f"{config.row.replace('/', '_')}.safetensors"
    if config.pretrained:
        params = jg.training.load_weights(
            file, jax.eval_shape(lambda: initial_params(row, config.seed))
        )
        fitted = None
    else:
        fitted = train(run, row, splits, orders)
        params = as_stored(fitted.params)
        write_weights(run.path / file.name, row, params)
        run.note("weights", run.path / file.name)
    metrics = evaluate(run, row, log_prob_fn(row, orders), params, splits)
    metrics |= describe(run, config, params, fitted)
    draw_figures(run, row, orders, params, fitted, splits.test)
    return run.finish(metrics)


def write_weights(path: pathlib.Path, row: Row, params: Params) -> None:
    """Write weights in half precision: of one model as a bundle, which the command line opens."""
    if row.num_orders > 1:
        jg.training.save_weights(path, stored(params))
        return
    vocabulary: jg.data.Colors | jg.data.GrayLevels
    if row.data == "cifar10":
        assert isinstance(row.model, jg.GatedPixelCNN)
        height, width, _ = row.model.image_shape
        vocabulary = jg.data.Colors((height, width))
    else:
        vocabulary = jg.data.GrayLevels(SHAPE, row.model.num_symbols or 2)
    jg.save(path, row.model, stored(params), vocabulary=vocabulary, metadata={"data": row.data})


def load(kind: str, config: Config) -> Splits:
    """The symbols of a row: published ones, or bits drawn from gray levels by fixed keys."""
    if kind == "dynamic":
        return dynamic_splits(config.is_smoke)
    shape = getattr(ROWS[config.row].model, "image_shape", SHAPE)
    data = made_up_images(shape) if config.is_smoke else SOURCES[kind]()
    index = np.arange(len(data.train.x), dtype=np.int32)
    return Splits({"x": data.train.x, "index": index}, data.valid.x, data.test.x)


def member_orders(row: Row) -> np.ndarray | None:
    """The order of each member, int32 `[M, D]`; None for one model, in raster order.

    From each corner along rows, along columns, and along rows forth and back: twelve orders in
    which a pixel follows its neighbors, where a random one leaves its first hundreds without any.
    """
    if row.num_orders == 1:
        return None
    pixels = np.arange(NUM_DIMS, dtype=np.int32).reshape(SHAPE)
    corners = [pixels[::down, ::right] for down in (1, -1) for right in (1, -1)]
    scans = [scan for grid in corners for scan in (grid, grid.T, forth_and_back(grid))]
    return np.stack([scan.ravel() for scan in scans[: row.num_orders]])


def forth_and_back(grid: np.ndarray) -> np.ndarray:
    """The grid with every second row reversed."""
    return np.where(np.arange(len(grid))[:, None] % 2, grid[:, ::-1], grid)


def initial_params(row: Row, seed: int) -> Params:
    """Parameters before training; those of an ensemble are stacked along a first axis `[M]`."""
    key, x = jax.random.key(seed), np.zeros((1, row.model.num_dims), np.int32)
    if row.num_orders == 1:
        return jax.jit(row.model.init)(key, x)
    init = jax.jit(jax.vmap(row.model.init, (0, None)))
    return init(jax.random.split(key, row.num_orders), x)


def started_from_marginals(
    row: Row, params: Params, train: dict[str, np.ndarray], orders: np.ndarray | None
) -> Params:
    """Output biases from how often each pixel is on, for models with a bias to each pixel."""
    if not isinstance(row.model, (jg.MADE, jg.NADE)):
        return params
    x = (
        train["x"]
        if "x" in train
        else np.asarray(jax.jit(jg.data.binarize)(jax.random.key(0), train["gray"], train["index"]))
    )
    if orders is None:
        return jg.models.set_output_bias(row.model, params, x)
    params = jax.device_get(params)
    members = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(len(orders))]
    started = [
        jg.models.set_output_bias(row.model, member, x[:, order])
        for member, order in zip(members, orders, strict=True)
    ]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *started)


def loss_fn(row: Row, orders: np.ndarray | None) -> Callable:
    """Maximum likelihood of the batch's bits, with dropout; the mean over an ensemble's members."""

    def nats(key: Key, params: Params, x: Array) -> Array:
        return -jnp.mean(row.model.log_prob(params, x, dropout_key=key))

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        binarize_key, dropout_key = jax.random.split(key)
        x = (
            batch["x"]
            if "x" in batch
            else jg.data.binarize(binarize_key, batch["gray"], batch["index"])
        )
        x = x.astype(jnp.int32)
        if orders is None:
            return nats(dropout_key, params, x)
        # One member after the other: each is large enough to keep all cores at work.
        members = (jax.random.split(dropout_key, row.num_orders), params, orders)
        return jnp.mean(jax.lax.map(lambda m: nats(m[0], m[1], x[:, m[2]]), members))

    return loss


def log_prob_fn(row: Row, orders: np.ndarray | None) -> Callable[..., np.ndarray]:
    """Exact log p(x), `(params, x [N, D]) -> nats [N]`; of an ensemble, that of the mean of p.

    With `directory=` what is cut off goes on there.
    """

    @jax.jit
    def batch_log_prob(params: Params, x: Array) -> Array:
        if orders is None:
            return row.model.log_prob(params, x)
        return jg.models.order_ensemble_log_prob(row.model, params, x, orders)

    def log_prob(
        params: Params, x: np.ndarray, directory: pathlib.Path | None = None
    ) -> np.ndarray:
        return harness.evaluate(
            lambda x: batch_log_prob(params, x.astype(np.int32)),
            x,
            batch_size=row.evaluation_batch_size,
            directory=directory,
            depends_on=params,
        )

    return log_prob


def train(
    run: harness.Run, row: Row, splits: Splits, orders: np.ndarray | None
) -> jg.training.FitResult:
    """Fit the row with checkpoints under the run folder, a live bar and logged rows."""
    config = run.config
    num_train = len(splits.train["index"])
    batch_size = min(row.batch_size, num_train)
    epoch = jg.training.steps_per_epoch(num_train, batch_size)
    num_steps = epoch * (config.num_epochs or row.num_epochs)
    log_prob = log_prob_fn(row, orders)
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
            started_from_marginals(row, initial_params(row, config.seed), splits.train, orders),
            loss_fn(row, orders),
            splits.train,
            row.optimizer(num_steps),
            num_steps=num_steps,
            batch_size=batch_size,
            validate_fn=lambda params: -np.mean(log_prob(params, splits.valid)),
            validate_every=epoch,
            average_decay=row.average_decay,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints"),
            report_fn=report,
        )


def evaluate(
    run: harness.Run, row: Row, log_prob: Callable, params: Params, splits: Splits
) -> dict[str, Metric]:
    """The exact log-likelihood of the test split, and of the validation split beside it."""
    metrics, name = {}, run.config.row
    for split in ("test", "valid"):
        nats = -log_prob(params, getattr(splits, split), run.path / "evaluation" / split)
        if row.model.num_symbols == 2:
            metrics[f"{name}/{split}_nats"] = harness.mean_metric(nats, split)
        bits = jg.objectives.bits_per_dim(-nats, row.model.num_dims)
        metrics[f"{name}/{split}_bits_per_dim"] = harness.mean_metric(bits, split)
    return metrics


def describe(
    run: harness.Run, config: Config, params: Params, fitted: jg.training.FitResult | None
) -> dict[str, Metric]:
    """What it took: parameters, epochs and minutes."""
    metrics = {f"{config.row}/num_params": Metric(sum(p.size for p in jax.tree.leaves(params)))}
    rows = run.rows("train")
    if fitted is not None:
        metrics[f"{config.row}/epochs"] = Metric(rows[-1]["epoch"])
        metrics[f"{config.row}/minutes"] = Metric(rows[-1]["seconds"] / 60)
    return metrics


def draw_figures(
    run: harness.Run,
    row: Row,
    orders: np.ndarray | None,
    params: Params,
    fitted: jg.training.FitResult | None,
    x: np.ndarray,
) -> None:
    """Samples beside test images, and the learning curve."""
    shape = getattr(row.model, "image_shape", SHAPE)
    draw = jax.jit(functools.partial(jg.sample, num_samples=32))
    key = jax.random.key(run.config.seed + 2)
    if orders is None:
        drawn = np.asarray(draw(key, row.model, params).x)
    else:  # a sample of the ensemble is one of a member drawn at random; here, of the first
        member = jax.tree.map(lambda leaf: leaf[0], params)
        drawn = np.asarray(draw(key, row.model, member).x)[:, np.argsort(orders[0])]
    images = [("test images", x[:16]), ("", x[16:32]), ("samples", drawn[:16]), ("", drawn[16:])]
    run.save_figure(
        plots.image_rows(images, shape, (row.model.num_symbols or 2) - 1, run.config.row),
        "samples.png",
    )
    if fitted is not None:
        curves = {run.config.row: (run.rows("train"), fitted.best_step)}
        run.save_figure(plots.learning_curves(curves, "nats per image"), "curve.png")


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
