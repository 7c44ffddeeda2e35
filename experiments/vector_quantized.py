"""Turn digits into grids of codes, model the codes, and so generate: a VQ-VAE with its prior.

    python -m experiments.vector_quantized
    python -m experiments.vector_quantized --data mnist --num-channels 16 --num-steps 12000 \
        --weight-decay 0 --patience 120

About 1 minute on two CPU cores, with scikit-learn's 8×8 digits of 17 grey levels; MNIST takes half
an hour. First an autoencoder learns 4×4 codes for each image, its codebook following by moving
averages; then MADE learns the codes as an autoregressive model. Nats are those of a test image by
the bound log p(x) ≥ log p(x | z(x)) + log p(z(x)), which counts every nat that the codes cost
(lower is better). Expected, with the defaults: 93.3 nats, 60.3 for the image and 33.0 for its codes
(a VAE and MADE cost 85 on the same digits); all 16 codes in use, at a perplexity of 14.8; samples
that come from the prior alone. On MNIST 97.1 nats, 37.4 of them for the codes.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _harness as harness
from experiments import _images as images
from experiments._harness import Metric, mean_metric
from experiments._images import Images
from jaxgen import plots
from jaxgen.core.checks import check_count, check_in_range
from jaxgen.core.types import Array, Key, LatentVariableModel, Params
from jaxgen.data import digits
from jaxgen.data.batches import evaluation_batches, stacked_batch_indices
from jaxgen.models.autoregressive.made import MADE
from jaxgen.models.latent.vector_quantized import VectorQuantizedVAE, with_prior
from jaxgen.models.layers.convolutions import Convolutions
from jaxgen.objectives.likelihood import bits_per_dim, chain_log_prob
from jaxgen.objectives.vector_quantization import (
    commitment,
    moving_average_surrogate,
    perplexity,
    straight_through,
)
from jaxgen.training.checkpoint import Checkpointer
from jaxgen.training.loop import FitResult, Schedule, fit

CODEBOOK = ("code_sums", "code_counts")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of both trainings."""

    data: images.Name = "digits"
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
        for name in ("code_size", "num_channels", "prior_hidden", "num_steps", "patience"):
            check_count(name, getattr(self, name))
        check_count("num_codes", self.num_codes, minimum=2)
        check_in_range("batch_size", self.batch_size, 1, digits.NUM_TRAIN)
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
    module = VectorQuantizedVAE(
        data.test.shape[1],
        data.num_symbols,
        layers(data.shape, config.num_channels),
        config.num_codes,
        config.code_size,
    )
    prior = MADE(module.num_positions, config.num_codes, (config.prior_hidden,), 0.3)
    model = with_prior(module, prior)
    autoencoder = train_autoencoder(run, module, data)
    fitted = train_prior(run, prior, module, autoencoder.params, data)
    params = {"autoencoder": autoencoder.params, "prior": fitted.params}
    draw_figures(run, model, params, (autoencoder, fitted), data)
    return run.finish(measure(config, model, params, data.test))


def layers(shape: tuple[int, int], num_channels: int) -> Convolutions:
    """Convolutions that halve an image until it is at most 4 pixels high."""
    num_halvings = math.ceil(math.log2(shape[0] / 4))
    return Convolutions(shape, tuple(num_channels * 2**i for i in range(num_halvings)))


def codes_of(module: VectorQuantizedVAE, params: Params, x: Array) -> Array:
    """z(x), `[B, T]`."""
    return jnp.asarray(module.apply(params, x, method=lambda m, x: m.quantize(m.encode(x))))


def train_autoencoder(run: harness.Run, module: VectorQuantizedVAE, data: Images) -> FitResult:
    """Learn codes from which the images can be told."""
    config, valid_x = run.config, data.valid[:1000]

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        bits_key, revival_key = jax.random.split(key)
        x = images.symbols(bits_key, batch)

        def terms(m: VectorQuantizedVAE) -> Array:
            h = m.encode(x)
            z = m.quantize(h)
            vectors = m.vectors(z)
            log_prob = m.decode(straight_through(h, vectors)).log_prob(x)
            pull = jnp.sum(commitment(h, vectors), axis=-1)
            update = moving_average_surrogate(
                revival_key,
                m.code_sums,
                m.code_counts,
                h.reshape(-1, config.code_size),
                z.reshape(-1),
                decay=config.codebook_decay,
            )
            return jnp.mean(config.commitment_weight * pull - log_prob) + update

        return jnp.asarray(module.apply(params, method=terms))

    @jax.jit
    def validate(params: Params) -> Array:
        reconstructed: Any = module.apply(params, valid_x)
        return -jnp.mean(reconstructed.log_prob(valid_x))

    def label(path: tuple, leaf: Array) -> str:
        return "codebook" if path[-1].key in CODEBOOK else "network"

    optimizer = optax.multi_transform(
        {"network": network_optimizer(config), "codebook": optax.sgd(1 - config.codebook_decay)},
        lambda params: jax.tree.map_with_path(label, params),
    )
    params = module.init(jax.random.key(config.seed), valid_x[:1])
    return train(run, "autoencoder", params, data, loss, validate, optimizer)


def train_prior(
    run: harness.Run, prior: MADE, module: VectorQuantizedVAE, autoencoder: Params, data: Images
) -> FitResult:
    """Maximum likelihood of the codes, with dropout."""
    valid_z = codes_of(module, autoencoder, jnp.asarray(data.valid[:1000]))

    def loss(key: Key, params: Params, batch: dict, step: Array) -> Array:
        bits_key, dropout_key = jax.random.split(key)
        z = codes_of(module, autoencoder, images.symbols(bits_key, batch))
        logits = jnp.asarray(prior.apply(params, z, rngs={"dropout": dropout_key}))
        return -jnp.mean(chain_log_prob(logits, z))

    @jax.jit
    def validate(params: Params) -> Array:
        logits = jnp.asarray(prior.apply(params, valid_z))
        return -jnp.mean(chain_log_prob(logits, valid_z))

    params = prior.init(jax.random.key(run.config.seed), valid_z[:1])
    return train(run, "prior", params, data, loss, validate, network_optimizer(run.config))


def network_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with clipped gradients."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    return optax.chain(
        optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=config.weight_decay)
    )


def train(
    run: harness.Run,
    stage: str,
    params: Params,
    data: Images,
    loss: Callable,
    validate: Callable,
    optimizer: optax.GradientTransformation,
) -> FitResult:
    """Fit one of the two models with checkpoints, a live bar and logged rows."""
    config = run.config
    with harness.training_bar(run, stage, config.num_steps) as report:
        return fit(
            jax.random.key(config.seed),
            params,
            data.train,
            loss,
            optimizer,
            Schedule(config.num_steps, patience=config.patience),
            indices_fn=functools.partial(
                stacked_batch_indices,
                len(jax.tree.leaves(data.train)[0]),
                config.batch_size,
                config.seed,
            ),
            validate_fn=lambda params: float(validate(params)),
            average_decay=0.99,
            checkpointer=Checkpointer(run.path / "checkpoints" / stage),
            report_fn=report,
        )


def measure(
    config: Config, model: LatentVariableModel, params: Params, x: np.ndarray
) -> dict[str, Metric]:
    """The bound on the test split and its two parts, and the codes in use."""
    batches = evaluation_batches(len(x), min(500, len(x)))

    @jax.jit
    def nats(params: Params, x: Array) -> tuple[Array, Array, Array]:
        z = model.posterior(params, x).sample(seed=jax.random.key(0))  # a point mass
        return -model.likelihood(params, z).log_prob(x), -model.prior(params).log_prob(z), z

    parts = [nats(params, jnp.asarray(x[rows])) for rows in batches.indices]
    reconstruction, code, z = (np.concatenate(p)[: len(x)] for p in zip(*parts, strict=True))
    return {
        "test_nats": mean_metric(reconstruction + code, "test"),
        "test_bits_per_dim": mean_metric(bits_per_dim(-reconstruction - code, x.shape[1]), "test"),
        "test_reconstruction_nats": mean_metric(reconstruction, "test"),
        "test_code_nats": mean_metric(code, "test"),
        "code_perplexity": Metric(
            float(perplexity(jnp.asarray(z), config.num_codes)), None, len(x), "test"
        ),
    }


def draw_figures(
    run: harness.Run,
    model: LatentVariableModel,
    params: Params,
    fits: tuple[FitResult, FitResult],
    data: Images,
) -> None:
    """Images, what their codes keep, images from the prior, and both learning curves."""
    keys = jax.random.split(jax.random.key(run.config.seed + 2))
    x = data.test[:16]
    z = model.posterior(params, jnp.asarray(x)).sample(seed=keys[0])
    drawn = model.prior(params).sample(seed=keys[1], sample_shape=(32,))
    reconstructed, sampled = (np.asarray(model.likelihood(params, z).mean()) for z in (z, drawn))
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
    harness.run_experiment(Config, main)
