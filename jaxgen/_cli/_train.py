"""Fit a model to files."""

import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from jaxgen._cli import _files as files
from jaxgen._cli import _images as images
from jaxgen._cli import _text as text
from jaxgen._cli._progress import progress_bar
from jaxgen._cli._settings import Train
from jaxgen.core import Array, Key, Params, check_count, check_in_range
from jaxgen.training._checkpoint import CheckpointError

_NUM_FIRST = 2000  # data points behind the bias that training starts from
_TEXT_MODELS, _IMAGE_MODELS = ("transformer", "recurrence"), ("made", "pixelcnn", "vae")
_MOST_LOGITS = 32  # of more gray levels, a mixture says as much with fewer numbers


class Task(NamedTuple):
    """What there is to learn.

    Attributes:
      model: the model.
      vocabulary: what its symbols mean.
      source: what batches are drawn from, `[N]` places in a text or `[N, D]` images.
      batch_fn: `batch_fn(examples of source) -> symbols [B, D]`.
      first: some symbols, `[M, D]`.
      validate_fn: `params -> nats a symbol`, bounded from above for a latent-variable model; None
        where nothing is held out.
      unit: what a symbol is called.
      digest: of the data.
    """

    model: Any
    vocabulary: Any
    source: np.ndarray
    batch_fn: Callable[[Array], Array]
    first: np.ndarray
    validate_fn: Callable[[Params], float] | None
    unit: str
    digest: int


def train(settings: Train) -> None:
    """Fit, and write the bundle.

    Raises:
      DataNotFoundError, DataFormatError: the files are not there, or not what they should be.
      ValueError: a flag is out of range, or does not go with the data or the model.
    """
    _check(settings)
    task = _task(settings)
    folder = settings.out.with_name(f".{settings.out.name}.checkpoints")
    began = time.monotonic()
    try:
        result = _fit(settings, task, folder)
    except CheckpointError as error:
        raise ValueError(
            f"{error}\n{folder} is what a training with other flags or data left when it was cut "
            "off: give its flags to go on with it, or remove the folder"
        ) from error
    count = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    is_latent = isinstance(task.model, jg.LatentVariableModel)
    name = "validation_bound" if is_latent else "validation"
    held_out = {} if task.validate_fn is None else {name: result.validation}
    notes = {
        "data": settings.data.name,
        "num_steps": result.num_steps,
        "best_step": result.best_step,
        **{f"{name}_nats_per_{task.unit}": value for name, value in held_out.items()},
    }
    params = jax.device_get(result.params)
    jg.save(settings.out, task.model, params, vocabulary=task.vocabulary, metadata=notes)
    shutil.rmtree(folder)
    most = "at most " if is_latent else ""
    nats = "".join(
        f", {most}{_per_symbol(value, task.unit)} held out" for value in held_out.values()
    )
    print(
        f"{settings.out}: {type(task.model).__name__}, {count:,} parameters{nats}, "
        f"step {result.best_step} of {result.num_steps}, {time.monotonic() - began:.0f} s"
    )


def _check(settings: Train) -> None:
    """Check what no part checks before the data are read."""
    check_count("context", settings.context, minimum=2)  # one symbol is no window to slide
    for name in ("num_steps", "batch_size", "validate_every"):
        check_count(name, getattr(settings, name))
    for name in ("width", "num_layers", "num_latents", "patience", "max_intensity"):
        if (value := getattr(settings, name)) is not None:
            check_count(name, value)
    check_count("seed", settings.seed, minimum=0)
    check_in_range("valid_fraction", settings.valid_fraction, 0, 1, open_upper=True)
    check_in_range("dropout_rate", settings.dropout_rate, 0, 1, open_upper=True)
    check_in_range("weight_decay", settings.weight_decay, 0, np.inf, open_upper=True)
    if settings.learning_rate is not None:
        check_in_range("learning_rate", settings.learning_rate, 0, np.inf, open_lower=True)
    if settings.dropout_rate and settings.model in ("recurrence", "pixelcnn", "vae"):
        raise ValueError(f"model {settings.model} has no dropout_rate")
    if settings.num_latents is not None and settings.model != "vae":
        raise ValueError("num_latents is of model vae alone")
    if settings.patience is not None and not settings.valid_fraction:
        raise ValueError("patience counts validations: it needs a valid_fraction above 0")
    if settings.out.is_dir():
        raise ValueError(f"{settings.out}: is a folder; out names the file to write")


def _task(settings: Train) -> Task:
    is_image = files.is_images(settings.data)
    allowed = _IMAGE_MODELS if is_image else _TEXT_MODELS
    if settings.model not in (None, *allowed):
        kind = "images" if is_image else "text"
        raise ValueError(
            f"{settings.data} is of {kind}, whose models are {', '.join(allowed[:-1])} and "
            f"{allowed[-1]}, got {settings.model}"
        )
    return _image_task(settings) if is_image else _text_task(settings)


def _image_task(settings: Train) -> Task:
    found = images.read(settings.data)
    path, size = settings.data, len(found.pixels)
    levels = images.levels_of(found, settings.gray_levels, settings.max_intensity)
    x = images.encode(levels, found, path)
    num_valid = round(size * settings.valid_fraction)
    num_valid = max(num_valid, 1) if settings.valid_fraction else 0
    if size - num_valid < 1:
        raise ValueError(f"{path}: {size} images are too few to hold out any; --valid-fraction 0")
    order = np.random.default_rng(settings.seed).permutation(size)
    valid, fitted = x[order[:num_valid]], x[order[num_valid:]]
    model = _image_model(settings, levels)
    log_prob = jax.jit(lambda key, params, x: _log_likelihood(key, model, params, x))

    def validate(params: Params) -> float:
        nats = jg.training.evaluate(
            lambda key, x: log_prob(key, params, x),
            valid,
            batch_size=min(len(valid), 100),
            key=jax.random.key(settings.seed),
        )
        return float(-np.mean(nats) / levels.num_dims)

    fitted = fitted.astype(np.uint8 if levels.num_symbols <= 256 else np.int32)
    return Task(
        model,
        levels,
        fitted,
        lambda x: x.astype(jnp.int32),
        fitted[:_NUM_FIRST].astype(np.int32),
        validate if num_valid else None,
        "pixel",
        zlib.crc32(fitted.tobytes()),
    )


def _text_task(settings: Train) -> Task:
    data = jg.data.text(
        settings.data, settings.unit, valid_fraction=settings.valid_fraction, test_fraction=0.0
    )
    if data.vocabulary.num_symbols < 2 or len(data.train) < 2:
        raise ValueError(f"{settings.data}: nothing to learn from {len(data.train)} symbols")
    model = _text_model(settings, min(settings.context, len(data.train)), data.vocabulary)
    length, symbols = model.num_dims, jnp.asarray(data.train)
    starts = np.arange(len(data.train) - length + 1, dtype=np.int32)
    some = np.linspace(0, len(starts) - 1, min(_NUM_FIRST, len(starts))).astype(int)
    score = text.Scorer(model)
    return Task(
        model,
        data.vocabulary,
        starts,
        lambda start: symbols[start[:, None] + jnp.arange(length)[None]],
        data.train[some[:, None] + np.arange(length)],
        (lambda params: -float(np.mean(score(params, data.valid)))) if len(data.valid) else None,
        "character" if settings.unit == "characters" else "byte",
        zlib.crc32(data.train.tobytes()),
    )


def _image_model(settings: Train, levels: jg.data.GrayLevels) -> Any:
    num_symbols = levels.num_symbols
    mixture = jg.models.LogisticMixture(num_symbols) if num_symbols > _MOST_LOGITS else None
    if settings.model == "pixelcnn":
        return jg.GatedPixelCNN(
            levels.image_shape,
            num_symbols,
            width=settings.width or 32,
            num_layers=settings.num_layers or 6,
            conditional=mixture,
        )
    if settings.model == "vae":
        return jg.VAE(
            levels.num_dims,
            num_symbols,
            settings.num_latents or 32,
            (settings.width or 200,) * (settings.num_layers or 2),
            conditional=mixture,
        )
    return jg.MADE(
        levels.num_dims,
        num_symbols,
        hidden_sizes=(settings.width or 500,) * (settings.num_layers or 1),
        dropout_rate=settings.dropout_rate,
        conditional=mixture,
    )


def _text_model(settings: Train, length: int, vocabulary: Any) -> Any:
    width, num_layers = settings.width or 128, settings.num_layers or 4
    if settings.model == "recurrence":
        return jg.LinearRecurrence(length, vocabulary.num_symbols, width, num_layers)
    if width % 2:
        raise ValueError(f"width of a transformer must be even, got {width}")
    num_heads = next(n for n in (4, 3, 2, 1) if width % (2 * n) == 0)
    return jg.CausalTransformer(
        length,
        vocabulary.num_symbols,
        width,
        num_layers,
        num_heads,
        dropout_rate=settings.dropout_rate,
    )


def _log_likelihood(
    key: Key, model: Any, params: Params, x: Array, *, has_dropout: bool = False
) -> Array:
    """Return log p(x) in nats, `[B]`; of a latent-variable model an estimate of its lower bound."""
    if isinstance(model, jg.LatentVariableModel):
        return jg.elbo(key, model, params, x).value
    dropout = {"dropout_key": key} if has_dropout else {}
    return model.log_prob(params, x, **dropout)


def _fit(settings: Train, task: Task, folder: Path) -> jg.training.FitResult:
    model = task.model
    has_dropout = settings.dropout_rate > 0

    def loss(key: Key, params: Params, batch: Array, step: Array) -> Array:
        x = task.batch_fn(batch)
        nats = _log_likelihood(key, model, params, x, has_dropout=has_dropout)
        return -jnp.mean(nats) / model.num_dims

    init_key, fit_key = jax.random.split(jax.random.key(settings.seed))
    params = jax.jit(model.init)(init_key, task.first[:1])
    with progress_bar("training", settings.num_steps) as update:

        def report(step: int, numbers: dict[str, float]) -> None:
            names = [name for name in ("loss", "validation") if name in numbers]
            shown = (f"{name} {_per_symbol(numbers[name], task.unit)}" for name in names)
            update(step, ", ".join(shown))

        return jg.fit(
            jax.random.fold_in(fit_key, task.digest),  # a text is no part of the source
            jg.models.set_output_bias(model, params, task.first),
            loss,
            task.source,
            _optimizer(settings, task.unit == "pixel"),
            num_steps=settings.num_steps,
            batch_size=min(settings.batch_size, len(task.source)),
            validate_fn=task.validate_fn,
            validate_every=settings.validate_every,
            patience=settings.patience,
            average_decay=0.99,
            checkpointer=jg.training.Checkpointer(folder),
            report_fn=report,
        )


def _optimizer(settings: Train, is_image: bool) -> optax.GradientTransformation:
    highest = settings.learning_rate or (1e-3 if is_image else 3e-3)
    num_steps = settings.num_steps
    rate = optax.warmup_cosine_decay_schedule(0.0, highest, num_steps // 20, num_steps)
    adamw = optax.adamw(
        rate, b2=0.99, weight_decay=settings.weight_decay, mask=jg.training.kernel_mask
    )
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def _per_symbol(nats: float, unit: str) -> str:
    return f"{nats:.4f} nats ({nats / np.log(2):.4f} bits) per {unit}"
