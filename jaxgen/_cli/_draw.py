"""Draw from a model: from nothing, from a prompt, or around what is known."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg
from jaxgen import Bundle
from jaxgen._cli import _images as images
from jaxgen._cli import _text as text
from jaxgen._cli._open import check_autoregressive, open_bundle, read
from jaxgen._cli._settings import Fill, Sample
from jaxgen.core import Array, Key, Params, check_count, check_in_range
from jaxgen.core._files import write_bytes
from jaxgen.data import GrayLevels

_SEPARATOR = b"\n\n---\n\n"  # between one text and the next


def sample(settings: Sample) -> None:
    """Write images or texts drawn from a bundle.

    Raises:
      WeightsError: the bundle is damaged, or none.
      DataFormatError: a character of the prompt is unknown.
      ValueError: a flag is out of range or does not go with the bundle's kind.
    """
    transform_fn = _transform(settings)
    bundle = open_bundle(settings.bundle)
    key, vocabulary = jax.random.key(settings.seed), bundle.vocabulary
    if not isinstance(vocabulary, GrayLevels):
        assert isinstance(vocabulary, jg.data.CharacterVocabulary | jg.data.ByteVocabulary)
        prompt = text.encode(settings.prompt, vocabulary, text.Place("prompt"))
        return _write_texts(settings, bundle, prompt, settings.num_samples or 1)
    if settings.out is None or settings.prompt:
        raise ValueError("images need an out to be written to, and have no prompt")
    num_samples = 16 if settings.num_samples is None else settings.num_samples
    if transform_fn is not None:
        check_autoregressive(bundle, settings.bundle, "drawing with temperature or top_p")
    draw = jax.jit(lambda params: _drawn(key, bundle.model, params, num_samples, transform_fn))
    x = np.asarray(draw(bundle.params))
    images.write(settings.out, vocabulary.decode(x), vocabulary)
    print(f"{settings.out}: {num_samples} images")
    return None


def _drawn(key: Key, model: Any, params: Params, num_samples: int, transform_fn: Any) -> Array:
    """Return data points `[num_samples, D]`, of a latent-variable model by way of its prior."""
    if isinstance(model, jg.AutoregressiveModel):
        return jg.sample(key, model, params, num_samples, transform_fn=transform_fn).x
    prior_key, data_key = jax.random.split(key)
    z = model.prior(params).sample(seed=prior_key, sample_shape=(num_samples,))
    return model.likelihood(params, z).sample(seed=data_key)


def fill(settings: Fill) -> None:
    """Write completions of images or of a text; errors are those of `sample`, and of the files."""
    transform_fn = _transform(settings)
    check_in_range("share", settings.share, 0, 1)
    bundle = open_bundle(settings.bundle)
    check_autoregressive(bundle, settings.bundle, "fill")
    vocabulary = bundle.vocabulary
    symbols, _ = read(bundle, settings.data)
    if not isinstance(vocabulary, GrayLevels):
        return _write_texts(settings, bundle, symbols, settings.num_samples)
    if settings.out is None or settings.out.suffix.lower() not in (".png", ".npy"):
        raise ValueError("images need an out that ends in .png or .npy")
    x = symbols[: settings.num_images]
    is_observed = _is_observed(settings, vocabulary.image_shape)[None].repeat(len(x), axis=0)

    @jax.jit
    def draw(key: Array, params: Any) -> Array:
        return jg.sample(
            key,
            bundle.model,
            params,
            observed=jnp.asarray(x),
            is_observed=jnp.asarray(is_observed),
            transform_fn=transform_fn,
        ).x

    keys = jax.random.split(jax.random.key(settings.seed), settings.num_samples)
    drawn = [vocabulary.decode(np.asarray(draw(key, bundle.params))) for key in keys]
    if settings.out.suffix == ".npy":
        write_bytes(settings.out, images.as_npy(np.stack(drawn)))
    else:
        given = vocabulary.decode(x)
        mask = is_observed.reshape(given.shape)
        known = np.where(mask, given, vocabulary.max_intensity // 2).astype(given.dtype)
        rows = np.stack([given, known, *drawn], axis=1)
        sheet = rows.reshape(-1, *vocabulary.image_shape)
        images.write(settings.out, sheet, vocabulary, num_columns=rows.shape[1])
    print(f"{settings.out}: {settings.num_samples} completions of {len(x)} images")
    return None


def _transform(settings: Sample | Fill) -> Any:
    """Check the flags of a draw, and return what they do to logits, or None for nothing."""
    check_count("seed", settings.seed, minimum=0)
    check_count("length", settings.length)
    for name in ("num_samples", "num_images"):
        if getattr(settings, name, None) is not None:
            check_count(name, getattr(settings, name))
    check_in_range("temperature", settings.temperature, 0, np.inf, open_lower=True)
    check_in_range("top_p", settings.top_p, 0, 1, open_lower=True)
    if settings.temperature == 1 and settings.top_p == 1:
        return None

    def transform(logits: Array) -> Array:
        logits = jg.samplers.temper(logits, settings.temperature)
        return jg.samplers.keep_top_p(logits, settings.top_p) if settings.top_p < 1 else logits

    return transform


def _write_texts(
    settings: Sample | Fill, bundle: Bundle, prompt: np.ndarray, num_samples: int
) -> None:
    symbols = text.continued(
        jax.random.key(settings.seed),
        bundle.model,
        bundle.params,
        np.tile(prompt[None], (num_samples, 1)),
        settings.length,
        _transform(settings),
    )
    vocabulary: Any = bundle.vocabulary
    content = _SEPARATOR.join(text.as_bytes(one, vocabulary) for one in symbols)
    if settings.out is None:
        sys.stdout.buffer.write(content + b"\n")
    else:
        write_bytes(Path(settings.out), content)


def _is_observed(settings: Fill, shape: tuple[int, int]) -> np.ndarray:
    """Return which pixels are known, bool `[D]`."""
    is_known = np.zeros(shape, bool)
    rows, columns = (round(settings.share * size) for size in shape)
    if settings.observed == "top":
        is_known[:rows] = True
    elif settings.observed == "bottom":
        is_known[shape[0] - rows :] = True
    elif settings.observed == "left":
        is_known[:, :columns] = True
    else:
        is_known[:, shape[1] - columns :] = True
    return is_known.ravel()
