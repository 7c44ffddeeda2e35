"""Ask a model of clothes which images are its own, by its log-probability and by better scores.

    python -m experiments.likely_unlikely

About 20 minutes on two CPU cores. Models of Fashion-MNIST are asked which of its test images and of
MNIST's are their own. Areas are under the ROC curve: the probability that one of their own scores
higher; 0.5 is chance. The published Gated PixelCNN, which predicts a pixel from those around it,
calls nearly all digits likelier than clothes, the paradox of Nalisnick et al. (2019): digits are
simpler. Held against what a compressor makes of an image (Serrà et al. 2020) nearly all are told
apart. Models of the whole image, coarsely (14×14 pixels of 16 levels), call few digits likelier.
Expected of them: the log-probability takes a fifth of the pairs the wrong way, how typical it is
(Nalisnick et al. 2019) more; its spread over an ensemble (Choi et al. 2019) tells more, and its
ratio to that of a model of perturbed images (Ren et al. 2019) nearly all. The figures show the
distributions, the ROC curves, and where in an image the surprise is.
"""

import dataclasses
import lzma
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from experiments._mnist import PRETRAINED, made_up_images
from jaxgen.core import Array, Key, Params, check_count, check_in_range

SHAPE, NUM_SYMBOLS = (14, 14), 16
OF_NEIGHBORS = PRETRAINED / "fashion_mnist_gated_pixelcnn.safetensors"
COMPRESSOR: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9}]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    """Seed of trainings and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/likely_unlikely")
    """Folder of the run."""
    hidden_size: int = 500
    """Units of each model's hidden layer."""
    num_members: int = 3
    """Models of the ensemble; the first is the one that is asked alone."""
    num_steps: int = 4000
    """Training steps of each model."""
    perturbed_share: float = 0.2
    """Pixels drawn anew, uniformly, in the images that the simpler model learns."""
    num_points: int = 2000
    """Test images of either set, and draws of the model."""
    is_smoke: bool = False
    """Use made-up images, to see that every part works."""

    def __post_init__(self) -> None:
        """Check what no part checks before minutes of work are done."""
        for name in ("hidden_size", "num_steps", "num_points"):
            check_count(name, getattr(self, name))
        check_count("num_members", self.num_members, minimum=2)
        check_in_range("perturbed_share", self.perturbed_share, 0.0, 1.0)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds that goes through every part, without the data."""
        return cls(hidden_size=4, num_members=2, num_steps=4, num_points=20, is_smoke=True)


class Images(NamedTuple):
    """Symbols `[N, D]` of what is learned and of what is not."""

    train: np.ndarray
    inside: np.ndarray
    outside: np.ndarray


def main(config: Config) -> dict[str, Metric]:
    """Run everything; see the module docstring."""
    run = harness.start(config, "likely_unlikely")
    whole = load(config)
    images = Images(*map(coarse, whole))
    model = jg.MADE(SHAPE[0] * SHAPE[1], NUM_SYMBOLS, (config.hidden_size,))
    keys = jax.random.split(jax.random.key(config.seed), config.num_members + 2)
    members = [train(key, model, config, images.train, 0.0) for key in keys[: config.num_members]]
    simpler = train(keys[-1], model, config, images.train, config.perturbed_share)
    drawn = draw(keys[-2], model, members[0], config.num_points)
    scores = measure(model, members, simpler, images, drawn) | measure_by_neighbors(whole)
    curves = {name: jg.criticism.roc(s.inside, s.outside) for name, s in scores.items()}
    metrics = {
        f"area/{name}": Metric(curve.area, curve.standard_error, config.num_points, "test")
        for name, curve in curves.items()
    }
    nats = jax.tree.map(lambda x: -log_prob(model, members[0], x), images._replace(train=drawn))
    for name, values in zip(("samples", "clothes", "digits"), nats, strict=True):
        metrics[f"nats/{name}"] = harness.mean_metric(values, "test")
    bits = tuple(-x / np.log(2) / whole.inside.shape[1] for x in scores["of neighbors"])
    for name, values in zip(("clothes", "digits"), bits, strict=True):
        metrics[f"of neighbors/bits_per_dim/{name}"] = harness.mean_metric(values, "test")
    run.save_figure(draw_scores(nats, bits, curves), "scores.png")
    run.save_figure(draw_surprise(model, members[0], images), "surprise.png")
    return run.finish(metrics)


def load(config: Config) -> Images:
    """Return clothes to learn, clothes of the test split, and digits of it."""
    if config.is_smoke:
        clothes = digits = made_up_images()
    else:
        clothes, digits = jg.data.fashion_mnist(), jg.data.mnist()
    rows = np.random.default_rng(config.seed).permutation(len(clothes.test.x))
    rows = rows[: config.num_points]
    return Images(clothes.train.x, clothes.test.x[rows], digits.test.x[rows])


def coarse(x: np.ndarray) -> np.ndarray:
    """Average gray images of 28×28 pixels over 2×2, to 16 levels."""
    blocks = x.reshape(-1, *(SHAPE[0], 2, SHAPE[1], 2)).mean(axis=(2, 4))
    return (blocks // 16).astype(np.uint8).reshape(len(x), -1)


def train(
    key: Key, model: jg.MADE, config: Config, x: np.ndarray, perturbed_share: float
) -> Params:
    """Fit one model, of images in which a share of the pixels is drawn anew."""

    def loss(key: Key, params: Params, batch: Array, step: Array) -> Array:
        which_key, value_key = jax.random.split(key)
        is_new = jax.random.uniform(which_key, batch.shape) < perturbed_share
        new = jax.random.randint(value_key, batch.shape, 0, NUM_SYMBOLS, jnp.uint8)
        return -jnp.mean(model.log_prob(params, jnp.where(is_new, new, batch)))

    init_key, fit_key = jax.random.split(key)
    params = jg.models.set_output_bias(model, model.init(init_key, x[:1]), x)
    with harness.progress_bar("model", config.num_steps) as update:
        return harness.fit(
            fit_key,
            params,
            loss,
            x,
            optax.adamw(
                optax.cosine_decay_schedule(1e-3, config.num_steps),
                weight_decay=0.1,
                mask=jg.training.kernel_mask,
            ),
            num_steps=config.num_steps,
            batch_size=100,
            average_decay=0.999,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.1f} nats"),
        ).params


def draw(key: Key, model: jg.MADE, params: Params, num_samples: int) -> np.ndarray:
    """Draw images of the model."""
    u = jax.random.uniform(key, (num_samples, model.num_dims))
    return np.asarray(jax.jit(jg.samplers.quantile)(model, params, u).x)


@jax.jit
def batch_log_prob(model: Any, params: Params, x: Array) -> Array:
    """Return log p(x) of a batch."""
    return model.log_prob(params, x)


def log_prob(model: Any, params: Params, x: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Return log p(x) in nats, `[N]`."""
    return harness.evaluate(lambda x: batch_log_prob(model, params, x), x, batch_size=batch_size)


class Scores(NamedTuple):
    """A score of the model's own images and of others; higher for its own, if it is of use."""

    inside: np.ndarray
    outside: np.ndarray


def measure(
    model: jg.MADE, members: list[Params], simpler: Params, images: Images, drawn: np.ndarray
) -> dict[str, Scores]:
    """Return every score of test images of either kind."""
    own = log_prob(model, members[0], drawn)

    def of(score_fn: Callable[[np.ndarray], np.ndarray]) -> Scores:
        return Scores(score_fn(images.inside), score_fn(images.outside))

    def by_ensemble(x: np.ndarray) -> np.ndarray:
        return jg.criticism.waic(np.stack([log_prob(model, params, x) for params in members]))

    return {
        "log-probability": of(lambda x: log_prob(model, members[0], x)),
        "typicality": of(lambda x: jg.criticism.typicality(log_prob(model, members[0], x), own)),
        "likelihood ratio": of(
            lambda x: log_prob(model, members[0], x) - log_prob(model, simpler, x)
        ),
        "ensemble (WAIC)": of(by_ensemble),
    }


def measure_by_neighbors(images: Images) -> dict[str, Scores]:
    """Return scores of a model of neighboring pixels: alone, and against a compressor.

    What a compressor makes of an image says how simple it is: the negative log-probability of a
    model that knows of no clothes.
    """
    model, params = jg.load(OF_NEIGHBORS)
    alone, simple = (
        Scores(*(score_fn(x) for x in images[1:]))
        for score_fn in (lambda x: log_prob(model, params, x, batch_size=50), compressed_nats)
    )
    against = Scores(*(a + b for a, b in zip(alone, simple, strict=True)))
    return {"of neighbors": alone, "of neighbors, against xz": against}


def compressed_nats(x: np.ndarray) -> np.ndarray:
    """Return how long the code of each image is by itself, `[N]`, in nats."""
    sizes = [len(lzma.compress(row, lzma.FORMAT_RAW, filters=COMPRESSOR)) for row in x]
    return np.array(sizes) * 8 * np.log(2)


def draw_scores(
    nats: Images, bits: tuple[np.ndarray, ...], curves: dict[str, jg.criticism.ROC]
) -> Any:
    """Draw the distributions of both models' log-probabilities, and a ROC curve for each score."""
    figure, (left, middle, right) = plots.subplots(1, 3, figsize=(11.0, 3.4))
    draw_distributions(left, nats, ("samples", "clothes (test)", "digits (test)"))
    left.set(xlabel="nats (fewer are likelier)", title="A model of whole, coarse clothes")
    draw_distributions(middle, bits, ("clothes (test)", "digits (test)"), plots.COLORS[1:])
    middle.set(xlabel="bits a pixel (fewer are likelier)", title="A model of neighboring pixels")
    for (name, curve), color in zip(curves.items(), plots.COLORS, strict=False):
        label = f"{name}: {curve.area:.2f}"
        right.plot(curve.false_positive_rate, curve.true_positive_rate, color=color, label=label)
    right.plot([0, 1], [0, 1], color=plots.COLORS[6], linewidth=0.8, linestyle=":")
    right.set(xlabel="digits taken for clothes", ylabel="clothes known as such", title="ROC")
    right.legend(fontsize=7)
    return figure


def draw_distributions(
    axes: Any, values: Sequence[np.ndarray], names: Sequence[str], colors: Any = plots.COLORS
) -> None:
    """Draw a histogram of each."""
    lowest, highest = np.quantile(np.concatenate(values), [0.001, 0.999])
    edges = np.linspace(lowest, highest, 60)
    for name, own, color in zip(names, values, colors, strict=False):
        axes.hist(own, edges, density=True, histtype="step", color=color, label=name)
    axes.set(yticks=[])
    axes.legend(fontsize=8)


def draw_surprise(model: jg.MADE, params: Params, images: Images) -> Any:
    """Draw images of both kinds, and under each where its nats are."""
    x = np.concatenate([images.inside[:8], images.outside[:8]])
    log_probs = jg.criticism.conditional_log_probs(model, params, x)
    surprise = -np.take_along_axis(log_probs, x[..., None].astype(int), -1)[..., 0]
    highest = np.quantile(surprise, 0.995)
    rows = [
        ("images", x / (NUM_SYMBOLS - 1)),
        ("surprise", np.minimum(surprise / highest, 1.0)),
    ]
    title = f"Where the nats are: clothes, then digits (black: {highest:.1f} nats a pixel)"
    return plots.image_rows(rows, SHAPE, 1.0, title)


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
