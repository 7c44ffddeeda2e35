"""The chain rule: what dependence is worth in bits, for words and for small images.

    python -m experiments.chain_rule

About half a minute on two CPU cores. The words are those of 3 to 9 letters in Unicode 3.2's names
of characters, which come with Python (`--words names` takes first names from `$JAXGEN_DATA`
instead); the images are scikit-learn's digits, reduced to 4×4 bits. The model is one softmax for
each coordinate: it never needs a sum over the whole space, but in spaces this small one can be had.
Expected: the probabilities of all 65,536 images sum to one within 1e-5, and so do those of all
19,683 beginnings of three letters; held-out words cost 25.3 bits with letters drawn independently
and 22.8 bits by the chain rule, images 7.0 and 6.2 bits.
"""

import dataclasses
import itertools
import pathlib
import re
import unicodedata
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments import _plots as plots
from experiments._harness import Metric
from jaxgen.core import Array, AutoregressiveModel, Key, Params, categorical_log_prob, check_count

LETTERS = ".abcdefghijklmnopqrstuvwxyz"
"""The symbols of a word; the first ends it, and fills what is left."""

LONGEST = 9


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the run; the defaults give the published figure."""

    seed: int = 0
    """Seed of splits, initial weights, batches and draws."""
    run_dir: pathlib.Path = pathlib.Path("runs/chain_rule")
    """Folder of the run."""
    words: Literal["unicode", "names"] = "unicode"
    """Where the words come from: Unicode's names of characters, or first names."""
    hidden_size: int = 300
    """Units in each of the two hidden layers."""
    num_steps: int = 3000
    """Training steps at most."""

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("seed", self.seed, minimum=0)
        check_count("hidden_size", self.hidden_size)
        check_count("num_steps", self.num_steps)

    @classmethod
    def smoke(cls) -> "Config":
        """A run of seconds."""
        return cls(hidden_size=20, num_steps=50)


class Data(NamedTuple):
    """Symbols `[N, D]` in three parts, and how many values a symbol takes."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    num_symbols: int


def load_words(config: Config) -> Data:
    """Words as ten symbols each: the letters and what fills the rest; split 80/10/10."""
    if config.words == "names":
        source = jg.data.text("names")
        parts = (source.train, source.valid, source.test)
        found = set(str(source.vocabulary.decode(np.concatenate(parts))).split("\n"))
    else:
        # Below the syllables of Yi and Hangul, whose names are put together by rule.
        names = (unicodedata.ucd_3_2_0.name(chr(code), "") for code in range(0xA000))
        found = set(re.findall("[a-z]+", " ".join(names).lower()))
    words: list[str] = sorted(word for word in found if 3 <= len(word) <= LONGEST)
    x = np.array(
        [[LETTERS.index(c) for c in word.ljust(LONGEST + 1, ".")] for word in words], np.int32
    )
    x = x[np.random.default_rng(config.seed).permutation(len(x))]
    train, valid, test = np.split(x, [8 * len(x) // 10, 9 * len(x) // 10])
    return Data(train, valid, test, len(LETTERS))


def load_images() -> Data:
    """Digits averaged over blocks of 2×2 pixels and cut at level 4.5: 16 bits."""

    def reduce(x: np.ndarray) -> np.ndarray:
        blocks = x.reshape(-1, 4, 2, 4, 2).mean((2, 4))
        return (blocks > 4.5).reshape(-1, 16).astype(np.int32)

    data = jg.data.digits()
    return Data(reduce(data.train.x), reduce(data.valid.x), reduce(data.test.x), 2)


def train(key: Key, data: Data, config: Config, name: str) -> tuple[jg.MADE, Params]:
    """Fit a MADE by maximum likelihood, stopped by the validation part."""
    num_dims = data.train.shape[1]
    sizes = (config.hidden_size, config.hidden_size)
    letters = jg.models.unordered(data.num_symbols)
    model = jg.MADE(num_dims, data.num_symbols, sizes, 0.3, conditional=letters)

    def loss(key: Key, params: Params, batch: Array, step: Array) -> Array:
        return -jnp.mean(model.log_prob(params, batch, dropout_key=key))

    @jax.jit
    def validation(params: Params) -> Array:
        return -jnp.mean(model.log_prob(params, data.valid))

    init_key, fit_key = jax.random.split(key)
    params = jax.jit(model.init)(init_key, data.train[:1])
    rate = optax.cosine_decay_schedule(2e-3, config.num_steps)
    with harness.progress_bar(name, config.num_steps) as update:
        result = harness.fit(
            fit_key,
            jg.models.set_output_bias(model, params, data.train),
            loss,
            data.train,
            optax.adamw(rate, weight_decay=0.5, mask=jg.training.kernel_mask),
            num_steps=config.num_steps,
            batch_size=100,
            validate_fn=validation,
            patience=8,
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        )
    return model, result.params


class Costs(NamedTuple):
    """Bits of every coordinate of the test part, `[N, D]`, without and with the chain."""

    independent: np.ndarray
    chained: np.ndarray


def costs(data: Data, model: AutoregressiveModel, params: Params) -> Costs:
    """What each coordinate costs under both models."""
    plain = jg.Independent(data.test.shape[1], data.num_symbols)
    table = jg.models.fit_independent(data.train, data.num_symbols)

    def bits(model: AutoregressiveModel, params: Params) -> np.ndarray:
        def log_probs(params: Params, x: Array) -> Array:
            return categorical_log_prob(model.logits(params, x), x)

        return -np.asarray(jax.jit(log_probs)(params, data.test)) / np.log(2)

    return Costs(bits(plain, table), bits(model, params))


def total_probability(model: jg.MADE, params: Params, num_first: int) -> float:
    """Σ p over every value of the first coordinates; with all of them, over the whole space."""

    @jax.jit
    def log_probs(x: Array) -> Array:
        return jnp.sum(categorical_log_prob(model.logits(params, x), x)[:, :num_first], axis=1)

    num_symbols = model.num_symbols
    assert num_symbols is not None
    values = itertools.product(range(num_symbols), repeat=num_first)
    x = np.zeros((num_symbols**num_first, model.num_dims), np.int32)
    x[:, :num_first] = list(values)
    return float(np.exp(harness.evaluate(log_probs, x, batch_size=4096), dtype=np.float64).sum())


def draw_words(key: Key, model: AutoregressiveModel, params: Params, num: int) -> list[str]:
    """Words from a model, for people to look at."""
    x = np.asarray(jax.jit(jg.sample, static_argnums=3)(key, model, params, num).x)
    return ["".join(LETTERS[i] for i in row).partition(".")[0] for row in x]


def main(config: Config) -> dict[str, Metric]:
    """Fit words and images; count bits; sum over the space."""
    run = harness.start(config, "chain_rule")
    data = {"words": load_words(config), "images": load_images()}
    keys = jax.random.split(jax.random.key(config.seed), 4)
    fits = {
        name: train(key, d, config, name)
        for key, (name, d) in zip(keys[:2], data.items(), strict=True)
    }
    bits = {name: costs(data[name], *fits[name]) for name in data}
    metrics = {}
    for name, cost in bits.items():
        for kind, values in cost._asdict().items():
            metrics[f"{name}/{kind}/test_bits"] = harness.mean_metric(values.sum(1), "test")
        saved = (cost.independent - cost.chained).sum(1)
        metrics[f"{name}/saved_bits"] = harness.mean_metric(saved, "test")
    metrics["images/total_probability"] = Metric(total_probability(*fits["images"], 16))
    metrics["words/total_probability_of_3_letters"] = Metric(total_probability(*fits["words"], 3))
    plain = jg.Independent(LONGEST + 1, len(LETTERS))
    table = jg.models.fit_independent(data["words"].train, len(LETTERS))
    words = {
        "held out": [
            "".join(LETTERS[i] for i in row).strip(".") for row in data["words"].test[:12]
        ],
        "independent": draw_words(keys[2], plain, table, 12),
        "chained": draw_words(keys[3], *fits["words"], 12),
    }
    run.save_figure(draw(bits, words), "chain_rule.png")
    return run.finish(metrics)


def draw(bits: dict[str, Costs], words: dict[str, list[str]]) -> matplotlib.figure.Figure:
    """Bits of each letter and of each pixel, what the chain saves of them, words from both."""
    figure = matplotlib.figure.Figure((12, 4.8), layout="constrained")
    places: Any = [[*bits, "gain"], ["drawn"] * 3]
    axes = figure.subplot_mosaic(places, height_ratios=(1, 0.2))
    units = {"words": "letter", "images": "pixel"}
    for (name, cost), marker in zip(bits.items(), "^D", strict=True):
        unit, axis = units[name], axes[name]
        for place, (kind, values) in enumerate(cost._asdict().items()):
            label = f"{kind}: {values.sum(1).mean():.1f} bits"
            _draw_means(axis, values, 0.12 * (2 * place - 1), "os"[place], place, label)
        axis.set(
            xlabel=f"{unit}, in the order of the chain",
            ylabel=f"bits a {unit}",
            title=f"Held-out {name} (bars: 95 %)",
        )
        axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # the legend stands above the curves
        axis.legend(fontsize=8, loc="upper right")
        saved = cost.independent - cost.chained
        label = f"{name}: {saved.sum(1).mean():.2f} bits in all"
        _draw_means(axes["gain"], saved, 0.0, marker, 2 + list(bits).index(name), label)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes["gain"].axhline(0, color=plots.COLORS[6], lw=0.8)
    axes["gain"].set(
        xlabel="letter or pixel, in the order of the chain",
        ylabel="bits saved",
        title="Saved by the chain, paired (bars: 95 %)",
    )
    axes["gain"].set_ylim(top=1.3 * axes["gain"].get_ylim()[1])
    axes["gain"].legend(fontsize=8, loc="upper right")
    axes["gain"].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    _draw_words(axes["drawn"], words)
    return figure


def _draw_words(axis: Any, words: dict[str, list[str]]) -> None:
    axis.axis("off")
    for place, (name, column) in enumerate(words.items()):
        color, height = plots.COLORS[(6, 0, 1)[place]], 0.9 - 0.4 * place
        for x, text in ((0.0, f"words, {name}"), (0.16, "  ".join(column))):
            axis.text(x, height, text, va="top", fontsize=8.5, family="monospace", color=color)


def _draw_means(
    axis: Any, values: np.ndarray, shift: float, marker: str, color: int, label: str
) -> None:
    """Means of `[N, D]` over N, with 95 % bars, at 1 to D."""
    axis.errorbar(
        np.arange(1, values.shape[1] + 1) + shift,
        values.mean(0),
        1.96 * values.std(0, ddof=1) / len(values) ** 0.5,
        fmt=f"{marker}-",
        color=plots.COLORS[color],
        label=label,
        capsize=2,
        ms=4,
        lw=1,
    )


if __name__ == "__main__":
    harness.run_experiment(Config, main, trains=True)
