"""Fit, sample, fill in, criticize and losslessly compress real digits with a MADE and a VAE.

    python -m experiments.digits

About 1 minute on two CPU cores. The data are scikit-learn's 8×8 digits of 17 gray levels, which
need no download, split once into 1,257 / 180 / 360. All nats are negative log-likelihoods of a test
image (lower is better). Expected: MADE and the VAE, by importance sampling, far below independent
pixels and close to each other; the test split as a file that is hardly longer than MADE claims for
it, and much shorter than xz makes it; a criticism that finds what a single hidden layer leaves
undone: pairs of neighboring pixels.
"""

import bz2
import dataclasses
import functools
import json
import lzma
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _criticism
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._compilation_cache import keep_compiled_programs
from experiments._harness import Metric
from jaxgen.core import (
    AutoregressiveModel,
    Key,
    LatentVariableModel,
    Params,
    check_count,
    check_in_range,
)

NUM_DIMS, NUM_SYMBOLS, SHAPE = 64, 17, (8, 8)


class Stage(NamedTuple):
    """One of the two trainings."""

    name: str
    params: Params
    num_steps: int
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published table."""

    seed: int = 0
    """Seed of initial weights, batches, dropout and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/digits")
    """Folder of the run; an unfinished run with the same settings is continued there."""
    made_hidden: int = 500
    """Units of MADE's hidden layer."""
    made_weight_decay: float = 2.0
    """Decoupled weight decay of MADE."""
    made_steps: int = 3000
    """Training steps of MADE at most."""
    vae_hidden: int = 400
    """Units of each of the VAE's hidden layers."""
    vae_latents: int = 24
    """Size of the VAE's latent variable."""
    vae_weight_decay: float = 1.0
    """Decoupled weight decay of the VAE."""
    vae_steps: int = 3000
    """Training steps of the VAE at most."""
    dropout_rate: float = 0.5
    """Share of MADE's hidden units dropped in training."""
    batch_size: int = 100
    """Images in a training step."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    patience: int = 8
    """Validations, 100 steps apart, without improvement after which training stops."""
    num_importance_samples: int = 1000
    """Posterior samples for each test image in the VAE's importance bound."""
    num_samples: int = 1000
    """Draws of MADE that are held beside the test images."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("seed", self.seed, minimum=0)
        for name in ("made_hidden", "made_steps", "vae_hidden", "vae_latents", "vae_steps"):
            check_count(name, getattr(self, name))
        check_count("patience", self.patience)
        check_count("num_importance_samples", self.num_importance_samples, minimum=2)
        check_count("num_samples", self.num_samples, minimum=10)
        check_count("batch_size", self.batch_size)
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        check_in_range("learning_rate", self.learning_rate, 0.0, 1.0, open_lower=True)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(
            made_hidden=20,
            made_steps=200,
            vae_hidden=20,
            vae_latents=2,
            vae_steps=200,
            batch_size=20,
            num_importance_samples=20,
            num_samples=50,
        )


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "digits")
    data = jg.data.digits()
    made, vae = build_made(config), build_vae(config)
    init_key, x = jax.random.key(config.seed), data.train.x
    # A pixel that is off in every image is so from the first step. The VAE does better without.
    made_start = jg.models.set_output_bias(made, jax.jit(made.init)(init_key, x[:1]), x)
    made_fit = train(
        run,
        Stage("made", made_start, config.made_steps, config.made_weight_decay),
        made_loss(made),
        made_validation(made, data.valid.x),
    )
    vae_fit = train(
        run,
        Stage("vae", jax.jit(vae.init)(init_key, x[:1]), config.vae_steps, config.vae_weight_decay),
        vae_loss(vae),
        vae_validation(vae, data.valid.x),
    )
    metrics = {
        **baselines(data),
        **evaluate_made(made, made_fit.params, data.test.x),
        **evaluate_vae(vae, vae_fit.params, data.test.x, config),
        **compress(run, made, made_fit.params, data.test.x),
        **criticize(run, made, made_fit.params, data),
    }
    draw_figures(run, (made, vae), made_fit, vae_fit, data.test.x)
    return run.finish(metrics)


def build_made(config: Config) -> jg.MADE:
    """The autoregressive model of the run."""
    return jg.MADE(NUM_DIMS, NUM_SYMBOLS, (config.made_hidden,), config.dropout_rate)


def build_vae(config: Config) -> jg.VAE:
    """Build the latent-variable model of the run."""
    return jg.VAE(NUM_DIMS, NUM_SYMBOLS, config.vae_latents, (config.vae_hidden, config.vae_hidden))


def made_loss(made: jg.MADE) -> Callable:
    """Maximum likelihood, with dropout."""

    def loss(key: Key, params: Params, batch: dict, step: jax.Array) -> jax.Array:
        return -jnp.mean(made.log_prob(params, batch["x"], dropout_key=key))

    return loss


def made_validation(made: jg.MADE, x: np.ndarray) -> Callable[[Params], float]:
    """Mean nats of the validation split."""
    value = jax.jit(lambda params: -jnp.mean(made.log_prob(params, x)))
    return lambda params: float(value(params))


def vae_loss(vae: jg.VAE) -> Callable:
    """Return the negative ELBO, one posterior sample an image."""

    def loss(key: Key, params: Params, batch: dict, step: jax.Array) -> jax.Array:
        return -jnp.mean(jg.elbo(key, vae, params, batch["x"]).value)

    return loss


def vae_validation(vae: jg.VAE, x: np.ndarray) -> Callable[[Params], float]:
    """Return the mean negative ELBO of the validation split, always from the same samples."""

    @jax.jit
    def value(params: Params) -> jax.Array:
        bound = jg.elbo(jax.random.key(1), vae, params, jnp.asarray(x), num_samples=20)
        return jnp.mean(bound.value)

    return lambda params: -float(value(params))


def train(
    run: harness.Run, stage: Stage, loss: Callable, validate: Callable
) -> jg.training.FitResult:
    """Fit one model with checkpoints under the run folder, a live bar and logged rows."""
    config, x = run.config, jg.data.digits().train.x
    fit_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    rate = optax.cosine_decay_schedule(config.learning_rate, stage.num_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adamw(rate, weight_decay=stage.weight_decay, mask=jg.training.kernel_mask),
    )

    format_fn = harness.nats_and_bits(NUM_DIMS)
    with harness.training_bar(run, stage.name, stage.num_steps, format_fn=format_fn) as report:
        return harness.fit(
            fit_key,
            stage.params,
            loss,
            {"x": x},
            optimizer,
            num_steps=stage.num_steps,
            batch_size=config.batch_size,
            validate_fn=validate,
            patience=config.patience,
            average_decay=0.99,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints" / stage.name),
            report_fn=report,
        )


def baselines(data: jg.data.DataSet) -> dict[str, Metric]:
    """Independent pixels, fitted in closed form, and two general-purpose compressors."""
    model = jg.Independent(NUM_DIMS, NUM_SYMBOLS)
    params = jg.models.fit_independent(data.train.x, NUM_SYMBOLS)
    nats = -np.asarray(jax.jit(jg.log_prob)(model, params, data.test.x))
    raw = data.test.x.astype(np.uint8).tobytes()
    sizes = {
        "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "bzip2": len(bz2.compress(raw, 9)),
    }
    return {
        "independent/test_nats": harness.mean_metric(nats, "test"),
        "independent/test_bits_per_dim": harness.mean_metric(
            jg.objectives.bits_per_dim(-nats, NUM_DIMS), "test"
        ),
        **{
            f"{name}/bits_per_dim": Metric(8 * size / len(raw), None, len(data.test.x), "test")
            for name, size in sizes.items()
        },
    }


def evaluate_made(model: AutoregressiveModel, params: Params, x: np.ndarray) -> dict[str, Metric]:
    """The exact log-likelihood of the test split."""
    nats = -np.asarray(jax.jit(jg.log_prob)(model, params, x))
    return {
        "made/test_nats": harness.mean_metric(nats, "test"),
        "made/test_bits_per_dim": harness.mean_metric(
            jg.objectives.bits_per_dim(-nats, NUM_DIMS), "test"
        ),
    }


def evaluate_vae(
    model: LatentVariableModel, params: Params, x: np.ndarray, config: Config
) -> dict[str, Metric]:
    """Estimate the ELBO and the importance bound of the test split."""
    elbo_key, importance_key = jax.random.split(jax.random.key(config.seed + 1))
    num_samples = config.num_importance_samples
    elbo = jax.jit(functools.partial(jg.elbo, num_samples=20))
    bound = elbo(elbo_key, model, params, x).value
    estimate_fn = functools.partial(
        jg.objectives.importance_log_prob,
        num_samples=num_samples,
        chunk_size=min(20, num_samples),
    )
    estimate = jax.jit(estimate_fn)(importance_key, model, params, x)
    return {
        "vae/test_elbo_nats": harness.mean_metric(-np.asarray(bound), "test"),
        "vae/test_importance_nats": harness.mean_metric(-np.asarray(estimate.value), "test"),
    }


def criticize(
    run: harness.Run, model: AutoregressiveModel, params: Params, data: jg.data.DataSet
) -> dict[str, Metric]:
    """Ask whether the fit is believable, say so in a line, and draw what was found."""
    key = jax.random.key(run.config.seed + 3)
    result = jg.criticise(
        key,
        model,
        params,
        data.test.x,
        train=data.train.x,
        image_shape=SHAPE,
        num_samples=run.config.num_samples,
    )
    print(f"MADE {str(result).splitlines()[0]}")
    harness.write_text(run.path / "criticism.txt", f"{result}\n")
    run.note("criticism", run.path / "criticism.txt")
    run.save_figure(_criticism.page(result, SHAPE, "MADE, criticized"), "criticism.png")
    return _criticism.metrics("made", result, len(data.test.x))


def compress(
    run: harness.Run, model: AutoregressiveModel, params: Params, x: np.ndarray
) -> dict[str, Metric]:
    """Write the test split as one file, read it back in a new process, and compare."""
    jg.training.Checkpointer(run.path / "checkpoints" / "made_kept").save(0, params)
    data = jg.encode(model, params, x)
    harness.write_bytes(run.path / "test.jxg", data)
    run.note("compressed test split", run.path / "test.jxg")
    code = f"from experiments import digits; digits.read_back({str(run.path.absolute())!r})"
    subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, check=True)
    read = np.load(run.path / "decoded.npy", allow_pickle=False)
    return {
        "code/bits_per_dim": Metric(8 * len(data) / x.size, None, len(x), "test"),
        "code/bytes": Metric(len(data), None, len(x), "test"),
        "code/header_bytes": Metric(jg.coding.HEADER_BYTES),
        "code/round_trip": Metric(int(np.array_equal(read, x)), None, len(x), "test"),
    }


def read_back(path: str) -> None:
    """Decode the compressed file of a run folder, knowing nothing but the folder."""
    keep_compiled_programs()
    folder = pathlib.Path(path)
    settings = json.loads((folder / "config.json").read_text())
    made = build_made(Config(**{**settings, "run_dir": folder}))
    template = jax.jit(made.init)(jax.random.key(0), np.zeros((1, NUM_DIMS), np.int32))
    loaded = jg.training.Checkpointer(folder / "checkpoints" / "made_kept").load(template)
    assert loaded is not None
    x = jg.decode(made, loaded[1], (folder / "test.jxg").read_bytes())
    np.save(folder / "decoded.npy", x.astype(np.uint8), allow_pickle=False)


def draw_figures(
    run: harness.Run,
    models: tuple[AutoregressiveModel, LatentVariableModel],
    made_fit: jg.training.FitResult,
    vae_fit: jg.training.FitResult,
    x: np.ndarray,
) -> None:
    """Samples of both models, completions of test digits, learning curves."""
    keys = jax.random.split(jax.random.key(run.config.seed + 2), 4)

    @jax.jit
    def draw(made_params: Params, vae_params: Params) -> tuple[jax.Array, jax.Array]:
        uniforms = jax.random.uniform(keys[0], (32, NUM_DIMS))
        z = models[1].prior(vae_params).sample(seed=keys[1], sample_shape=(32,))
        vae_x = models[1].likelihood(vae_params, z).sample(seed=keys[2])
        return jg.samplers.quantile(models[0], made_params, uniforms).x, vae_x

    made_x, vae_x = jax.device_get(draw(made_fit.params, vae_fit.params))
    rows = [
        (label if i == 0 else "", part)
        for label, images in (
            ("test images", x[:32]),
            ("MADE samples", made_x),
            ("VAE samples", vae_x),
        )
        for i, part in enumerate(np.split(images, 2))
    ]
    figure = plots.image_rows(rows, SHAPE, NUM_SYMBOLS - 1, "Real and sampled digits")
    run.save_figure(figure, "samples.png")
    completions = complete(keys[3], models[0], made_fit.params, x[:16])
    figure = plots.image_rows(
        completions, SHAPE, NUM_SYMBOLS - 1, "The lower half drawn by MADE, given the upper half"
    )
    run.save_figure(figure, "completions.png")
    curves = {
        "MADE": (run.rows("made"), made_fit.best_step),
        "VAE": (run.rows("vae"), vae_fit.best_step),
    }
    run.save_figure(plots.learning_curves(curves, "nats per image"), "curves.png")


def complete(
    key: Key, model: AutoregressiveModel, params: Params, x: np.ndarray, num_completions: int = 4
) -> list[tuple[str, np.ndarray]]:
    """Rows for the figure: the images, what was observed, and ways to go on from there."""
    is_upper = np.broadcast_to(np.arange(NUM_DIMS) < NUM_DIMS // 2, x.shape)
    fill = jax.jit(jg.sample)
    drawn = [
        np.asarray(fill(k, model, params, observed=x, is_observed=is_upper).x)
        for k in jax.random.split(key, num_completions)
    ]
    rows = [("test images", x), ("observed", np.where(is_upper, x, np.nan))]
    return rows + [(f"completion {i + 1}", images) for i, images in enumerate(drawn)]


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
