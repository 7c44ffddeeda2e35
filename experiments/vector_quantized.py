"""Turn digits into grids of codes, model the codes, and so generate: a VQ-VAE with its prior.

    python -m experiments.vector_quantized
    python -m experiments.vector_quantized --data mnist --num-channels 16 --num-steps 12000 \
        --weight-decay 0 --patience 120

About 1 minute on two CPU cores, with scikit-learn's 8×8 digits of 17 gray levels; MNIST takes half
an hour. First an autoencoder learns 4×4 codes for each image, its codebook following by moving
averages; then MADE learns the codes as an autoregressive model. Nats are those of a test image by
the bound log p(x) ≥ log p(x | z(x)) + log p(z(x)), which counts every nat that the codes cost
(lower is better). It is valid and loose: of all codes that could have made an image it counts the
encoder's alone, so it is not to be held against the tight numbers of other models. Expected: about
a third of the nats for the codes; all codes in use; samples that come from the prior alone.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _images as images
from experiments import _plots as plots
from experiments._harness import Metric, mean_metric
from experiments._images import Images
from jaxgen.core import Array, Key, Params, check_count, check_in_range

CODEBOOK = ("code_sums", "code_counts")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of both trainings."""

    data: Literal["digits", "mnist"] = "digits"
    """The images."""
    seed: int = 0
    """Seed of initial weights, batches and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/vector_quantized")
    """Folder of the run; an unfinished run with the same settings is continued there."""
    num_codes: int = 16
    """K, the vectors in the codebook."""
    code_size: int = 8
    """Numbers in each vector of the codebook."""
    num_channels: int = 32
    """Feature maps of the autoencoder's first layer, twice as many after each halving."""
    commitment_weight: float = 1.0
    """Weight of the encoder's distance from its codes, in nats."""
    codebook_decay: float = 0.99
    """Decay of the moving averages behind the codebook, in [0, 1)."""
    prior_hidden: int = 256
    """Units of the prior's hidden layer."""
    num_steps: int = 2000
    """Training steps of each model at most."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 1e-3
    """Adam's highest learning rate; it falls to nothing along a cosine."""
    weight_decay: float = 1.0
    """Decoupled weight decay of both models, the codebook excepted."""
    patience: int = 8
    """Validations, 100 steps apart, without improvement after which a training stops."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        check_count("seed", self.seed, minimum=0)
        for name in ("code_size", "num_channels", "prior_hidden", "num_steps", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("patience", self.patience)
        check_count("num_codes", self.num_codes, minimum=2)
        check_in_range("codebook_decay", self.codebook_decay, 0.0, 1.0, open_upper=True)
        check_in_range("learning_rate", self.learning_rate, 0.0, 1.0, open_lower=True)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part."""
        return cls(
            num_codes=4, code_size=2, num_channels=4, prior_hidden=8, num_steps=100, batch_size=20
        )


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "vector_quantized")
    data = images.load(config.data)
    autoencoder = jg.VectorQuantizedVAE(
        data.test.shape[1],
        data.num_symbols,
        layers(data.shape, config.num_channels),
        config.num_codes,
        config.code_size,
    )
    prior = jg.MADE(autoencoder.num_positions, config.num_codes, (config.prior_hidden,), 0.3)
    model = jg.models.VectorQuantizedModel(autoencoder, prior)
    encoded = train_autoencoder(run, autoencoder, data)
    fitted = train_prior(run, model, encoded.params, data)
    params = {"autoencoder": encoded.params, "code_prior": fitted.params}
    draw_figures(run, model, params, (encoded, fitted), data)
    return run.finish(measure(config, model, params, data.test))


def layers(shape: tuple[int, int], num_channels: int) -> jg.models.Convolutions:
    """Convolutions that halve an image until it is at most 4 pixels high."""
    num_halvings = math.ceil(math.log2(shape[0] / 4))
    return jg.models.Convolutions(shape, tuple(num_channels * 2**i for i in range(num_halvings)))


def train_autoencoder(
    run: harness.Run, model: jg.VectorQuantizedVAE, data: Images
) -> jg.training.FitResult:
    """Learn codes from which the images can be told."""
    config, valid_x = run.config, jnp.asarray(data.valid[:1000])

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        x = images.symbols(key, batch)
        h = model.encode(params, x)
        vectors = model.vectors(params, model.quantize(params, h))
        copied = jg.objectives.copy_gradient(h, vectors)
        log_prob = model.decode(params, copied).log_prob(x)
        pull = jnp.sum(jg.objectives.commitment(h, vectors), axis=-1)
        return jnp.mean(config.commitment_weight * pull - log_prob)

    def update_codebook(key: Key, params: Params, batch: dict, step: Array) -> Params:
        bits_key, revival_key = jax.random.split(key)
        h = model.encode(params, images.symbols(bits_key, batch))
        sums, counts = (params["params"][name] for name in CODEBOOK)
        new = jg.objectives.moving_average_codebook(
            revival_key,
            sums,
            counts,
            h.reshape(-1, config.code_size),
            model.quantize(params, h).reshape(-1),
            decay=config.codebook_decay,
        )
        return {"params": {**params["params"], **dict(zip(CODEBOOK, new, strict=True))}}

    @jax.jit
    def validate(params: Params) -> Array:
        z = model.quantize(params, model.encode(params, valid_x))
        return -jnp.mean(model.likelihood(params, z).log_prob(valid_x))

    params = jax.jit(model.init)(jax.random.key(config.seed), valid_x[:1])
    return train(run, "autoencoder", params, data, loss, validate, update_codebook)


def train_prior(
    run: harness.Run, model: jg.models.VectorQuantizedModel, autoencoder: Params, data: Images
) -> jg.training.FitResult:
    """Maximize the likelihood of the codes, with dropout."""
    prior: Any = model.code_prior

    def codes(x: Array) -> Array:
        h = model.autoencoder.encode(autoencoder, x)
        return model.autoencoder.quantize(autoencoder, h)

    valid_z = jax.jit(codes)(data.valid[:1000])

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        bits_key, dropout_key = jax.random.split(key)
        z = codes(images.symbols(bits_key, batch))
        return -jnp.mean(prior.log_prob(params, z, dropout_key=dropout_key))

    @jax.jit
    def validate(params: Params) -> Array:
        return -jnp.mean(jg.log_prob(prior, params, valid_z))

    params = jax.jit(prior.init)(jax.random.key(run.config.seed), valid_z[:1])
    return train(run, "prior", params, data, loss, validate)


def train(
    run: harness.Run,
    stage: str,
    params: Params,
    data: Images,
    loss: Callable,
    validate: Callable,
    after_step_fn: Callable | None = None,
) -> jg.training.FitResult:
    """Fit one of the two models with checkpoints, a live bar and logged rows."""
    config = run.config
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)

    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=jg.training.kernel_mask),
    )
    with harness.training_bar(run, stage, config.num_steps) as report:
        return harness.fit(
            jax.random.key(config.seed),
            params,
            loss,
            data.train,
            optimizer,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            validate_fn=validate,
            patience=config.patience,
            average_decay=0.99,
            checkpointer=jg.training.Checkpointer(run.path / "checkpoints" / stage),
            report_fn=report,
            after_step_fn=after_step_fn,
        )


def measure(
    config: Config, model: jg.LatentVariableModel, params: Params, x: np.ndarray
) -> dict[str, Metric]:
    """The bound on the test split and its two parts, and the codes in use."""

    @jax.jit
    def nats(params: Params, x: Array) -> tuple[Array, Array, Array]:
        z = model.posterior(params, x).sample(seed=jax.random.key(0))  # a point mass
        return -model.likelihood(params, z).log_prob(x), -model.prior(params).log_prob(z), z

    reconstruction, code, z = harness.evaluate(lambda x: nats(params, x), x, batch_size=500)
    return {
        "test_nats": mean_metric(reconstruction + code, "test"),
        "test_bits_per_dim": mean_metric(
            jg.objectives.bits_per_dim(-reconstruction - code, x.shape[1]), "test"
        ),
        "test_reconstruction_nats": mean_metric(reconstruction, "test"),
        "test_code_nats": mean_metric(code, "test"),
        "code_perplexity": Metric(
            float(jax.jit(jg.objectives.code_usage, static_argnums=1)(z, config.num_codes)),
            None,
            len(x),
            "test",
        ),
    }


def draw_figures(
    run: harness.Run,
    model: jg.LatentVariableModel,
    params: Params,
    fits: tuple[jg.training.FitResult, jg.training.FitResult],
    data: Images,
) -> None:
    """Draw images, what their codes keep, images from the prior, and both learning curves."""
    keys = jax.random.split(jax.random.key(run.config.seed + 2))
    x = data.test[:16]

    @jax.jit
    def shown(params: Params, x: Array) -> Array:
        z = model.posterior(params, x).sample(seed=keys[0])
        drawn = model.prior(params).sample(seed=keys[1], sample_shape=(32,))
        return model.likelihood(params, jnp.concatenate([z, drawn])).mean()

    reconstructed, sampled = np.split(np.asarray(shown(params, x)), [16])
    rows = [
        ("test images", x),
        ("from codes", reconstructed),
        ("samples", sampled[:16]),
        ("", sampled[16:]),
    ]
    title = "Test images, what their codes keep, and samples of the prior"
    run.save_figure(plots.image_rows(rows, data.shape, data.num_symbols - 1, title), "samples.png")
    curves = {
        stage: (run.rows(stage), fitted.best_step)
        for stage, fitted in zip(("autoencoder", "prior"), fits, strict=True)
    }
    run.save_figure(plots.learning_curves(curves, "nats per image"), "curves.png")


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
